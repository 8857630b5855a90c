"""Ranks under torchrun are one process: the same losses and figures, resumed with any number; a dead one ends all."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from engine.checkpoint import LAST, load_checkpoint
from engine.config_file import load_config
from engine.distributed import SINGLE, World, sync_loss
from engine.training.loop import train
from engine.training.objective import make_objective, stacked
from engine.training.run import resumed_config
from kernels.rank_terms import SHARPE
from loaders.errors import InputError
from tests.panels import write_panel

SETTINGS = [
    "data.context=8", "data.block_days=8", "data.block_codes=24", "model.spans=[3]", "model.market_tokens=2",
    "objective.sharpe=0.1", "train.epochs=2", "train.refit=0.5", "train.ema=0.9", "train.seeds=2",
    "train.checkpoint_seconds=0", "train.learning_rate=1e-4",  # so that rounding does not grow from step to step
]  # fmt: skip
CPU = torch.device("cpu")
QUIET = Console(quiet=True)
# The engine's command, in which a rank may be killed after a number of steps; a rank that gives up is slow to leave, so
# that torchrun's signal to end finds it on its way out.
SCRIPT = """
import os, signal, sys, time
from contextlib import contextmanager
import engine.training.loop
from engine.cli.app import main
from engine.training.epoch import EpochOfRun
rank, number, at = os.environ["RANK"], *map(int, sys.argv[1:3])
del sys.argv[1:3]
real, steps = EpochOfRun.count, 0

def count(*arguments):
    global steps
    steps += 1
    real(*arguments)
    if at and steps == at and rank == "1":
        os.kill(os.getpid(), number)

open_inputs = engine.training.loop.open_inputs

@contextmanager
def slow_to_leave(*arguments):
    with open_inputs(*arguments) as inputs:
        try:
            yield inputs
        except Exception:
            time.sleep(2)
            raise

EpochOfRun.count, engine.training.loop.open_inputs = count, slow_to_leave
main()
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "cache"
    write_panel(folder, n_codes=60, n_days=220, signal=1.0)
    return folder


@pytest.fixture(scope="module")
def alone(cache, tmp_path_factory):
    return train(load_config(None, SETTINGS, str(cache)), tmp_path_factory.mktemp("runs") / "alone", False, QUIET)


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "train.py"
    path.write_text(SCRIPT)
    return path


def ranks(script: Path, *arguments: str, number: int = 0, at: int = 0) -> subprocess.CompletedProcess[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*torchrun, str(script), str(number), str(at), "train", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)


def fresh(cache: Path, run: Path) -> list[str]:
    return ["--arrow", str(cache), "--out", str(run), *(part for s in SETTINGS for part in ("--set", s))]


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def check_same(run: Path, other: Path) -> None:
    for found, expected in zip(lines(run), lines(other), strict=True):
        assert found["step"] == expected["step"]
        assert found["train"] == pytest.approx(expected["train"], abs=1e-5, rel=5e-5)  # a mean of -5 rounds more
        assert found["valid_rank_ic"] == pytest.approx(expected["valid_rank_ic"], abs=1e-4)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (run, other)]
    test, expected = (summary["splits"]["test"]["1"] for summary in summaries)
    assert test == pytest.approx(expected, abs=2e-2, rel=2e-2)
    a, b = (load_checkpoint(folder / "checkpoints" / LAST)[0] for folder in (run, other))
    assert (a.samples, a.step, a.epoch) == (b.samples, b.step, b.epoch)


def test_a_killed_rank_ends_the_job_and_one_process_resumes(cache, alone, script, tmp_path):
    run = tmp_path / "run"
    done = ranks(script, *fresh(cache, run), number=signal.SIGKILL, at=50)
    assert done.returncode != 0
    assert "another rank no longer answers" in done.stderr
    state, _ = load_checkpoint(run / "checkpoints" / LAST)
    assert 40 <= state.step <= 50
    assert not (run / "summary.json").exists()
    train(resumed_config(run, [], None), run, True, QUIET)
    check_same(run, alone)


def test_two_ranks_are_one_process_and_a_signal_to_one_stops_all_after_a_checkpoint(cache, alone, script, tmp_path):
    assert lines(alone)[-1]["step"] >= 60
    run = tmp_path / "run"
    done = ranks(script, *fresh(cache, run), number=signal.SIGTERM, at=30)
    assert done.returncode != 0
    assert "stopped by" in done.stderr
    assert load_checkpoint(run / "checkpoints" / LAST)[0].step == 31
    done = ranks(script, "--resume", "--out", str(run))
    assert done.returncode == 0, done.stderr
    check_same(run, alone)
    assert done.stdout.count("Sharpe: ") == 1  # one rank speaks


def test_a_network_and_a_term_of_the_users_own_are_shared_by_ranks(cache, script, tmp_path):
    """A term that gives a value per cross-section is the same whoever has the day."""
    own = [
        "model.name=tests.own_models:Market", "model.spans=[5, 10]", "model.market_tokens=0", "train.epochs=1",
        "train.refit=0", "train.blocks=12", "objective.own.squares={term='tests.own_models:squares', weight=0.1}",
    ]  # fmt: skip
    settings = [*fresh(cache, tmp_path / "run"), *(part for setting in own for part in ("--set", setting))]
    done = ranks(script, *settings)
    assert done.returncode == 0, done.stderr
    train(load_config(None, [*SETTINGS, *own], str(cache)), tmp_path / "alone", False, QUIET)
    check_same(tmp_path / "run", tmp_path / "alone")
    assert done.stdout.count("network tests.own_models:Market") == 1


def test_days_are_shared_evenly_or_not_at_all():
    assert [list(World(rank, 3).days(6)) for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]
    assert SINGLE.days(5) == range(5)
    with pytest.raises(InputError, match=r"data\.block_days"):
        World(0, 3).days(32)


@pytest.mark.parametrize("sharpe", [0.0, 0.4])
def test_synced_terms_are_those_of_all_days(monkeypatch, sharpe):
    """Without processes: what each rank would say is put into the other's ears. Of two members at once."""
    horizon_weights = ([1, 0.5], [0.2, 1])
    each = [
        make_objective(
            load_config(None, [f"objective.sharpe={sharpe}", f"objective.horizon_weights={weights}"]), 2, CPU
        )
        for weights in horizon_weights
    ]
    objective = stacked(each)
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 30, 6, 2, generator=random).requires_grad_()
    quantiles = torch.randn(2, 30, 6, 2, 3, generator=random).requires_grad_()
    returns = torch.randn(2, 30, 6, 2, generator=random)
    returns[torch.rand(2, 30, 6, 2, generator=random) < 0.3] = torch.nan
    returns[:, 1:, 5] = torch.nan  # a day of one name
    none = torch.empty(0, dtype=torch.int32)
    alone = [one(scores[k], quantiles[k], returns[k], none) for k, one in enumerate(each)]
    loss, terms = (torch.stack(values) for values in zip(*alone, strict=True))
    expected = torch.autograd.grad(loss.sum(), (scores, quantiles))

    parts = [slice(0, 3), slice(3, 6)]
    of_rank = [objective.of_rank(scores[:, :, p], quantiles[:, :, p], returns[:, :, p], none) for p in parts]
    said: list[torch.Tensor] = []
    monkeypatch.setattr(World, "all_gather", lambda _world, values: said.append(values) or torch.stack([values] * 2))
    arguments = (objective.weights[:, SHARPE], objective.horizons, torch.zeros(1))
    for rank in (0, 1):
        sync_loss(World(rank, 2), of_rank[rank], *arguments)
    results = torch.stack(said)
    monkeypatch.setattr(World, "all_gather", lambda _world, _values: results)
    total = 0.0
    for rank in (0, 1):
        mine, values, stopped = sync_loss(World(rank, 2), of_rank[rank], *arguments)
        total = total + mine.sum()
        torch.testing.assert_close(values, torch.cat([loss.detach()[:, None], terms], 1), equal_nan=True)
        assert not stopped
    for found, wanted in zip(torch.autograd.grad(total, (scores, quantiles)), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)
