"""Training steps: blocks of random numbers, and our own step on them.

Every code is present and has a target on every day, so a block of D days and S codes has D S samples for every
contender.

S codes, D scored days, L context, T = D + L - 1 days read, F features, H horizons, Q quantile levels
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.workloads.arrays import Arrays
from engine.config import Config
from engine.config_file import load_config
from engine.distributed import SINGLE
from engine.model.optimizer import empty_adamw
from engine.model.registry import build_model
from engine.training.objective import draw_rotations, make_objective
from engine.training.schedule import phases_of
from engine.training.step.batched import make_batched
from engine.training.step.learner import Slots, make_learner
from engine.training.step.table import ModelSteps
from engine.training.step.threads import StepInput, train_step
from loaders.batch import Batch
from loaders.cache.format import SCORED
from loaders.plan import Block
from loaders.random_bits import mix, signed
from loaders.split import Days

HORIZONS = 2
CPU = torch.device("cpu")
EPOCH = 1000  # steps of a table
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


def flops_of(work: Training, block: Arrays) -> int:
    """Floating-point operations of the model's matrix products, forward and backward."""
    model = work.model().train()
    with FlopCounterMode(display=False) as counter:
        scores, quantiles = model(block.x, (block.presence > 0).float())
        (scores.sum() + quantiles.sum()).backward()
    return counter.get_total_flops()


@contextmanager
def our_step(work: Training) -> Iterator[Step]:
    """The engine's step as its training loop calls it, compiled where the loop compiles it; not warmed up."""
    config, phase = work.config, phases_of(work.config)[0]
    train = config.train
    rates = [RATE, train.weight_decay, train.clip, 0.0, 1.0]
    objective = make_objective(config, HORIZONS, work.device)
    whole = Block(0, np.arange(work.codes))
    keys = (signed(mix(train.seed, number, 4)) for number in count())

    def steps(number: int) -> ModelSteps:
        rotations = [draw_rotations(objective, work.codes, train.seed, i, CPU) for i in range(number)]
        return ModelSteps([whole] * number, [rates] * number, list(islice(keys, number)), rotations)

    slots = None
    if work.device.type == "cuda" or train.compile == "on":
        span = work.days + work.context - 1
        batch = make_batched(
            work.model(), empty_adamw(work.model(), 1, average=False),
            (work.codes, span, work.features, work.days, HORIZONS), None, SINGLE, bfloat16=work.device.type == "cuda",
            compiled=train.compile == "on", accumulate=1,
        )  # fmt: skip
        slots = Slots(batch, 0)
    with make_learner(config, work.features, HORIZONS, work.device, slots=slots) as learner:
        learner.enter_phase(phase)
        left = 0

        def batched(block: Arrays) -> Tensor:
            nonlocal left
            assert slots is not None
            if not left:
                left = EPOCH
                slots.batch.begin(
                    list(learner.weights.model.members), [objective], [steps(EPOCH)], [Days(0, work.days)]
                )
            left -= 1
            learner.weights.loss_sums.zero_()
            slots.batch.blocks.put(0, Batch(*block, whole, work.samples))
            assert slots.batch.replay is not None
            slots.batch.replay()
            return learner.weights.loss_sums[0, 0]

        def threaded(block: Arrays) -> Tensor:
            assert learner.threads is not None
            one = steps(1)
            given = StepInput(Batch(*block, whole, work.samples), one.rotations[0], rates, one.keys[0])
            return train_step(learner, learner.threads, objective, [given], 1)[0, 0]

        yield threaded if slots is None else batched
