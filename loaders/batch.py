"""A block's arrays: the memory that they lie in (`Slot`), what a loader is asked for (`Request`) and gives (`Batch`).

S codes, D scored days, L context, T = D + L - 1 days read, F features, H horizons
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from loaders.panel import Panel
from loaders.plan import Block
from loaders.split import Days

AHEAD = 2  # blocks that may wait for the consumer
POISON = float("nan")


@dataclass(frozen=True)
class Request:
    """Which blocks a loader delivers, in this order, and how many days of each.

    Args:
        part: targets are given on its days only.
        days: D, scored days of a block.
        context: L.
        ahead: blocks that may wait for the consumer, 1 or more.
        poison: fill a block with NaN as soon as its lifetime ends, to find users that keep one (tests).
    """

    part: Days
    blocks: Sequence[Block]
    days: int
    context: int
    ahead: int = AHEAD
    poison: bool = False


class Arrays(NamedTuple):
    """The arrays of a slot as NumPy's, for compiled loops."""

    x: npt.NDArray[np.float32]
    presence: npt.NDArray[np.uint8]
    y: npt.NDArray[np.float32]


@dataclass
class Slot:
    """Memory for the arrays of blocks of at most S codes, used again and again."""

    x: Tensor  # [S, T, F] float32
    presence: Tensor  # [S, T] uint8
    y: Tensor  # [S, D, H] float32
    busy: Any = None  # CUDA event of the last work on it, which ends before it may be filled again

    @cached_property
    def arrays(self) -> Arrays:
        return Arrays(self.x.numpy(), self.presence.numpy(), self.y.numpy())

    def batch(self, block: Block, samples: int) -> "Batch":
        """The block that the slot holds now, as views."""
        n = len(block.codes)
        return Batch(self.x[:n], self.presence[:n], self.y[:n], block, samples)


@dataclass(frozen=True)
class Batch:
    """A block on its device. From a loader, it is valid until the next one is asked for: its memory is used again."""

    x: Tensor  # [S, T, F] float32, 0 where a row is absent
    presence: Tensor  # [S, T] uint8: ABSENT, CONTEXT or SCORED
    y: Tensor  # [S, D, H] float32, NaN = no target
    block: Block
    samples: int  # entries with a target for at least one horizon

    def poison(self) -> None:
        """Overwrite the arrays, so that whoever still reads them finds out."""
        self.x.fill_(POISON)
        self.presence.fill_(255)
        self.y.fill_(POISON)


@dataclass
class Stages:
    """Seconds that each stage of a loader worked and waited so far."""

    read: float = 0.0  # asking for the rows of coming blocks from disk, where they are not in memory
    gather: float = 0.0  # forming blocks
    blocked: float = 0.0  # the producer, waiting for a free slot
    copy: float = 0.0  # the producer, waiting for a slot's copy to the device
    wait: float = 0.0  # the consumer, waiting for a block; where it is a device, as its own stream counts
    use: float = 0.0  # the consumer, with a block

    @property
    def bottleneck(self) -> str:
        """`consumer` where the producer waits for it longer than it waits for the producer, else `gather` or `copy`."""
        if self.blocked >= self.wait:
            return "consumer"
        return "copy" if self.copy > self.gather else "gather"


def total(stages: Iterable[Stages]) -> Stages:
    """The sum of several loaders' seconds."""
    rows = [astuple(each) for each in stages]
    return Stages(*(sum(column) for column in zip(*rows, strict=True)))


class Loader(Protocol):
    """Iterates over the blocks of a request once; what a producer raised is raised in the failed block's place."""

    stages: Stages

    def __iter__(self) -> Iterator[Batch]: ...


def new_slot(panel: Panel, codes: int, days: int, context: int) -> Slot:
    """Ordinary memory for up to that many codes (or windows), uninitialised. NumPy's, which asks for huge pages."""
    features, horizons = len(panel.manifest.features), len(panel.manifest.horizons)
    span = days + context - 1
    x = torch.from_numpy(np.empty((codes, span, features), np.float32))
    presence = torch.from_numpy(np.empty((codes, span), np.uint8))
    return Slot(x, presence, torch.from_numpy(np.empty((codes, days, horizons), np.float32)))
