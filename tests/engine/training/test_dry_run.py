"""The dry run: what it checks, what it projects, and that it keeps nothing."""

from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

import engine.training.dry_run
from engine.cli.app import app
from engine.config_file import load_config
from engine.errors import RunFailed
from engine.model.optimizer import StepSizes, layout_of, make_adamw
from engine.training.dry_run import checklist, dry_run
from engine.training.loop import EpochResult
from loaders.cache.simulation.simulate import simulate

SHORT = ["data.context=8", "data.block_days=8", "data.block_codes=30", "model.spans=[3]", "train.learning_rate=0.01"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dry") / "cache"
    simulate(folder, 60, 300, 4, 0.2, 3, [1, 5], "float32")
    return folder


def found(items):
    return {item.name: item for item in items}


def test_a_sound_configuration_passes_and_leaves_nothing(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine.training.dry_run, "MOST_WAIT", 1.0)  # blocks this small are waited for
    items = found(dry_run(load_config(None, [*SHORT, f"data.arrow={cache}"]), Console(quiet=True)))
    assert not list(tmp_path.iterdir())
    assert {name for name, item in items.items() if item.ok} == {"data wait", "loss falls", "gradients", "peak memory"}
    assert items["device utilisation"].ok is None
    assert items["gradients"].found == "zero: none; not finite: none"


def test_the_run_is_projected_from_the_second_epoch(cache, monkeypatch):
    """Epochs of 2 s for 4 blocks and 3 s of validation, by hand.

    An epoch of 10 blocks takes 10 x 0.5 + 3 = 8 s. The parts have 45 - 7 = 38 and 60 of the 300 days, so six epochs and
    the last evaluation take 6 x 8 + 3 x (1 + 60 / 38) = 55.7 s. A refit takes 4 x 10 x 0.5 s, but trials have none.
    """
    more = ["train.epochs=6", "train.blocks=10", "train.refit=0.7"]
    config = load_config(None, [*SHORT, f"data.arrow={cache}", *more])
    first = EpochResult({}, 4, {"train": 9.0, "wait": 0.0, "validation": 9.0})
    second = EpochResult({}, 4, {"train": 2.0, "wait": 0.0, "validation": 3.0})
    monkeypatch.setattr(engine.training.dry_run, "epochs", lambda run: iter([first, second]))
    monkeypatch.setattr(engine.training.dry_run, "_checks", lambda *_: [])
    items = found(dry_run(config, Console(quiet=True)))
    assert items["an epoch"].found == "0:00:08, 38% of it validation"
    assert items["the run"].found == "0:01:16"
    assert items["20 trials"].found == "0:18:35"


def test_gradients_that_are_zero_or_not_finite_are_named():
    used, idle, sick = (nn.Linear(3, 3) for _ in range(3))
    model = nn.ModuleDict({"used": used, "idle": idle, "sick": sick})
    optimizer = make_adamw([model], [])
    x = torch.ones(2, 3)
    (used(x).sum() + 0 * idle(x).sum() + sick(x).sum()).backward()
    optimizer.step(StepSizes(*torch.ones(5, 1, 1)))
    layout_of(model).views(optimizer.square[0])["sick.weight"][1, 2] = torch.inf
    ensemble = SimpleNamespace(members=[model])
    learner = SimpleNamespace(weights=SimpleNamespace(model=ensemble, optimizer=optimizer))
    without, broken = engine.training.dry_run._gradients(SimpleNamespace(learner=learner))
    assert (without, broken) == (["members.0.idle.weight"], ["members.0.sick.weight"])


def test_the_command_fails_where_a_check_does(cache, monkeypatch):
    monkeypatch.setattr(engine.training.dry_run, "MOST_WAIT", -1.0)
    arguments = ["train", "--dry-run", "--arrow", str(cache)]
    for setting in SHORT:
        arguments += ["--set", setting]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, RunFailed)
    assert "data wait" in str(done.exception)
    assert "FAILED" in done.output


def test_a_checklist_marks_every_line():
    items = [engine.training.dry_run.Item(name, "x", ok=ok) for name, ok in (("a", True), ("b", False), ("c", None))]
    console = Console(width=80, record=True, quiet=True)
    console.quiet = False
    with console.capture() as capture:
        console.print(checklist(items))
    heading, _, *lines = [line for line in capture.get().splitlines() if line.strip()]
    assert heading.split() == ["check", "found", "wanted"]
    assert [line[: heading.index("check")].strip() for line in lines] == ["ok", "FAILED", ""]
