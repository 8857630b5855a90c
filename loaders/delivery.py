"""What every tier of the loader delivers: blocks on their device, in the order of the plan, and what its stages spent.

S codes, D scored days, L context, T = D + L - 1 days read, F features, H horizons
"""

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from typing import Protocol

from torch import Tensor

from loaders.plan import Block

AHEAD = 2  # blocks that may wait for the consumer
POISON = float("nan")


@dataclass(frozen=True)
class Loaded:
    """A block on its device, valid until the next block is asked for: the tensors are views on memory used again."""

    x: Tensor  # [S, T, F] float32
    presence: Tensor  # [S, T] uint8
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
    """Seconds that each stage worked and waited so far."""

    read: float = 0.0  # asking for the rows of coming blocks from disk, where they are not in memory
    gather: float = 0.0  # forming blocks
    held_back: float = 0.0  # the producer, for a free slot
    copy: float = 0.0  # the producer, for a slot's copy to the device to end
    wait: float = 0.0  # the consumer, for a block
    use: float = 0.0  # the consumer, with a block

    @property
    def bottleneck(self) -> str:
        """`consumer` where the producer waits for it longer than it waits for the producer, else `gather` or `copy`."""
        if self.held_back >= self.wait:
            return "consumer"
        return "copy" if self.copy > self.gather else "gather"


def together(every: Iterable[Stages]) -> Stages:
    """What several deliveries spent in all."""
    spent = [astuple(stages) for stages in every]
    return Stages(*(sum(column) for column in zip(*spent, strict=True)))


class Delivery(Protocol):
    """The blocks once, in their order; what a producer raised is raised in the place of the block that failed."""

    stages: Stages

    def __iter__(self) -> Iterator[Loaded]: ...
