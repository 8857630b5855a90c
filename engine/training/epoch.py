"""One epoch of training: of a run, or of several whose models are slots of one batch."""

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from engine.errors import RunFailed, Stopped
from engine.model.ensemble import seeds_of
from engine.training.objective import Objective, draw_rotations
from engine.training.run import Run, phase_objective
from engine.training.schedule import ema_decay, learning_rate
from engine.training.step.table import ModelSteps
from engine.training.step.threads import StepInput, train_step
from loaders.batch import Batch, Loader, Request, Stages, total
from loaders.plan import Block, count_samples
from loaders.random_bits import mix, signed
from loaders.split import Days

CPU = torch.device("cpu")
SHOW_SECONDS = 0.5  # between two looks at the loss
READ_EVERY = 64  # steps between two looks at what the device has computed


@dataclass(frozen=True)
class EpochOfRun:
    """What is left of a run's epoch, from its position on."""

    run: Run
    objective: Objective
    every: list[list[Block]]  # of each member, the blocks of the whole epoch
    begin: int  # position

    @property
    def steps(self) -> int:
        """That are left."""
        return max(len(blocks) for blocks in self.every) - self.begin

    @cached_property
    def models(self) -> list[ModelSteps]:
        """What each member does."""
        return [self._model(seed, blocks) for seed, blocks in zip(seeds_of(self.run.config), self.every, strict=True)]

    def _model(self, seed: int, blocks: list[Block]) -> ModelSteps:
        run = self.run
        state, phase, train = run.state, run.phase, run.config.train
        days = run.learner.world.days(run.config.data.block_days)
        found = ModelSteps([], [], [], [])
        for position in range(self.begin, len(blocks)):
            block, step = blocks[position], state.step + position - self.begin
            progress = (state.phase_epoch + position / len(blocks)) / phase.epochs
            last = position + 1 == len(blocks)
            rates = [
                learning_rate(phase.learning_rate, train.warmup, progress),
                train.weight_decay,
                train.clip,
                ema_decay(train.ema, train.swa, progress, phase.epochs * len(blocks) // train.accumulate),
                float(last or (step + 1) % train.accumulate == 0),
            ]
            codes = len(block.codes) if run.learner.slots is None else run.config.data.block_codes
            found.blocks.append(Block(block.day + days.start, block.codes))  # this rank's days
            found.rates.append(rates)
            found.keys.append(signed(mix(seed, step, 4)))
            found.rotations.append(draw_rotations(self.objective, codes, seed, step, CPU))
        return found

    def count(self, i: int) -> None:
        """Take step i of those that are left into the run's state."""
        run = self.run
        state, plan = run.state, run.plans[0]
        span = run.config.data.block_days + (run.config.data.context - 1) * run.learner.world.size
        for model, blocks in zip(self.models, self.every, strict=True):
            if i < len(model.blocks):
                block = blocks[self.begin + i]
                state.samples += count_samples(run.fold.panel, plan.part, block, plan.days)
                state.rows += len(block.codes) * span
        state.lr = max(model.rates[i][0] for model in self.models if i < len(model.rates))
        state.step += 1
        state.position += 1

    @property
    def between(self) -> bool:
        """Whether no gradient waits for the optimizer's next step."""
        i = self.run.state.position - self.begin - 1
        return all(model.rates[i][-1] > 0 for model in self.models if 0 <= i < len(model.rates))


def train_epoch(runs: Sequence[Run]) -> list[Stages]:
    """Train runs on the blocks of their current epochs that are left; gives what each one's loaders spent.

    Several runs are slots of one batch, all as long as the longest epoch takes.

    Raises RunFailed for a loss that is not finite, where there is one run; Stopped after a signal, when all runs have
    saved what they need to resume.
    """
    epochs = [epoch_of(run) for run in runs]
    for epoch in epochs:
        epoch.run.learner.enter_phase(epoch.run.phase)
        epoch.run.state.off = list(epoch.run.phase.off)
    first = runs[0]
    if len(runs) == 1:
        first.tell("training")
    waits = [run.state.seconds["wait"] for run in runs]
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(run.usage.of_training())
        batched = first.learner.slots is not None
        loaders, step = (_batched if batched else _threaded)(epochs, stack)
        shown = saved = begun = time.perf_counter()
        stopping = False
        for i in range(max(epoch.steps for epoch in epochs)):
            first.inputs.verification.raise_if_failed()
            step(i, bool(first.stop))
            now = time.perf_counter()
            for epoch in epochs:
                if i < epoch.steps:
                    epoch.count(i)
                    epoch.run.state.seconds["train"] += now - begun
            begun = now
            ends = i + 1 == max(epoch.steps for epoch in epochs)
            if not (ends or stopping or first.inputs.device.type == "cpu" or (i + 1) % READ_EVERY == 0):
                continue  # a look would wait for the device
            for run, before, of_run in zip(runs, waits, loaders, strict=True):
                run.state.seconds["wait"] = before + sum(loader.stages.wait for loader in of_run)
            stopping = _stopped(first)
            begun = time.perf_counter()  # the look waited for steps that the device had not done yet
            for epoch in epochs:
                if i < epoch.steps:
                    epoch.run.state.seconds["train"] += begun - now
            if len(runs) == 1 and begun - shown > SHOW_SECONDS:  # also refuses a loss not finite, for that run alone
                _show(epochs[0])
                shown = begun
            # Between two steps of the optimizer there are gradients, which a checkpoint does not hold.
            if not all(epoch.between for epoch in epochs):
                continue
            if stopping or now - saved > first.config.train.checkpoint_seconds:
                for run in runs:
                    run.save_last()
                saved = begun = time.perf_counter()
            if stopping:
                cause = signal.Signals(first.stop[0]).name if first.stop else "a signal to another rank"
                what = f"{first.folder}: stopped by {cause} in epoch {first.state.epoch + 1}"
                raise Stopped(f"{what}. Resume with --resume --out {first.folder}")
    found = [total(loader.stages for loader in of_run) for of_run in loaders]
    for run, before, stages in zip(runs, waits, found, strict=True):
        run.state.seconds["wait"] = before + stages.wait  # with what a device had not said yet
    return found


Step = Callable[[int, bool], None]  # of the steps that are left, the number; and whether this process was asked to stop


def _threaded(epochs: list[EpochOfRun], stack: ExitStack) -> tuple[list[list[Loader]], Step]:
    """The loaders and the step of a run whose members are trained on threads."""
    (epoch,) = epochs
    learner, models = epoch.run.learner, epoch.models
    threads, accumulate = learner.threads, epoch.run.config.train.accumulate
    assert threads is not None
    loaders = [stack.enter_context(_load(epoch.run, model)) for model in models]
    coming = [iter(loader) for loader in loaders]

    def step(i: int, _stop: bool) -> None:
        inputs = [
            None if batch is None else StepInput(batch, model.rotations[i], model.rates[i], model.keys[i])
            for model, batch in zip(models, (next(one, None) for one in coming), strict=True)
        ]
        values = train_step(learner, threads, epoch.objective, inputs, accumulate)
        learner.weights.loss_sums.add_(values)

    return [loaders], step


def _batched(epochs: list[EpochOfRun], stack: ExitStack) -> tuple[list[list[Loader]], Step]:
    """The loaders, where the device does not gather by itself, and the step of runs that are slots of a batch."""
    slots = epochs[0].run.learner.slots
    assert slots is not None
    batch = slots.batch
    count = len(batch.sums)
    members: list[nn.Module | None] = [None] * count
    objectives: list[Objective | None] = [None] * count
    models: list[ModelSteps | None] = [None] * count
    parts: list[Days | None] = [None] * count
    loaders: list[list[Loader]] = []
    coming: dict[int, Iterator[Batch]] = {}
    for epoch in epochs:
        mine = epoch.run.learner.slots
        assert mine is not None
        assert mine.batch is batch
        loaders.append([])
        for k, model in enumerate(epoch.models):
            row = mine.begin + k
            members[row], objectives[row] = epoch.run.learner.weights.model.members[k], epoch.objective
            models[row], parts[row] = model, epoch.run.fold.split.train
            if batch.gather is None:
                loaders[-1].append(stack.enter_context(_load(epoch.run, model)))
                coming[row] = iter(loaders[-1][-1])
    if batch.gather is not None:
        rows = epochs[0].run.inputs.source.rows
        assert rows is not None
        rows.wait()
    batch.begin(members, objectives, models, parts)

    def step(_i: int, stop: bool) -> None:
        if batch.gather is None:
            for k in range(count):
                batch.blocks.put(k, next(coming[k], None) if k in coming else None)
        if stop:
            batch.stop.fill_(1.0)
        assert batch.replay is not None
        batch.replay()

    return loaders, step


def _load(run: Run, model: ModelSteps) -> AbstractContextManager[Loader]:
    """A member's blocks, of every block this rank's days."""
    days = len(run.learner.world.days(run.config.data.block_days))
    return run.inputs.source.load(Request(run.fold.split.train, model.blocks, days, run.config.data.context))


def _stopped(run: Run) -> bool:
    """Whether this process, or another rank, was asked to stop."""
    slots = run.learner.slots
    return bool(run.stop) if slots is None else bool(slots.batch.stopped)


def _show(epoch: EpochOfRun) -> None:
    state, run = epoch.run.state, epoch.run
    speed = state.samples / state.seconds["train"]
    run.tell(f"{speed:,.0f} samples/s · loss {mean_losses(run, epoch.every)[0]:.4f}")


def epoch_of(run: Run) -> EpochOfRun:
    """The epoch that a run stands in."""
    every = [plan.epoch(run.state.epoch) for plan in run.plans]
    return EpochOfRun(
        run,
        phase_objective(run.config, run.phase, len(run.state.horizons), run.inputs.device),
        [blocks[: run.phase.blocks or len(blocks)] for blocks in every],
        run.state.position,
    )


def mean_losses(run: Run, every: list[list[Block]]) -> list[float]:
    """Loss and terms of the epoch so far, means over blocks and members. Raises RunFailed for a loss not finite."""
    state = run.state
    counts = torch.tensor([min(state.position, len(blocks)) for blocks in every], dtype=torch.float64)
    means = (run.learner.weights.loss_sums.cpu() / counts[:, None]).mean(0).tolist()
    if not math.isfinite(means[0]):
        what = f"{run.folder}: the loss is {means[0]} in epoch {state.epoch + 1}, step {state.step}"
        raise RunFailed(f"{what}. Lower train.learning_rate, or check the cache's features with `cache inspect`")
    return means
