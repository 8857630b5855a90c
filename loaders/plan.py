"""The plan of an epoch: which blocks, in which order.

A block is D consecutive days times up to S codes. The days of the part are cut into windows of D at a random phase, so
that borders move from epoch to epoch. In each window the codes that have a sample there are split into random groups of
equal size, at most S. All blocks are then shuffled. Every training sample is in exactly one block, and so once in every
epoch. With a half-life (recency sampling), a block that ends h days before the part's end is kept with probability
0.5^(h / half_life).

The plan is a pure function of (seed, epoch): the state to resume is (seed, epoch, position), whatever the number of
threads, the tier or the number of ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loaders.errors import InputError
from loaders.panel import Int, Panel
from loaders.random_bits import below, mix, permutation, random_bits
from loaders.split import Days


@dataclass(frozen=True)
class Block:
    """Scored days day..day+D-1 of some codes; days outside `part` belong to no sample."""

    day: int
    codes: Int


@dataclass(frozen=True)
class Plan:
    """Shuffled training blocks of one part of a panel.

    Args:
        days: D, scored days of a block.
        codes: S, the most codes of a block.
        half_life: in days: of blocks that end as many before the part's end, half are in an epoch, and so on; 0: all.
    """

    panel: Panel
    part: Days
    days: int
    codes: int
    seed: int
    half_life: float = 0.0

    def __post_init__(self) -> None:
        if not len(self.panel.codes_with(self.panel.samples, self.part.start, self.part.stop)):
            dates = self.panel.calendar[[self.part.start, self.part.stop - 1]]
            raise InputError(str(self.panel.folder), f"no sample from {dates[0]} to {dates[1]}", "Choose another split")

    def epoch(self, epoch: int) -> list[Block]:
        """The blocks of an epoch in their order. The same for the same (seed, epoch), whatever ran before."""
        phase = below(mix(self.seed, epoch, 0), self.days)
        blocks: list[Block] = []
        for day in range(self.part.start - phase, self.part.stop, self.days):
            start, stop = max(day, self.part.start), min(day + self.days, self.part.stop)
            eligible = self.panel.codes_with(self.panel.samples, start, stop)
            if len(eligible):
                dealt = eligible[permutation(mix(self.seed, epoch, 1, start), len(eligible))]
                groups = np.array_split(dealt, -(-len(dealt) // self.codes))
                blocks += [Block(day, np.sort(codes)) for codes in groups]
        order = permutation(mix(self.seed, epoch, 2), len(blocks))
        if self.half_life:
            age = np.array([max(self.part.stop - (block.day + self.days), 0) for block in blocks])
            drawn = random_bits(mix(self.seed, epoch, 5), len(age)) / 2.0**64
            order = order[(drawn < 0.5 ** (age / self.half_life))[order]]
        return [blocks[i] for i in order]


def most_codes(blocks: Sequence[Block]) -> int:
    """Codes of the largest of the blocks; 0 without any."""
    return max((len(block.codes) for block in blocks), default=0)


def scoring_blocks(panel: Panel, part: Days, days: int) -> list[Block]:
    """Blocks that cover every present row of a part, in the order of days, each with all codes of its days."""
    starts = range(part.start, part.stop, days)
    found = ((day, panel.codes_with(panel.present, day, min(day + days, part.stop))) for day in starts)
    return [Block(day, codes) for day, codes in found if len(codes)]


def count_samples(panel: Panel, part: Days, block: Block, days: int) -> int:
    """Entries of a block with a target for at least one horizon; reads no row."""
    start = max(block.day, part.start)
    stop = max(min(block.day + days, part.stop), start)
    return int(panel.count(panel.samples, block.codes, start, stop).sum())
