"""A run is reproducible, survives a kill, refuses what is not its own, and reports every figure of the contract."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import engine.training.epoch
import engine.training.fold
import engine.training.loop
from engine.checkpoint import LAST, load_checkpoint, restore_weights, save_last
from engine.config_file import load_config
from engine.errors import RunFailed
from engine.inputs import make_split
from engine.model.ensemble import Ensemble
from engine.score.metrics import METRICS
from engine.score.predict import load_run, predict_run, score_part, weighted_online_scores
from engine.score.risk import moments_of, risk_directions
from engine.training.loop import train
from engine.training.run import resumed_config
from engine.training.schedule import learning_rate
from engine.training.step.learner import make_learner
from loaders.errors import InputError
from loaders.gather import gather
from loaders.panel import open_panel
from loaders.tiers.choose import open_source
from tests.conftest import SMALL
from tests.panels import write_panel

QUIET = Console(quiet=True)
CONTRACT = {
    "ic", "icir", "rank_ic", "rank_icir", "rank_ic_se", "rank_ic_t", "decile_spread", "sharpe", "turnover", "days",
    "samples",
}  # fmt: skip


@pytest.fixture
def cache(small_cache):
    return small_cache


@pytest.fixture
def whole(small_run):
    """An unbroken run to compare with."""
    return small_run


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def splits(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())["splits"]


def command(cache: Path, run: Path, *more: str) -> list[str]:
    settings = [part for setting in SMALL for part in ("--set", setting)]
    return [sys.executable, "-m", "engine", "train", "--arrow", str(cache), "--out", str(run), *settings, *more]


def test_summary_has_the_contract(whole):
    summary = json.loads((whole / "summary.json").read_text())
    assert {
        "run_id", "cache_id", "config_hash", "git", "device", "seed", "params", "splits", "throughput",
    } <= set(summary)  # fmt: skip
    assert set(summary["splits"]) == {"valid", "test"}
    for horizons in summary["splits"].values():
        assert set(horizons) == {"1", "5"}
        assert all(set(values) == set(METRICS) >= CONTRACT for values in horizons.values())
    assert set(summary["throughput"]) == {
        "samples_per_s", "rows_per_s", "epoch_s", "data_wait_fraction", "validation_fraction", "device_utilization",
        "peak_memory_bytes", "peak_mapped_bytes",
    }  # fmt: skip
    assert list(whole.glob("events.out.tfevents.*"))
    assert len(lines(whole)) == 3


def test_it_learns_the_planted_signal(whole):
    assert splits(whole)["test"]["1"]["rank_ic"] > 0.3
    losses = [line["train"]["loss"] for line in lines(whole)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("tier", ["ring", "dali"])
def test_every_tier_and_a_copy_from_a_url_train_to_the_same_metrics(cache, whole, tmp_path, tier):
    if tier == "dali" and find_spec("nvidia.dali") is None:
        pytest.skip("DALI is not installed")
    shown = Console(record=True, width=200, file=open(os.devnull, "w"))  # noqa: SIM115
    settings = [*SMALL, f"data.tier={tier}", f"data.store={tmp_path / 'store'}"]
    run = train(load_config(None, settings, cache.as_uri()), tmp_path / "run", False, shown)
    assert lines(run) == lines(whole)
    assert splits(run) == splits(whole)
    assert f"loader: {tier} (asked for" in shown.export_text()


def test_an_altered_cache_stops_training_and_on_a_repaired_one_the_same_command_trains(cache, whole, tmp_path):
    altered, run = tmp_path / "cache", tmp_path / "run"
    shutil.copytree(cache, altered)
    rows = altered / "panel.arrow"
    content = bytearray(rows.read_bytes())
    content[len(content) // 2] ^= 1
    rows.write_bytes(content)
    done = subprocess.run(command(altered, run), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: \S*/cache/panel.arrow: checksum differs in chunk 0 .*[.] .*repeat the command\n", done.stderr
    )
    assert not run.exists()
    shutil.copy(cache / "panel.arrow", rows)
    again = subprocess.run(command(altered, run), capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr) == (0, "")
    assert splits(run) == splits(whole)

    os.truncate(rows, len(content) - 100)
    done = subprocess.run(command(altered, tmp_path / "other"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "panel.arrow" in done.stderr
    assert not (tmp_path / "other").exists()


def test_same_seed_same_figures_other_seed_other(cache, whole, tmp_path):
    again = train(load_config(None, SMALL, str(cache)), tmp_path / "again", False, QUIET)
    assert lines(again) == lines(whole)
    assert splits(again) == splits(whole)
    other = train(load_config(None, [*SMALL, "train.seed=1"], str(cache)), tmp_path / "other", False, QUIET)
    assert lines(other) != lines(whole)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_inside_an_epoch_and_resumed(cache, whole, tmp_path, number):
    run = tmp_path / "run"
    done = killed(number, 31, whole / "config.toml", run)
    if number == signal.SIGTERM:
        assert done.returncode == 1
        assert "stopped by SIGTERM in epoch 2" in done.stderr
        assert "--resume" in done.stderr
    else:
        assert done.returncode == -signal.SIGKILL
    state = load_checkpoint(run / "checkpoints" / LAST)[0]
    # A kill after the 31st step comes before that step's checkpoint; a signal stops with it.
    assert (state.step, state.epoch) == (30 if number == signal.SIGKILL else 31, 1)

    train(resumed_config(run, [], None), run, True, QUIET)
    assert lines(run) == lines(whole)
    assert splits(run) == splits(whole)


KILLED = """
import os, sys
from pathlib import Path
from engine.cli.app import main
from engine.training.epoch import EpochOfRun
number, at, config, run, *more = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
real, steps = EpochOfRun.count, 0

def count(*arguments):
    global steps
    steps += 1
    real(*arguments)
    if steps == at:
        os.kill(os.getpid(), number)

EpochOfRun.count = count
always = ["--set", "train.checkpoint_seconds=0"]
sys.argv = ["atft-engine", "train", "--config", config, "--out", run, *always, *more]
main()
"""


def killed(number: int, at: int, config: Path, run: Path, *more: object) -> subprocess.CompletedProcess[str]:
    """The command, which sends itself a signal after so many steps."""
    command = [sys.executable, "-c", KILLED, *map(str, (int(number), at, config, run, *more))]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_resuming_a_finished_run_keeps_its_lines(whole):
    before = lines(whole), splits(whole)
    train(resumed_config(whole, [], None), whole, True, QUIET)
    assert (lines(whole), splits(whole)) == before


def test_without_a_half_life_every_sample_is_trained_on_once_an_epoch(cache, tmp_path):
    panel = open_panel(cache)
    config = load_config(None, [*SMALL, "train.half_life=0", "train.blocks=0"], str(cache))
    run = train(config, tmp_path / "run", False, QUIET)
    part = make_split(config, panel).train
    rows = np.concatenate(
        [np.arange(r.start, r.stop) for r in (panel.rows_of(s, part.start, part.stop) for s in range(60))]
    )
    expected = ((panel.presence[rows] == 2) & np.isfinite(panel.targets[rows]).any(1)).sum()
    state, _ = load_checkpoint(run / "checkpoints" / LAST)
    assert state.samples == 3 * expected


@torch.no_grad()
def test_validation_covers_every_present_row_without_dropout(cache, whole):
    run, panel = load_run(whole), open_panel(cache)
    config, model = run.config, run.model
    part = make_split(config, panel).valid
    online = weighted_online_scores(config, panel, part, model.neutral)
    model.train()
    with open_source(panel, torch.device("cpu")) as source:
        scores = score_part(model, source, part, config).numpy()
        assert model.training
        assert np.array_equal(scores, score_part(model, source, part, config, online=online).numpy())
    row, model = 0, model.eval()
    from loaders.plan import Block

    for day in range(part.start, part.stop):
        batch = gather(panel, part, Block(day, np.arange(60)), 1, config.data.context)
        alone, _ = model(batch.x, (batch.presence > 0).float(), (batch.presence == 2).float())
        present = batch.presence[:, -1].numpy() > 0
        expected = alone[:, 0].numpy()[present] + online[row : row + present.sum()]
        np.testing.assert_allclose(scores[row : row + present.sum()], expected, atol=1e-5)
        row += int(present.sum())
    assert row == len(scores)


def test_learning_rate_warms_up_and_anneals():
    for progress, expected in ((0.05, 0.5), (0.1, 1.0), (0.55, 0.5), (1.0, 0.0)):
        assert learning_rate(1.0, 0.1, progress) == pytest.approx(expected)


def test_a_run_folder_is_never_overwritten(cache, whole):
    with pytest.raises(InputError, match="not empty"):
        train(load_config(None, SMALL, str(cache)), whole, False, QUIET)


def test_resume_refuses_other_settings_and_other_caches(cache, whole, tmp_path):
    with pytest.raises(InputError, match="configuration differs"):
        train(resumed_config(whole, ["train.epochs=9"], None), whole, True, QUIET)
    write_panel(tmp_path / "other", n_codes=60, n_days=160, seed=9)
    with pytest.raises(InputError, match="began on cache"):
        train(resumed_config(whole, [], str(tmp_path / "other")), whole, True, QUIET)
    with pytest.raises(InputError, match="no run to resume"):
        resumed_config(tmp_path / "nothing", [], None)


def test_config_and_cache_must_agree(whole, tmp_path):
    write_panel(tmp_path / "narrow", n_codes=60, n_days=160, n_features=4)
    write_panel(tmp_path / "far", n_codes=60, n_days=160, horizons=(1, 3))
    for name, word in (("narrow", "features"), ("far", "horizons")):
        with pytest.raises(InputError, match=word):
            train(load_config(whole / "config.toml", [], str(tmp_path / name)), tmp_path / "run", False, QUIET)
        with pytest.raises(InputError, match=word):
            predict_run(load_run(whole), open_panel(tmp_path / name), "test")
    assert not (tmp_path / "run").exists()


def test_files_of_another_run_are_refused(cache, whole, tmp_path):
    other = train(load_config(None, [*SMALL, "train.epochs=1"], str(cache)), tmp_path / "other", False, QUIET)
    (other / "checkpoints" / "best.safetensors").write_bytes((whole / "checkpoints" / "best.safetensors").read_bytes())
    with pytest.raises(InputError, match="another run"):
        load_run(other)


def test_a_loss_that_is_not_finite_fails_the_run(cache, tmp_path, monkeypatch):
    real = engine.training.epoch.phase_objective

    def poisoned(*arguments):
        return replace(real(*arguments), tau=torch.tensor(torch.nan))

    monkeypatch.setattr(engine.training.epoch, "phase_objective", poisoned)
    with pytest.raises(RunFailed, match="loss is nan"):
        train(load_config(None, SMALL, str(cache)), tmp_path / "run", False, QUIET)
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_missing_validation_figure_fails_the_run(tmp_path):
    write_panel(tmp_path / "cache", n_codes=15, n_days=160)
    with pytest.raises(RunFailed, match="RankIC is nan"):
        train(load_config(None, SMALL, str(tmp_path / "cache")), tmp_path / "run", False, QUIET)


def test_damaged_checkpoints_are_named(cache, tmp_path):
    path = tmp_path / "x.safetensors"
    for content in (b"", b"\x80\x04pickle", b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.safetensors"):
            load_checkpoint(path)
    with pytest.raises(InputError, match="no such"):
        load_checkpoint(tmp_path / "missing.safetensors")


def test_a_checkpoint_without_what_training_needs_is_named(whole, tmp_path):
    """Such as one of an earlier release, or a best checkpoint in the place of the last."""
    path = tmp_path / LAST
    path.write_bytes((whole / "checkpoints" / LAST).read_bytes())
    state, tensors = load_checkpoint(path)
    with make_learner(load_config(None, SMALL), 5, 2, torch.device("cpu")) as learner:
        restore_weights(learner.weights, tensors, path)
        for name in ("optimizer.mean", "optimizer.steps", "loss_sums"):
            with pytest.raises(InputError, match=f"{name} is missing"):
                restore_weights(learner.weights, {key: tensors[key] for key in tensors if key != name}, path)
        with pytest.raises(InputError, match=r"optimizer\.square is missing or of another shape"):
            restore_weights(learner.weights, tensors | {"optimizer.square": torch.zeros(2, 3)}, path)
    assert state.finished


def test_a_failed_save_keeps_the_last_checkpoint(whole, tmp_path, monkeypatch):
    path = tmp_path / LAST
    path.write_bytes((whole / "checkpoints" / LAST).read_bytes())
    state, _ = load_checkpoint(path)
    with make_learner(load_config(None, SMALL), 5, 2, torch.device("cpu")) as learner:
        weights = learner.weights

    def full(_partial, _path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        save_last(path, state, weights)
    assert path.read_bytes() == (whole / "checkpoints" / LAST).read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == [LAST]


PHASES = """
[[phases]]
name = "one horizon"
epochs = 1
horizon_weights = [1, 0]
off = ["normalisation", "market"]
[[phases]]
name = "whole"
epochs = 2
learning_rate = 1e-3
frozen = ["embedding"]
weights = { rank_ic = 0.5, ic = 0.3, sharpe = 0.1 }
blocks = 5
"""

PARTS = ["model.residual=true", "model.market_tokens=2"]


@pytest.fixture(scope="module")
def phased(small_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("phased")
    (folder / "c.toml").write_text(PHASES)
    settings = [*SMALL, *PARTS, "train.seeds=2", "train.ema=0.9", "train.accumulate=2"]
    config = load_config(folder / "c.toml", settings, str(small_cache))
    return train(config, folder / "run", False, QUIET)


def test_each_phase_does_what_it_says(phased):
    first, second, third = lines(phased)
    assert [line["phase"] for line in (first, second, third)] == ["one horizon", "whole", "whole"]
    assert first["off"] == ["normalisation", "market"]
    assert (second["off"], second["frozen"]) == ([], ["embedding"])
    assert first["valid_rank_ic"] == first["valid"]["1"]["rank_ic"]
    assert second["valid_rank_ic"] == pytest.approx(sum(second["valid"][h]["rank_ic"] for h in ("1", "5")) / 2)
    assert set(first["train"]) == {"loss", "rank_ic", "ic", "quantile"}
    assert set(third["train"]) == {"loss", "rank_ic", "ic", "sharpe"}
    assert second["best"]  # of another figure than the first phase's
    assert third["step"] - second["step"] == second["step"] - first["step"] == 5
    # The cosine from each phase's own learning rate: the last block of five in the second epoch of two.
    assert third["learning_rate"] == pytest.approx(learning_rate(1e-3, 0.05, 0.9))
    weights, _ = load_checkpoint(phased / "checkpoints" / LAST)
    assert (weights.phase, weights.phase_epoch, weights.finished) == (1, 2, True)


def test_a_phase_changes_what_it_trains_and_nothing_frozen(cache, phased, tmp_path):
    """The embedding after the second phase is that of a run that ends with the first."""
    (tmp_path / "c.toml").write_text(PHASES.split('[[phases]]\nname = "whole"')[0])
    settings = [*SMALL, *PARTS, "train.seeds=2", "train.ema=0.9", "train.accumulate=2"]
    short = train(load_config(tmp_path / "c.toml", settings, str(cache)), tmp_path / "run", False, QUIET)
    _, before = load_checkpoint(short / "checkpoints" / LAST)
    _, after = load_checkpoint(phased / "checkpoints" / LAST)
    for name, value in before.items():
        if not name.startswith("model.members."):
            continue
        part = name.split(".")[3]
        if part in ("embed", "residual"):
            assert torch.equal(value, after[name]), name
        elif part in ("layers", "norm", "market", "static"):
            assert not torch.equal(value, after[name]), name
        if part in ("norm", "market") and name.endswith(("mix", "token")):
            fresh = 0.0 if name.endswith("mix") else None
            assert fresh is None or bool((value == fresh).all()), name  # bypassed in the first phase


@pytest.mark.parametrize("step", [7, 12])
def test_phases_averages_and_members_resume_to_the_same_figures(phased, tmp_path, step):
    other = tmp_path / "other"
    assert killed(signal.SIGTERM, step, phased / "config.toml", other).returncode == 1
    assert not load_checkpoint(other / "checkpoints" / LAST)[0].finished
    train(resumed_config(other, [], None), other, True, QUIET)
    assert lines(other) == lines(phased)
    assert splits(other) == splits(phased)


def test_a_member_is_the_model_of_its_seed_alone(cache, tmp_path):
    """Blocks of its own in their own order, as many as they are, and its own schedule."""
    settings = [*SMALL, "train.epochs=1", "train.half_life=60", "data.block_codes=20", "train.blocks=0"]
    settings += ["train.learning_rate=1e-5"]  # so that rounding does not grow from step to step
    both = train(load_config(None, [*settings, "train.seeds=2"], str(cache)), tmp_path / "both", False, QUIET)
    _, together = load_checkpoint(both / "checkpoints" / LAST)
    steps, samples = [], 0
    for k in (0, 1):
        config = load_config(None, [*settings, f"train.seed={k}"], str(cache))
        run = train(config, tmp_path / str(k), False, QUIET)
        state, alone = load_checkpoint(run / "checkpoints" / LAST)
        steps.append(state.step)
        samples += state.samples
        torch.testing.assert_close(together["optimizer.mean"][k], alone["optimizer.mean"][0], rtol=1e-3, atol=1e-6)
        for name in (name for name in alone if name.startswith("model.members.")):
            found = together[name.replace("members.0", f"members.{k}")]
            torch.testing.assert_close(found, alone[name], rtol=1e-4, atol=1e-5 * state.step)
    state, _ = load_checkpoint(both / "checkpoints" / LAST)
    assert steps[0] != steps[1]  # or this could not find a schedule that is not the member's own
    assert (state.step, state.samples) == (max(steps), samples)


def test_a_plain_average_is_kept_of_the_last_epoch(cache, tmp_path, monkeypatch):
    seen, real = [], engine.training.epoch.train_step

    def train_step(learner, *arguments):
        found = real(learner, *arguments)
        seen.append(learner.weights.model.first.heads.weight.detach().clone())
        return found

    monkeypatch.setattr(engine.training.epoch, "train_step", train_step)
    config = load_config(None, [*SMALL, "train.epochs=2", "train.swa=0.5", "train.half_life=0"], str(cache))
    run = train(config, tmp_path / "run", False, QUIET)
    state, last = load_checkpoint(run / "checkpoints" / LAST)
    expected = torch.stack(seen[state.history[0]["step"] : state.step]).mean(0)
    torch.testing.assert_close(last["average.members.0.heads.weight"], expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(last["average.members.0.heads.weight"], last["model.members.0.heads.weight"], rtol=1e-4)


def test_scores_of_an_ensemble_can_be_predicted(cache, phased):
    run, panel = load_run(phased), open_panel(cache)
    config, model = run.config, run.model
    assert len(model.members) == 2
    assert config.train.seeds == 2
    with open_source(panel, torch.device("cpu")) as source:
        scores = score_part(model, source, make_split(config, panel).test, config).numpy()
    assert np.isfinite(scores).all()
    assert json.loads((phased / "summary.json").read_text())["params"] == sum(p.numel() for p in model.parameters())


def test_a_member_of_an_ensemble_can_be_predicted_alone(cache, phased):
    run, panel = load_run(phased), open_panel(cache)
    config, ensemble = run.config, run.model
    part = make_split(config, panel).test
    each = [predict_run(run, panel, "test", member).values for member in (0, 1)]
    with open_source(panel, torch.device("cpu")) as source:
        for member, values in zip(ensemble.members, each, strict=True):
            alone = Ensemble([member], ensemble.neutral, ensemble.deviations)
            expected = score_part(alone, source, part, config).numpy()
            np.testing.assert_array_equal(np.stack(list(values.values()), 1), expected)
    assert not np.array_equal(each[0][1], each[1][1])
    with pytest.raises(InputError, match="--member"):
        predict_run(run, panel, "test", 2)


def test_scores_are_neutralised_to_the_risk_factors_of_the_training_part(cache, tmp_path, monkeypatch):
    moments = []

    def any_risk(panel, part, device):
        assert part == make_split(config, panel).train
        moments.append(replace(moments_of(panel, part, device), noise=0.0))
        return moments[0]

    monkeypatch.setattr(engine.training.fold, "moments_of", any_risk)
    config = load_config(None, [*SMALL, "train.epochs=2", "model.risk_factors=2", "train.swa=0.5"], str(cache))
    run = train(config, tmp_path / "run", False, QUIET)
    (only,) = moments
    panel, trained = open_panel(cache), load_run(run)
    model = trained.model
    expected = torch.from_numpy(risk_directions(only, 2, []))
    assert expected.any(0).all()
    assert torch.equal(model.neutral.directions, expected)
    _, last = load_checkpoint(run / "checkpoints" / LAST)
    assert torch.equal(last["average.neutral.directions"], expected)

    part = make_split(config, panel).test
    with open_source(panel, torch.device("cpu")) as source:
        neutralised = score_part(model, source, part, config).numpy()
        model.neutral.directions.zero_()
        whole = score_part(model, source, part, config).numpy()
    assert not np.allclose(neutralised, whole, atol=1e-3)
    predicted = predict_run(load_run(run), panel, "test").values
    np.testing.assert_array_equal(np.stack(list(predicted.values()), 1), neutralised)

    train(resumed_config(run, [], None), run, True, QUIET)  # reads them from the checkpoint
    assert len(moments) == 1
