"""What a training step is asked for, the blocks that it gets, and our own step.

Blocks hold random numbers, and every code is present and has a target on every day, so that a block of D days and S
codes is D S samples for everyone.

S codes, D scored days, L context, T = D + L - 1 days read, F features, H horizons, Q quantile levels
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from engine.config import Config
from engine.config_file import load_config
from engine.model.atft import ATFT
from engine.model.registry import build_model
from engine.train.objective import draw_rotations, make_objective
from engine.train.schedule import phases_of
from engine.train.step import Lesson, learn, losses_of, make_learner
from loaders.cache.format import SCORED

HORIZONS = 2
RATE = 1e-3  # of learning, the same for everyone


@dataclass(frozen=True)
class Training:
    """What a contender has to train, and on what: the configuration says the model, the objective, and D, S and L."""

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
        """The same on blocks of as many days."""
        data = self.config.data.model_copy(update={"block_days": days})
        return Training(self.config.model_copy(update={"data": data}), self.features, self.device)

    def model(self) -> ATFT:
        """The model as everyone begins with it, on the device."""
        seed = self.config.train.seed
        return build_model(self.config.model, self.features, HORIZONS, self.context, seed).to(self.device)


@dataclass(frozen=True)
class Arrays:
    """A block as a loader delivers it."""

    x: Tensor  # [S, T, F] float32
    presence: Tensor  # [S, T] uint8
    y: Tensor  # [S, D, H] float32


Step = Callable[[Arrays], Tensor]  # trains on a block, gives its loss []


def training(features: int, device: torch.device, *settings: str) -> Training:
    """The default configuration but for these settings, `section.key=value`."""
    return Training(load_config(None, list(settings)), features, device)


def fresh_arrays(work: Training, seed: int = 0) -> Iterator[Arrays]:
    """Blocks without end, each of fresh numbers; the same on every device."""
    span = work.days + work.context - 1
    for i in count():
        random = torch.Generator().manual_seed(seed + i)
        x = torch.randn(work.codes, span, work.features, generator=random)
        y = torch.randn(work.codes, work.days, HORIZONS, generator=random)
        presence = torch.full((work.codes, span), SCORED, dtype=torch.uint8)
        yield Arrays(x.to(work.device), presence.to(work.device), y.to(work.device))


@contextmanager
def our_step(work: Training) -> Iterator[Step]:
    """The engine's step as the trainer takes it, compiled where the trainer compiles it; not warm yet.

    The one place in the benchmarks that knows how ours takes a step.
    """
    config, seed, steps = work.config, work.config.train.seed, count()
    with make_learner(config, work.features, HORIZONS, work.device) as learner:
        objective = make_objective(config, HORIZONS, work.device)
        losses = losses_of(learner, phases_of(config)[0], objective)
        learner.ensemble.train()

        def step(block: Arrays) -> Tensor:
            number = next(steps)
            rotations = draw_rotations(objective, work.codes, seed, number, work.device)
            lesson = Lesson(block.x, block.presence, block.y, rotations, RATE, kept=0.0, last=True)
            told, _ = learn(learner, losses, objective, [lesson], seed, number)
            return told[0]

        yield step
