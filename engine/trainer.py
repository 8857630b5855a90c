"""Training: blocks in, a run folder out. The loop reads top to bottom in `train`; everything it decides is in State."""

import json
import math
import signal
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from itertools import zip_longest
from pathlib import Path

from rich.console import Console

from engine.checkpoint import BEST, LAST, load_checkpoint, restore_model, write_atomically
from engine.config import Config
from engine.distributed import open_world
from engine.evaluate import PartSamples, figures_of_part, part_samples
from engine.inputs import open_inputs
from engine.metrics import Figures
from engine.model.ensemble import Ensemble, seeds_of
from engine.objective import Objective, draw_rotations
from engine.online import Float32
from engine.phases import Phase, averaging, learning_rate
from engine.predict import online_part, score_part
from engine.run import RunFailed, Stopped, Training, answering, objective_of, started
from engine.step import Lesson, learn, losses_of
from engine.tracking import device_name, finite, git_revision, live, log_scalars, throughput, write_metrics
from kernels.rank_terms import TERMS
from loaders.delivery import Delivery, Loaded, Stages, together
from loaders.plan import Block, Epoch, count_samples
from loaders.split import Days


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


def train_epoch(t: Training) -> Stages:
    """Train on the blocks of the current epoch that are left; gives what the loader's stages spent.

    Raises RunFailed for a loss that is not finite, Stopped after a signal, InputError where rows have changed on disk.
    """
    config, state, phase, learner = t.config, t.state, t.phase, t.learner
    every = [plan.epoch(state.epoch) for plan in t.plans]
    every = [blocks.first(phase.blocks or len(blocks)) for blocks in every]
    rounds = max(len(blocks) for blocks in every)
    objective = objective_of(config, phase, len(state.horizons), t.inputs.device)
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
    valid = _figures(t, t.learner.scoring, t.inputs.split.valid, t.inputs.valid, t.online)
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


def _figures(
    t: Training, model: Ensemble, part: Days, samples: PartSamples, online: Float32 | None
) -> dict[str, Figures]:
    """Figures per horizon of a part that the ranks score together."""
    scores = score_part(model, t.inputs.source, part, t.config, online, t.world, judged=True)
    return figures_of_part(samples, scores)


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
    inputs, test = t.inputs, t.inputs.split.test
    online = online_part(config, inputs.panel, test, model.neutral)
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
            "valid": _figures(t, model, inputs.split.valid, inputs.valid, t.online),
            "test": _figures(t, model, test, part_samples(inputs.panel, test), online),
        },
        "throughput": throughput(state, inputs.device),
    }
    if t.world.first:
        write_atomically(t.folder / "summary.json", json.dumps(finite(summary), indent=2, allow_nan=False).encode())
