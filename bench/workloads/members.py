"""Steps of K models on blocks of a panel, by threads or as slots of a batch, as the training loop runs them.

K models, S codes, D scored days
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor

from bench.workloads.loading import fresh_blocks, loading
from bench.workloads.training import CPU, RATE, Training
from engine.distributed import SINGLE
from engine.training.objective import Objective, draw_rotations, make_objective
from engine.training.schedule import phases_of
from engine.training.step.learner import Slots, make_batch, make_learner
from engine.training.step.table import ModelSteps
from engine.training.step.threads import StepInput, train_step
from loaders.batch import Batch
from loaders.random_bits import mix, signed
from loaders.split import Days
from loaders.tiers.choose import Source

LOADED = 4  # blocks of a model that are formed beforehand, where the device does not gather by itself
Step = Callable[[], Tensor]  # trains each model on its next block; gives the sums of losses so far, [K]


@dataclass(frozen=True)
class Members:
    """The task: train the models of a configuration (train.seeds), each on blocks of its own of the source's panel."""

    work: Training
    source: Source
    steps: int  # that are trained

    @property
    def count(self) -> int:
        return self.work.config.train.seeds

    @property
    def part(self) -> Days:
        return Days(self.work.context - 1, len(self.source.panel.calendar))

    @cached_property
    def objective(self) -> Objective:
        return make_objective(self.work.config, len(self.source.panel.manifest.horizons), self.work.device)

    @cached_property
    def models(self) -> list[ModelSteps]:
        """What each model does."""
        train, work = self.work.config.train, self.work
        wanted = loading(self.source.panel, work.days, work.codes, work.context)
        return [
            ModelSteps(
                list(islice(fresh_blocks(wanted, seed), self.steps)),
                [[RATE, train.weight_decay, train.clip, 0.0, 1.0]] * self.steps,
                [signed(mix(seed, i, 4)) for i in range(self.steps)],
                [draw_rotations(self.objective, work.codes, seed, i, CPU) for i in range(self.steps)],
            )
            for seed in range(train.seed, train.seed + self.count)
        ]

    def loaded(self) -> list[list[Batch]]:
        """The first blocks of each model."""
        found = []
        for model in self.models:
            wanted = loading(self.source.panel, self.work.days, self.work.codes, self.work.context)
            with self.source.load(wanted.request(model.blocks[:LOADED])) as loader:
                found.append([_copied(batch) for batch in loader])
        return found


@contextmanager
def batched_step(members: Members) -> Iterator[Step]:
    """A step as slots of a batch, captured where there is a GPU, compiled as train.compile says; warmed up there."""
    work, source = members.work, members.source
    batch = make_batch(work.config, source, work.device, SINGLE, members.count, steps=0)
    manifest = source.panel.manifest
    with make_learner(
        work.config, len(manifest.features), len(manifest.horizons), work.device, slots=Slots(batch, 0)
    ) as learner:
        learner.enter_phase(phases_of(work.config)[0])
        models, objectives = list(learner.weights.model.members), [members.objective] * members.count
        batch.begin(models, objectives, members.models, [members.part] * members.count)
        blocks = members.loaded() if batch.gather is None else []
        done = 0

        def step() -> Tensor:
            nonlocal done
            for k, of_model in enumerate(blocks):
                batch.blocks.put(k, of_model[done % LOADED])
            done += 1
            assert batch.replay is not None
            batch.replay()
            return batch.sums[:, 0]

        yield step


@contextmanager
def threaded_step(members: Members) -> Iterator[Step]:
    """The same step on threads of a CPU."""
    config, manifest = members.work.config, members.source.panel.manifest
    with make_learner(config, len(manifest.features), len(manifest.horizons), CPU) as learner:
        learner.enter_phase(phases_of(config)[0])
        blocks, models, threads = members.loaded(), members.models, learner.threads
        assert threads is not None
        sums = torch.zeros(members.count, dtype=torch.float64)
        done = 0

        def step() -> Tensor:
            nonlocal done
            inputs = [
                StepInput(of_model[done % LOADED], model.rotations[done], model.rates[done], model.keys[done])
                for of_model, model in zip(blocks, models, strict=True)
            ]
            done += 1
            return sums.add_(train_step(learner, threads, members.objective, inputs, 1)[:, 0])

        yield step


def _copied(batch: Batch) -> Batch:
    """A block in memory of its own, which the loader does not use again."""
    return replace(batch, x=batch.x.clone(), presence=batch.presence.clone(), y=batch.y.clone())
