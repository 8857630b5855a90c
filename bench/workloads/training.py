"""Training steps: blocks of random numbers, and our own step on them.

Every code is present and has a target on every day, so a block of D days and S codes has D S samples for every
contender.

S codes, D scored days, L context, T = D + L - 1 days read, F features, H horizons, Q quantile levels
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from torch import Tensor, nn

from bench.workloads.arrays import Arrays
from engine.config import Config
from engine.config_file import load_config
from engine.model.registry import build_model
from engine.train.objective import draw_rotations, make_objective
from engine.train.schedule import phases_of
from engine.train.step.learner import make_learner
from engine.train.step.threads import StepInput, losses_of, train_step
from loaders.batch import Batch
from loaders.cache.format import SCORED
from loaders.plan import Block

HORIZONS = 2
RATE = 1e-3  # the learning rate of every contender


@dataclass(frozen=True)
class Training:
    """The task: train the model and the objective of a configuration, on blocks of its D, S and L."""

    config: Config
    features: int
    device: torch.device

    @property
    def days(self) -> int:
        return self.config.data.block_days

    @property
    def codes(self) -> int:
        return self.config.data.block_codes

    @property
    def context(self) -> int:
        return self.config.data.context

    @property
    def samples(self) -> int:
        """Of a block."""
        return self.days * self.codes

    def with_days(self, days: int) -> "Training":
        """The same task on blocks of that many days."""
        data = self.config.data.model_copy(update={"block_days": days})
        return Training(self.config.model_copy(update={"data": data}), self.features, self.device)

    def model(self) -> nn.Module:
        """The model with the initial weights of every contender, on the device."""
        seed = self.config.train.seed
        return build_model(self.config.model, self.features, HORIZONS, self.context, seed).to(self.device)


Step = Callable[[Arrays], Tensor]  # trains on a block, returns its loss []


def training(features: int, device: torch.device, *settings: str) -> Training:
    """The default configuration with these settings, `section.key=value`."""
    return Training(load_config(None, list(settings)), features, device)


def fresh_arrays(work: Training, seed: int = 0) -> Iterator[Arrays]:
    """Endless blocks of fresh numbers, equal on every device."""
    span = work.days + work.context - 1
    for i in count():
        random = torch.Generator().manual_seed(seed + i)
        x = torch.randn(work.codes, span, work.features, generator=random)
        y = torch.randn(work.codes, work.days, HORIZONS, generator=random)
        presence = torch.full((work.codes, span), SCORED, dtype=torch.uint8)
        yield Arrays(x.to(work.device), presence.to(work.device), y.to(work.device))


@contextmanager
def our_step(work: Training) -> Iterator[Step]:
    """The engine's step as its training loop calls it, compiled where the loop compiles it; not warmed up."""
    config, seed, steps = work.config, work.config.train.seed, count()
    whole = Block(0, np.arange(work.codes))
    with make_learner(config, work.features, HORIZONS, work.device) as learner:
        objective = make_objective(config, HORIZONS, work.device)
        losses = losses_of(learner, phases_of(config)[0], objective)
        learner.weights.model.train()

        def step(block: Arrays) -> Tensor:
            number = next(steps)
            rotations = draw_rotations(objective, work.codes, seed, number, work.device)
            batch = Batch(*block, whole, work.samples)
            inputs = StepInput(batch, rotations, RATE, ema_decay=0.0, last=True)
            values, _ = train_step(learner, losses, objective, [inputs], seed, number)
            return values[0]

        yield step
