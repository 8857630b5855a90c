"""The plan of an epoch: which blocks, in which order.

A block is D consecutive days times up to S codes. The days of the part are cut into stretches of D at a random phase
(so that borders move from epoch to epoch); in each stretch the codes that have a sample there are dealt into random
groups of equal size, at most S; all blocks are then shuffled. Every training sample is in exactly one block, and so
once in every epoch. The plan is a pure function of (seed, epoch): the state to resume is (seed, epoch, position).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loaders.errors import InputError
from loaders.order import below, mix, permutation
from loaders.panel import Panel
from loaders.split import Days


@dataclass(frozen=True)
class Block:
    """Scored days day..day+D-1 of some codes; days outside `part` belong to no sample."""

    day: int
    codes: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """Shuffled training blocks of one part of a panel.

    Args:
        days: D, scored days of a block.
        codes: S, the most codes of a block.
    """

    panel: Panel
    part: Days
    days: int
    codes: int
    seed: int

    def __post_init__(self) -> None:
        before = self.panel.samples_before
        if not len(self.panel.codes_with(before, self.part.start, self.part.stop)):
            dates = self.panel.calendar[[self.part.start, self.part.stop - 1]]
            raise InputError(str(self.panel.folder), f"no sample from {dates[0]} to {dates[1]}", "Choose another split")

    def epoch(self, epoch: int) -> list[Block]:
        """The blocks of an epoch in their order. The same for the same (seed, epoch), whatever ran before."""
        phase = below(mix(self.seed, epoch, 0), self.days)
        blocks = []
        for day in range(self.part.start - phase, self.part.stop, self.days):
            start, stop = max(day, self.part.start), min(day + self.days, self.part.stop)
            eligible = self.panel.codes_with(self.panel.samples_before, start, stop)
            if not len(eligible):
                continue
            dealt = eligible[permutation(mix(self.seed, epoch, 1, start), len(eligible))]
            for group in np.array_split(dealt, math.ceil(len(dealt) / self.codes)):
                blocks.append(Block(day, np.sort(group)))
        return [blocks[i] for i in permutation(mix(self.seed, epoch, 2), len(blocks))]


def scoring_blocks(panel: Panel, part: Days, days: int) -> Iterator[Block]:
    """Blocks that cover every present row of a part, in the order of days, each with all codes of its days."""
    for day in range(part.start, part.stop, days):
        codes = panel.codes_with(panel.present_before, day, min(day + days, part.stop))
        if len(codes):
            yield Block(day, codes)
