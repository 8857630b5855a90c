"""Training: blocks in, a run folder out. The loop reads top to bottom in `train`; everything it decides is in State."""

import json
import math
import secrets
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from engine.checkpoint import (
    AVERAGE,
    BEST,
    LAST,
    State,
    load_checkpoint,
    restore_model,
    restore_optimizers,
    save_checkpoint,
    write_atomically,
)  # fmt: skip
from engine.config import Config, config_hash, load_config, to_toml
from engine.distributed import ALONE, RankLost, World, open_world
from engine.evaluate import PartSamples, figures_of_part, part_samples
from engine.inputs import Inputs, open_inputs, resolve
from engine.metrics import Figures
from engine.model.ensemble import Ensemble, seeds_of
from engine.objective import Objective, draw_rotations, make_objective
from engine.phases import Phase, averaging, learning_rate, phases_of
from engine.predict import score_part
from engine.step import Learner, Lesson, learn, losses_of, make_learner
from engine.tracking import (
    device_name,
    finite,
    git_revision,
    live,
    log_scalars,
    throughput,
    write_metrics,
)  # fmt: skip
from kernels.rank_terms import TERMS
from loaders.delivery import AHEAD, Delivery, Loaded, Stages, together
from loaders.errors import InputError
from loaders.panel import Panel
from loaders.plan import Block, Epoch, Plan, count_samples
from loaders.split import Days


class RunFailed(Exception):
    """A training that cannot go on, such as a loss that is no longer finite. Exit code 1."""


class Stopped(Exception):
    """Ctrl-C or SIGTERM; the run's state has been saved. Exit code 1."""


@dataclass(frozen=True)
class Training:
    """What a run works with; where it stands is in `state`, all else stays as it is."""

    config: Config
    inputs: Inputs
    folder: Path
    state: State
    phases: list[Phase]
    learner: Learner
    running: Tensor  # [1 + 8] float64, sums over the epoch's blocks of the loss and its terms
    plans: list[Plan]  # of each member
    stop: list[int]  # signals received
    console: Console
    writer: Any  # TensorBoard's, of the first rank
    world: World

    @property
    def phase(self) -> Phase:
        return self.phases[self.state.phase]

    def save(self, name: str) -> None:
        """Write a checkpoint, on the first rank."""
        learner = self.learner
        if not self.world.first:
            return
        path = self.folder / "checkpoints" / name
        if name == BEST:
            save_checkpoint(path, self.state, learner.scoring, None, learner.optimizers, self.running)
        else:
            save_checkpoint(path, self.state, learner.ensemble, learner.average, learner.optimizers, self.running)


def train(config: Config, run: Path | None, resume: bool, console: Console) -> Path:
    """Train, evaluate the best checkpoint on validation and test, and return the run's folder.

    Args:
        run: the folder to write (default runs/<run id>); it must not hold a run unless `resume`.
        resume: go on from the folder's last checkpoint, to the figures an unbroken run would have had.

    Raises InputError for a bad cache, split, folder or checkpoint; RunFailed for a loss or validation figure that is
    not finite; Stopped after a signal, when a checkpoint has been saved.
    """
    with open_world(config.train.device) as (world, device), answering(run), open_inputs(config, device) as inputs:
        console = console if world.first else Console(quiet=True)
        with started(config, inputs, run, resume, console, world) as t:
            while not t.state.finished:
                stages = train_epoch(t)
                validate(t, stages)
            inputs.check.to_the_end()
            world.wait()  # for the best checkpoint
            _summarise(t)
    return t.folder


@contextmanager
def started(
    config: Config, inputs: Inputs, run: Path | None, resume: bool, console: Console, world: World = ALONE
) -> Iterator[Training]:
    """A run that is ready for its next epoch, its folder made or its last checkpoint restored; arguments as `train`."""
    panel, device = inputs.panel, inputs.device
    config = resolve(config, panel)
    world.days(config.data.block_days)
    data, train = config.data, config.train
    plans = [
        Plan(panel, inputs.split.train, data.block_days, data.block_codes, seed, train.half_life)
        for seed in seeds_of(config)
    ]
    torch.use_deterministic_algorithms(train.deterministic)
    features, horizons = panel.manifest.features, panel.manifest.horizons
    phases = phases_of(config)
    for phase in phases:
        _objective(config, phase, len(horizons), device)  # refused now rather than hours later
    with ExitStack() as stack:
        learner = stack.enter_context(make_learner(config, len(features), len(horizons), device, world))
        running = torch.zeros(1 + len(TERMS), dtype=torch.float64, device=device)
        if resume:
            run = _existing(run)
            state = _resumed(run, config, panel, learner, running)
        else:
            run_id = world.agreed(f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}")
            run = Path("runs") / run_id if run is None else run
            if world.first and run.is_dir() and any(run.iterdir()):
                raise InputError(str(run), "the folder is not empty", "Pass --resume to go on, or another --out")
            state = State(run_id, panel.manifest.cache_id, config_hash(config), features, horizons)
            if world.first:
                _make_folder(run)
        stop, writer = stack.enter_context(_signals()), None
        if world.first:
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(str(run), purge_step=state.step + 1 if resume else None)
            stack.enter_context(closing(writer))
        t = Training(config, inputs, run, state, phases, learner, running, plans, stop, console, writer, world)
        if not resume:
            t.save(LAST)
            if world.first:
                write_atomically(run / "config.toml", to_toml(config).encode())
        if world.first:
            write_metrics(run, state)
        console.print(_heading(t))
        world.wait()  # until all have read the checkpoint that the first will replace
        yield t


@contextmanager
def answering(run: Path | None) -> Iterator[None]:
    """Make of a rank that no longer answers a RunFailed that says how to go on."""
    try:
        yield
    except RankLost as error:
        what = f"{run or 'the run'}: another rank no longer answers ({error})"
        raise RunFailed(f"{what}. Its own message says why; go on with --resume and the run's --out") from error


def resumed_config(run: Path | None, settings: list[str], arrow: str | None) -> Config:
    """The configuration stored in a run folder, for --resume; `train` refuses settings that change figures."""
    path = _existing(run) / "config.toml"
    return load_config(path, settings, arrow)


def _existing(run: Path | None) -> Path:
    if run is None or not (run / "config.toml").exists():
        raise InputError(str(run or "--resume"), "no run to resume here", "Name its folder with --out")
    return run


def _check_resumable(state: State, config: Config, panel: Panel, run: Path) -> None:
    if state.config_hash != config_hash(config):
        what = "the configuration differs from the one this run began with"
        raise InputError(str(run), what, "Leave --config and --set out to resume, or begin another run")
    if state.cache_id != panel.manifest.cache_id:
        what = f"began on cache {state.cache_id}, {panel.folder} is {panel.manifest.cache_id}"
        raise InputError(str(run), what, "Resume on the cache it began with, or begin another run")


def _make_folder(run: Path) -> None:
    try:
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(str(run), f"cannot be made ({error.strerror})", "Choose another --out") from error


def _resumed(run: Path, config: Config, panel: Panel, learner: Learner, running: Tensor) -> State:
    """The state of a run folder's last checkpoint, whose tensors are put where they belong."""
    path = run / "checkpoints" / LAST
    state, tensors = load_checkpoint(path)
    _check_resumable(state, config, panel, run)
    restore_model(learner.ensemble, tensors, path)
    if learner.average is not None:
        restore_model(learner.average, tensors, path, AVERAGE)
    restore_optimizers(learner.optimizers, tensors)
    running.copy_(tensors["running"])
    return state


def _heading(t: Training) -> str:
    panel, state, learner = t.inputs.panel, t.state, t.learner
    dates = [
        f"{name} {panel.calendar[d.start]}..{panel.calendar[d.stop - 1]}" for name, d in vars(t.inputs.split).items()
    ]
    members = len(learner.ensemble.members)
    params = f"{sum(p.numel() for p in learner.ensemble.parameters()):,} parameters"
    if members > 1:
        side = "side by side, a thread each" if learner.threads else "one after the other"
        params += f" in {members} models trained {side}"
    begun = f", resumed at epoch {state.epoch + 1}, block {state.position}" if state.step else ""
    return (
        f"run {state.run_id}: {params} on {device_name(t.inputs.device)}, {len(state.features)} features, "
        f"context {t.config.data.context} days{begun}\n{' | '.join(dates)}\n"
        f"loader: {t.inputs.source}, {AHEAD} blocks ahead\n"
        f"step: {'compiled' if learner.compiled else 'not compiled (train.compile)'}"
    )


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that receives the number of each SIGINT or SIGTERM; a second one acts at once."""
    received: list[int] = []
    previous = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def receive(number: int, _frame: Any) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    for number in previous:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def train_epoch(t: Training) -> Stages:
    """Train on the blocks of the current epoch that are left; gives what the loader's stages spent.

    Raises RunFailed for a loss that is not finite, Stopped after a signal, InputError where rows have changed on disk.
    """
    config, state, phase, learner = t.config, t.state, t.phase, t.learner
    every = [plan.epoch(state.epoch) for plan in t.plans]
    every = [blocks.first(phase.blocks or len(blocks)) for blocks in every]
    rounds = max(len(blocks) for blocks in every)
    objective = _objective(config, phase, len(state.horizons), t.inputs.device)
    losses = losses_of(learner, phase, objective)
    state.off = list(phase.off)
    learner.ensemble.train()
    saved = time.perf_counter()
    display = live(t.console)
    epochs = sum(phase.epochs for phase in t.phases)
    left = [blocks.share(state.position) for blocks in every]
    with ExitStack() as stack:
        stack.enter_context(display.progress)
        loaders = [stack.enter_context(_loading(t, blocks)) for blocks in left]
        begun = time.perf_counter()
        for batches in zip_longest(*loaders):
            t.inputs.check.so_far()
            waited = time.perf_counter()
            lessons = [
                None if batch is None else _lesson(t, objective, batch, seed, len(blocks))
                for batch, seed, blocks in zip(batches, seeds_of(config), every, strict=True)
            ]
            values, stopped = learn(learner, losses, objective, lessons, config.train.seed, state.step, bool(t.stop))
            t.running.add_(values)
            state.rate = max(lesson.rate for lesson in lessons if lesson is not None)
            for batch in batches:
                if batch is not None:
                    state.samples += _samples(t, batch)
                    state.rows += batch.presence.numel() * t.world.size
            state.step += 1
            state.position += 1
            now = time.perf_counter()
            state.seconds["wait"] += waited - begun
            state.seconds["train"] += now - begun
            if display.due():
                mean_loss = _finite_loss(t)
                speed, wait = state.samples / state.seconds["train"], state.seconds["wait"] / state.seconds["train"]
                display.show(state.epoch, epochs, state.position, rounds, speed, wait, mean_loss)
            # Between two steps of the optimizers there are gradients, which a checkpoint does not hold.
            between = state.step % learner.accumulate == 0 or state.position == rounds
            if between and (stopped or now - saved > config.train.checkpoint_seconds):
                t.save(LAST)
                saved = time.perf_counter()
            if between and stopped:
                cause = signal.Signals(t.stop[0]).name if t.stop else "a signal to another rank"
                what = f"{t.folder}: stopped by {cause} in epoch {state.epoch + 1}"
                raise Stopped(f"{what}. Go on with --resume --out {t.folder}")
            begun = time.perf_counter()
    return together(loader.stages for loader in loaders)


def _loading(t: Training, blocks: Epoch) -> AbstractContextManager[Delivery]:
    """A member's blocks that are left of an epoch; of every block this rank's days."""
    mine = t.world.days(t.config.data.block_days)
    shares: Sequence[Block] = blocks
    if t.world.size > 1:
        shares = [Block(block.day + mine.start, block.codes) for block in blocks]
    return t.inputs.source.load(t.plans[0].part, shares, len(mine), t.config.data.context)


def _lesson(t: Training, objective: Objective, batch: Loaded, seed: int, blocks: int) -> Lesson:
    """What a member does with its next block, of so many in the epoch."""
    state, phase, train = t.state, t.phase, t.config.train
    progress = (state.phase_epoch + state.position / blocks) / phase.epochs
    codes = t.learner.padded or len(batch.y)
    return Lesson(
        batch.x,
        batch.presence,
        batch.y,
        draw_rotations(objective, codes, seed, state.step, t.inputs.device),
        learning_rate(phase.learning_rate, train.warmup, progress),
        averaging(train.ema, train.swa, progress, phase.epochs * blocks // train.accumulate),
        state.position + 1 == blocks,
    )


def _samples(t: Training, batch: Loaded) -> int:
    """Samples of a block, on all ranks."""
    if t.world.size == 1:
        return batch.samples
    day = batch.block.day - t.world.days(t.config.data.block_days).start
    plan = t.plans[0]
    return count_samples(t.inputs.panel, plan.part, Block(day, batch.block.codes), plan.days)


def _objective(config: Config, phase: Phase, horizons: int, device: torch.device) -> Objective:
    return make_objective(config.model_copy(update={"objective": phase.objective}), horizons, device)


def _finite_loss(t: Training) -> float:
    mean = float(t.running[0]) / t.state.position
    if not math.isfinite(mean):
        what = f"{t.folder}: the loss is {mean} in epoch {t.state.epoch + 1}, step {t.state.step}"
        raise RunFailed(f"{what}. Lower train.learning_rate, or check the cache's features with `cache inspect`")
    return mean


def validate(t: Training, stages: Stages) -> None:
    """Score every day of the validation part, keep the best model, decide what comes next: all in `t.state`.

    Raises RunFailed for a loss or a validation figure that is not finite.
    """
    state, phase = t.state, t.phase
    _finite_loss(t)
    begun = time.perf_counter()
    valid = _figures(t, t.learner.scoring, t.inputs.split.valid, t.inputs.valid)
    counted = _counted(state.horizons, phase)
    figure = sum(valid[str(h)]["rank_ic"] for h in counted) / len(counted)
    if not math.isfinite(figure):
        what = f"{t.folder}: validation RankIC is {figure} after epoch {state.epoch + 1}"
        raise RunFailed(f"{what}. Scores are constant, or no validation day has 20 samples")
    weights = phase.objective.weights()
    sums = dict(zip(["loss", *TERMS], (t.running / state.position).tolist(), strict=True))
    line = {
        "epoch": state.epoch + 1,
        "step": state.step,
        "phase": phase.name,
        "learning_rate": state.rate,
        "weights": weights,
        "horizon_weights": list(phase.objective.horizon_weights) or [1.0] * len(state.horizons),
        "frozen": list(phase.frozen),
        "off": list(phase.off),
        "train": {name: sums[name] for name in ("loss", *weights)},
        "valid": valid,
        "valid_rank_ic": figure,
        "best": state.best is None or figure > state.best,
    }
    state.history.append(finite(line))
    state.best = figure if line["best"] else state.best
    better = state.phase_best is None or figure > state.phase_best
    state.phase_best, state.stale = (figure, 0) if better else (state.phase_best, state.stale + 1)
    state.epoch, state.phase_epoch, state.position = state.epoch + 1, state.phase_epoch + 1, 0
    if line["best"]:
        t.save(BEST)
    if state.phase_epoch == phase.epochs or state.stale >= t.config.train.patience:
        _next_phase(t)
    state.seconds["validation"] += time.perf_counter() - begun
    t.running.zero_()
    t.save(LAST)
    if t.world.first:
        write_metrics(t.folder, state)
    if t.writer is not None:
        log_scalars(t.writer, line, state)
    per_horizon = ", ".join(f"h={h} {valid[str(h)]['rank_ic']:.4f}" for h in state.horizons)
    t.console.print(
        f"epoch {state.epoch}{f' ({phase.name})' if t.config.phases else ''}: loss {sums['loss']:.4f}, "
        f"validation RankIC {figure:.4f} ({per_horizon}){', best so far' if line['best'] else ''}; "
        f"{state.samples / state.seconds['train']:,.0f} samples/s, "
        f"data wait {state.seconds['wait'] / state.seconds['train']:.1%}, bottleneck {stages.bottleneck}"
    )


def _figures(t: Training, model: Ensemble, part: Days, samples: PartSamples) -> dict[str, Figures]:
    """Figures per horizon of a part that the ranks score together."""
    return figures_of_part(samples, score_part(model, t.inputs.source, part, t.config, t.world, judged=True))


def _counted(horizons: list[int], phase: Phase) -> list[int]:
    """The horizons that a phase trains, whose validation RankIC decides."""
    weights = phase.objective.horizon_weights or [1.0] * len(horizons)
    return [h for h, weight in zip(horizons, weights, strict=True) if weight > 0]


def _next_phase(t: Training) -> None:
    state = t.state
    state.finished = state.phase + 1 == len(t.phases)
    if state.finished:
        return
    before = _counted(state.horizons, t.phase)
    state.phase, state.phase_epoch, state.phase_best, state.stale = state.phase + 1, 0, None, 0
    if _counted(state.horizons, t.phase) != before:
        state.best = None  # the figure is another one from now on


def _summarise(t: Training) -> None:
    """Evaluate the best checkpoint and write summary.json."""
    config, state, model = t.config, t.state, t.learner.ensemble
    path = t.folder / "checkpoints" / BEST
    best, tensors = load_checkpoint(path)
    if best.run_id != state.run_id:
        raise RunFailed(f"{t.folder}: best.safetensors belongs to run {best.run_id}, not to {state.run_id}")
    restore_model(model, tensors, path)
    model.bypass(best.off)
    inputs = t.inputs
    summary = {
        "run_id": state.run_id,
        "cache_id": state.cache_id,
        "config_hash": state.config_hash,
        "git": git_revision(),
        "device": device_name(inputs.device),
        "seed": config.train.seed,
        "params": sum(p.numel() for p in model.parameters()),
        "epochs": state.epoch,
        "best_epoch": best.epoch,
        "splits": {
            "valid": _figures(t, model, inputs.split.valid, inputs.valid),
            "test": _figures(t, model, inputs.split.test, part_samples(inputs.panel, inputs.split.test)),
        },
        "throughput": throughput(state, inputs.device),
    }
    if t.world.first:
        write_atomically(t.folder / "summary.json", json.dumps(finite(summary), indent=2, allow_nan=False).encode())
