"""The training loop: blocks in, a run folder out. It reads top to bottom; everything it decides is in `State`."""

import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich.console import Console

from engine.checkpoint import BEST, load_checkpoint, restore_model
from engine.config import Config
from engine.dates import spans_of
from engine.distributed import open_world
from engine.inputs import open_inputs
from engine.model.ensemble import Ensemble, seeds_of
from engine.score.metrics import Metrics
from engine.score.part_metrics import PartSamples, part_metrics, part_samples
from engine.score.predict import score_on_device
from engine.score.rows import Float32
from engine.score.tables import finite, to_json
from engine.train.early_stopping import end_epoch, end_phase_if_due, trained_horizons
from engine.train.fold import make_fold
from engine.train.objective import Objective, draw_rotations
from engine.train.run import Run, RunFailed, Stopped, lost_ranks_explained, open_run, phase_objective
from engine.train.schedule import ema_decay, learning_rate
from engine.train.step import StepInput, losses_of, train_step
from engine.train.tracking import device_name, git_revision, live, log_scalars, throughput, write_metrics
from kernels.rank_terms import TERMS
from loaders.batch import Batch, Loader, Request, Stages, total
from loaders.cache.atomic import write_atomically
from loaders.plan import Block, count_samples
from loaders.split import Days


def train(config: Config, folder: Path | None, resume: bool, console: Console) -> Path:
    """Train, evaluate the best checkpoint on validation and test, and return the run's folder.

    Args:
        folder: to write (default runs/<run id>); it must not hold a run unless `resume`.
        resume: continue from the folder's last checkpoint, to the metrics an unbroken run would have had.

    Raises InputError for a bad cache, split, folder or checkpoint; RunFailed for a loss or validation metric that is
    not finite; Stopped after a signal, when a checkpoint has been saved.
    """
    with (
        open_world(config.train.device) as (world, device),
        lost_ranks_explained(folder),
        open_inputs(config, device) as inputs,
    ):
        console = console if world.first else Console(quiet=True)
        fold = make_fold(config, inputs.panel, inputs.device)
        with open_run(config, inputs, fold, folder, resume, console, world) as run:
            for _ in epochs(run):
                pass
            inputs.verification.wait()
            world.barrier()  # for the best checkpoint
            _write_summary(run)
    return run.folder


@dataclass(frozen=True)
class EpochResult:
    """What an epoch gave and took."""

    line: dict[str, Any]  # of metrics.jsonl
    blocks: int
    seconds: dict[str, float]  # "train", "wait" (a part of it) and "validation"


def epochs(run: Run) -> Iterator[EpochResult]:
    """Train and validate, epoch by epoch, until the run is finished. Training, tuning and the dry run iterate over it.

    Raises RunFailed for a loss or validation metric that is not finite, Stopped after a signal, InputError where rows
    have changed on disk.
    """
    while not run.state.finished:
        before, step = dict(run.state.seconds), run.state.step
        stages = _train_epoch(run)
        line = _validate(run, stages)
        seconds = {name: value - before[name] for name, value in run.state.seconds.items()}
        yield EpochResult(line, run.state.step - step, seconds)


def _train_epoch(run: Run) -> Stages:
    """Train on the blocks of the current epoch that are left; gives what the loader's stages spent."""
    config, state, phase, learner = run.config, run.state, run.phase, run.learner
    every = [plan.epoch(state.epoch) for plan in run.plans]
    every = [blocks[: phase.blocks or len(blocks)] for blocks in every]
    rounds = max(len(blocks) for blocks in every)
    objective = phase_objective(config, phase, len(state.horizons), run.inputs.device)
    losses = losses_of(learner, phase, objective)
    state.off = list(phase.off)
    learner.weights.model.train()
    saved = time.perf_counter()
    display = live(run.log.console)
    epochs = sum(phase.epochs for phase in run.phases)
    with ExitStack() as stack:
        stack.enter_context(display.progress)
        stack.enter_context(run.usage.of_training())
        loaders = [stack.enter_context(_load(run, blocks[state.position :])) for blocks in every]
        begun, waits = time.perf_counter(), state.seconds["wait"]
        for batches in zip_longest(*loaders):
            run.inputs.verification.raise_if_failed()
            inputs = [
                None if batch is None else _step_input(run, objective, batch, seed, len(blocks))
                for batch, seed, blocks in zip(batches, seeds_of(config), every, strict=True)
            ]
            values, stopped = train_step(
                learner, losses, objective, inputs, config.train.seed, state.step, bool(run.stop)
            )
            learner.weights.loss_sums.add_(values)
            state.lr = max(one.lr for one in inputs if one is not None)
            for batch in batches:
                if batch is not None:
                    state.samples += _samples(run, batch)
                    state.rows += batch.presence.numel() * learner.world.size
            state.step += 1
            state.position += 1
            now = time.perf_counter()
            state.seconds["wait"] = waits + sum(loader.stages.wait for loader in loaders)
            state.seconds["train"] += now - begun
            if display.due():
                mean_loss = _finite_loss(run)
                speed, wait = state.samples / state.seconds["train"], state.seconds["wait"] / state.seconds["train"]
                display.show(state.epoch, epochs, state.position, rounds, speed, wait, mean_loss)
            # Between two steps of the optimizers there are gradients, which a checkpoint does not hold.
            between = state.step % learner.accumulate == 0 or state.position == rounds
            if between and (stopped or now - saved > config.train.checkpoint_seconds):
                run.save_last()
                saved = time.perf_counter()
            if between and stopped:
                cause = signal.Signals(run.stop[0]).name if run.stop else "a signal to another rank"
                what = f"{run.folder}: stopped by {cause} in epoch {state.epoch + 1}"
                raise Stopped(f"{what}. Resume with --resume --out {run.folder}")
            begun = time.perf_counter()
    stages = total(loader.stages for loader in loaders)
    state.seconds["wait"] = waits + stages.wait  # with what a device had not said yet
    return stages


def _load(run: Run, blocks: list[Block]) -> AbstractContextManager[Loader]:
    """A member's blocks; of every block this rank's days."""
    mine = run.learner.world.days(run.config.data.block_days)
    shares: Sequence[Block] = blocks
    if run.learner.world.size > 1:
        shares = [Block(block.day + mine.start, block.codes) for block in blocks]
    return run.inputs.source.load(Request(run.fold.split.train, shares, len(mine), run.config.data.context))


def _step_input(run: Run, objective: Objective, batch: Batch, seed: int, blocks: int) -> StepInput:
    """What a member does with its next block, of so many in the epoch."""
    state, phase, train = run.state, run.phase, run.config.train
    progress = (state.phase_epoch + state.position / blocks) / phase.epochs
    codes = run.learner.backend.pad_codes or len(batch.y)
    return StepInput(
        batch,
        draw_rotations(objective, codes, seed, state.step, run.inputs.device),
        learning_rate(phase.learning_rate, train.warmup, progress),
        ema_decay(train.ema, train.swa, progress, phase.epochs * blocks // train.accumulate),
        state.position + 1 == blocks,
    )


def _samples(run: Run, batch: Batch) -> int:
    """Samples of a block, on all ranks."""
    if run.learner.world.size == 1:
        return batch.samples
    day = batch.block.day - run.learner.world.days(run.config.data.block_days).start
    plan = run.plans[0]
    return count_samples(run.fold.panel, plan.part, Block(day, batch.block.codes), plan.days)


def _finite_loss(run: Run) -> float:
    mean = float(run.learner.weights.loss_sums[0]) / run.state.position
    if not math.isfinite(mean):
        what = f"{run.folder}: the loss is {mean} in epoch {run.state.epoch + 1}, step {run.state.step}"
        raise RunFailed(f"{what}. Lower train.learning_rate, or check the cache's features with `cache inspect`")
    return mean


def _validate(run: Run, stages: Stages) -> dict[str, Any]:
    """Score every day of the validation part, keep the best model, decide what comes next; the line of metrics.jsonl.

    Raises RunFailed for a loss or a validation metric that is not finite.
    """
    state, phase, weights = run.state, run.phase, run.learner.weights
    _finite_loss(run)
    begun = time.perf_counter()
    valid = _part_metrics(run, weights.scoring, run.fold.split.valid, run.fold.valid, run.valid_online)
    horizons = trained_horizons(state.horizons, phase)
    figure = sum(valid[str(h)]["rank_ic"] for h in horizons) / len(horizons)
    if not math.isfinite(figure):
        what = f"{run.folder}: validation RankIC is {figure} after epoch {state.epoch + 1}"
        raise RunFailed(f"{what}. Scores are constant, or no validation day has 20 samples")
    terms = phase.objective.weights()
    means = dict(zip(["loss", *TERMS], (weights.loss_sums / state.position).tolist(), strict=True))
    best = end_epoch(state, figure)
    line = {
        "epoch": state.epoch,
        "step": state.step,
        "phase": phase.name,
        "learning_rate": state.lr,
        "weights": terms,
        "horizon_weights": list(phase.objective.horizon_weights) or [1.0] * len(state.horizons),
        "frozen": list(phase.frozen),
        "off": list(phase.off),
        "train": {name: means[name] for name in ("loss", *terms)},
        "valid": valid,
        "valid_rank_ic": figure,
        "best": best,
    }
    state.history.append(finite(line))
    if best:
        run.save_best()
    end_phase_if_due(state, run.phases, run.config.train.patience)
    state.seconds["validation"] += time.perf_counter() - begun
    weights.loss_sums.zero_()
    run.save_last()
    if run.learner.world.first:
        write_metrics(run.folder, state)
    if run.log.writer is not None:
        log_scalars(run.log.writer, line, state)
    per_horizon = ", ".join(f"h={h} {valid[str(h)]['rank_ic']:.4f}" for h in state.horizons)
    run.log.console.print(
        f"epoch {state.epoch}{f' ({phase.name})' if run.config.phases else ''}: loss {means['loss']:.4f}, "
        f"validation RankIC {figure:.4f} ({per_horizon}){', best so far' if best else ''}; "
        f"{state.samples / state.seconds['train']:,.0f} samples/s, "
        f"data wait {state.seconds['wait'] / state.seconds['train']:.1%}, bottleneck {stages.bottleneck}"
    )
    return state.history[-1]


def _part_metrics(
    run: Run, model: Ensemble, part: Days, samples: PartSamples, online: Float32 | None = None
) -> dict[str, Metrics]:
    """Metrics per horizon of a part that the ranks score together."""
    scores = score_on_device(
        model, run.inputs.source, part, run.config, online=online, metrics_only=samples.present,
        world=run.learner.world,
    )  # fmt: skip
    return part_metrics(samples, scores)


def _write_summary(run: Run) -> None:
    """Evaluate the best checkpoint and write summary.json."""
    config, state, model, fold = run.config, run.state, run.learner.weights.model, run.fold
    path = run.folder / "checkpoints" / BEST
    best, tensors = load_checkpoint(path)
    if best.run_id != state.run_id:
        raise RunFailed(f"{run.folder}: best.safetensors belongs to run {best.run_id}, not to {state.run_id}")
    restore_model(model, tensors, path)
    model.bypass(best.off)
    summary = {
        "run_id": state.run_id,
        "cache_id": state.cache_id,
        "config_hash": state.config_hash,
        "git": git_revision(),
        "device": device_name(run.inputs.device),
        "seed": config.train.seed,
        "params": sum(p.numel() for p in model.parameters()),
        "epochs": state.epoch,
        "best_epoch": best.epoch,
        "source": state.source,
        "days": spans_of(fold.split, fold.panel.calendar),
        "notes": run.notes,
        "splits": {
            "valid": _part_metrics(
                run, model, fold.split.valid, part_samples(fold.panel, fold.split.valid), run.valid_online
            ),
            "test": _part_metrics(run, model, fold.split.test, part_samples(fold.panel, fold.split.test)),
        },
        "periods_per_year": fold.panel.manifest.periods_per_year,
        "throughput": throughput(state, run.inputs.device, run.usage),
    }
    if run.learner.world.first:
        write_atomically(run.folder / "summary.json", to_json(summary, indent=2).encode())
