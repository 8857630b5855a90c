"""The dry run: two short epochs of the real configuration, a checklist, and projections for the whole run.

It does what a run does, on a few blocks of training and the whole validation part, and keeps nothing.
"""

import os
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table

from engine.config import Config
from engine.dates import span_text, spans_of
from engine.distributed import open_world
from engine.inputs import open_inputs
from engine.model.optimizer import layout_of
from engine.rivals.beside import check_trees
from engine.score.tables import plain_table
from engine.screen.console import QUIET
from engine.training.fold import make_fold
from engine.training.loop import EpochResult, epochs
from engine.training.objective import draw_rotations
from engine.training.refit import refit_epochs
from engine.training.run import Run, lost_ranks_explained, open_run, phase_objective, plan_of
from engine.training.schedule import phases_of
from engine.training.tracking import throughput
from loaders.batch import Request
from loaders.cache.format import SCORED
from loaders.progress import Progress, quiet

BLOCKS = 32  # of an epoch
MOST_WAIT = 0.05  # share of the training time, beyond which the loader holds the device up
LEAST_UTILIZATION = 0.6
LEAST_FALL = 0.01  # of the loss on the blocks that were trained on; noise alone makes less
MOST_MEMORY = 0.9  # of the device's, or the machine's
TRIALS = 20  # of a study, for the projection


@dataclass(frozen=True)
class Item:
    """A line of the checklist."""

    name: str
    found: str
    wanted: str = ""
    ok: bool | None = None  # None: shown, not checked


def dry_run(config: Config, console: Console, progress: Progress = quiet) -> list[Item]:
    """Two short epochs of a training; of its first phase, where it has several.

    Raises what `engine.training.loop.train` raises: InputError for bad input, RunFailed for a loss that is not finite.
    """
    with (
        open_world(config.train.device) as (world, device),
        lost_ranks_explained(None),
        open_inputs(config, device, progress) as inputs,
        TemporaryDirectory(prefix="atft-dry-run-") as folder,
    ):
        console = console if world.first else QUIET
        fold = make_fold(config, inputs.panel, inputs.device)
        check_trees(config, inputs.panel, fold.split)
        with open_run(
            _short(config), inputs, fold, Path(folder) / "run", False, console, world, progress=progress
        ) as run:
            before = _loss(run)
            _, last = epochs(run)
            return [*_checks(run, last, before, _loss(run)), *_projections(run, config, last)]


def checklist(items: list[Item]) -> Table:
    """The items as a table."""
    table = plain_table()
    for column in ("", "check", "found", "wanted"):
        table.add_column(column)
    marks = {True: "ok", False: "FAILED", None: ""}
    for item in items:
        table.add_row(marks[item.ok], item.name, item.found, item.wanted)
    return table


def _short(config: Config) -> Config:
    train = config.train.model_copy(update={"epochs": 2, "blocks": BLOCKS, "patience": 2})
    phases = tuple(phase.model_copy(update={"epochs": 2, "blocks": BLOCKS}) for phase in config.phases[:1])
    return config.model_copy(update={"train": train, "phases": phases})


@torch.no_grad()
def _loss(run: Run) -> float:
    """Mean loss of the first model, dropout off, on the blocks of the first epoch: the same ones at any time."""
    learner, config = run.learner, run.config
    objective = phase_objective(config, run.phases[0], len(run.state.horizons), run.inputs.device)
    member = learner.weights.model.members[0]
    blocks = run.plans[0].epoch(0)[:BLOCKS]
    member.eval()
    losses: list[float] = []
    request = Request(run.fold.split.train, blocks, config.data.block_days, config.data.context)
    with run.inputs.source.load(request) as loader:
        for batch in loader:
            scores, quantiles = member(batch.x, (batch.presence > 0).float(), (batch.presence == SCORED).float())
            rotations = draw_rotations(objective, len(batch.y), 0, len(losses), run.inputs.device)
            losses.append(float(objective(scores, quantiles, batch.y, rotations)[0]))
    member.train()
    return fmean(losses)


def _checks(run: Run, second: EpochResult, before: float, after: float) -> list[Item]:
    device = run.inputs.device
    measured = throughput(run.state, device, run.usage)
    wait = second.seconds["wait"] / second.seconds["train"]
    use, peak = run.usage.last_utilization, measured["peak_memory_bytes"]
    assert peak is not None
    room = _memory(device)
    validated = span_text(spans_of(run.fold.split, run.fold.panel.calendar)["valid"])
    without, broken = _gradients(run)
    bad = f"zero: {', '.join(without) or 'none'}; not finite: {', '.join(broken) or 'none'}"
    return [
        Item("data wait", f"{wait:.1%}", f"at most {MOST_WAIT:.0%}", wait <= MOST_WAIT),
        Item(
            "device utilisation",
            "not measured" if use is None else f"{use:.0%}",
            f"at least {LEAST_UTILIZATION:.0%}",
            None if use is None else use >= LEAST_UTILIZATION,
        ),
        Item(
            "loss falls",
            f"from {before:.4f} to {after:.4f} on the same blocks, by {1 - after / before:.1%}",
            f"at least {LEAST_FALL:.0%}",
            after <= (1 - LEAST_FALL) * before,
        ),
        Item("gradients", bad, "none of either", not without and not broken),
        Item(
            "peak memory", f"{peak / 1e9:.1f} GB of {room / 1e9:.1f}", f"at most {MOST_MEMORY:.0%}",
            peak <= MOST_MEMORY * room,
        ),
        Item("validation RankIC", f"{second.line['valid_rank_ic']:.4f} on {validated}"),
    ]  # fmt: skip


def _gradients(run: Run) -> tuple[list[str], list[str]]:
    """Names of matrices that never had a gradient, and of those that had one which is not finite.

    The optimizer's mean square of the gradients remembers all of them. Biases are left out: of some, such as those in
    front of a softmax, the gradient is zero by right.
    """
    without, broken = [], []
    weights = run.learner.weights
    optimizer = weights.optimizer
    layout = layout_of(weights.model.members[0])
    for k, trained in enumerate(optimizer.trained.tolist()):
        squares = layout.views(optimizer.square[k])
        for (name, square), on in zip(squares.items(), trained, strict=True):
            if not on or square.dim() < 2:
                continue
            if not torch.isfinite(square).all():
                broken.append(f"members.{k}.{name}")
            elif not square.any():
                without.append(f"members.{k}.{name}")
    return without, broken


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _projections(run: Run, config: Config, epoch: EpochResult) -> list[Item]:
    per_block, every = epoch.seconds["train"] / epoch.blocks, max(len(plan.epoch(0)) for plan in run.plans)
    split, validation = run.fold.split, epoch.seconds["validation"]
    seconds = validation * (1 + len(split.test) / len(split.valid))  # the best model at the end
    for phase in phases_of(config):
        seconds += phase.epochs * (per_block * min(phase.blocks or every, every) + validation)
    both = len(plan_of(config, replace(run.fold, split=split.refit())).epoch(0))
    last = phases_of(config)[-1]
    refit = refit_epochs(config, last) * per_block * min(last.blocks or both, both)
    first = phases_of(config)[0]
    an_epoch = per_block * min(first.blocks or every, every) + validation
    return [
        Item("an epoch", f"{_time(an_epoch)}, {validation / an_epoch:.0%} of it validation"),
        Item("the run", _time(seconds + refit), f"without early stopping{' and trees' * (config.trees.kind != 'off')}"),
        Item(f"{TRIALS} trials", _time(TRIALS * seconds), "without pruning; trials have no refit"),
    ]


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
