"""The table of an epoch: row b says what step b does, for each of K models, as tensors on the device.

A step reads the row that `position` names and counts it on, so the device runs an epoch without being told anything.
Order, rates and random numbers are pure functions of (seed, epoch, position), as everywhere.

B steps, K models, S codes of a block, R rotations
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.model.optimizer import StepSizes
from loaders.plan import Block

ROWS = 64  # that a table grows by
RATES = 5  # fields of StepSizes


@dataclass(frozen=True)
class ModelSteps:
    """What one model does in an epoch, from its first step on."""

    blocks: list[Block]  # [B]
    rates: list[list[float]]  # [B][RATES], in the order of StepSizes
    keys: list[int]  # [B], int64, of the stream that dropout and noise draw from
    rotations: list[Tensor]  # [B] of int32 [R]


@dataclass(frozen=True)
class Row:
    """One step of all models."""

    codes: Tensor  # [K, S] int64, -1: none
    day: Tensor  # [K] int64, first scored day
    rates: Tensor  # [K, RATES] float32
    keys: Tensor  # [K] int64
    rotations: Tensor  # [K, R] int32
    active: Tensor  # [K] bool, whether the model has a block

    @property
    def sizes(self) -> StepSizes:
        return StepSizes(*self.rates[..., None].unbind(1))


@dataclass(frozen=True)
class Table:
    """Memory for the steps of an epoch, used for one epoch after the other: a captured graph reads it where it lies."""

    codes: Tensor  # [B, K, S]
    day: Tensor  # [B, K]
    rates: Tensor  # [B, K, RATES]
    keys: Tensor  # [B, K]
    rotations: Tensor  # [B, K, R]
    active: Tensor  # [B, K]
    position: Tensor  # [1] int64, the next row

    def row(self) -> Row:
        """The row at `position`. No operator depends on a value."""
        every = (self.codes, self.day, self.rates, self.keys, self.rotations, self.active)
        return Row(*(array.index_select(0, self.position)[0] for array in every))

    def load(self, models: Sequence[ModelSteps | None]) -> None:
        """Put in what each model does, nothing for None, and begin at the first row."""
        rows, count, codes = self.codes.shape
        host = new_table(rows, count, codes, self.rotations.shape[2], torch.device("cpu"))
        for k, model in enumerate(models):
            if model is None or not model.blocks:
                continue
            n = len(model.blocks)
            for b, block in enumerate(model.blocks):
                host.codes[b, k, : len(block.codes)] = torch.from_numpy(np.ascontiguousarray(block.codes))
            host.day[:n, k] = torch.tensor([block.day for block in model.blocks])
            host.rates[:n, k] = torch.tensor(model.rates)
            host.keys[:n, k] = torch.tensor(model.keys)
            if len(model.rotations[0]):
                host.rotations[:n, k] = torch.stack(model.rotations)
            host.active[:n, k] = True
        for name in ("codes", "day", "rates", "keys", "rotations", "active"):
            getattr(self, name).copy_(getattr(host, name))
        self.position.zero_()


def new_table(rows: int, models: int, codes: int, rotations: int, device: torch.device) -> Table:
    """A table of that many steps in which no model does anything."""
    return Table(
        torch.full((rows, models, codes), -1, device=device),
        torch.zeros(rows, models, dtype=torch.int64, device=device),
        torch.zeros(rows, models, RATES, device=device),
        torch.zeros(rows, models, dtype=torch.int64, device=device),
        torch.ones(rows, models, rotations, dtype=torch.int32, device=device),
        torch.zeros(rows, models, dtype=torch.bool, device=device),
        torch.zeros(1, dtype=torch.int64, device=device),
    )


def rows_for(models: Sequence[ModelSteps | None]) -> int:
    """Rows that a table needs for these, rounded up so that the next epochs fit too."""
    most = max(len(model.blocks) for model in models if model is not None)
    return (most // ROWS + 2) * ROWS
