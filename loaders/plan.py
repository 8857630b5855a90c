"""The plan of an epoch: which blocks, in which order.

A block is D consecutive days times up to S codes. The days of the part are cut into stretches of D at a random phase
(so that borders move from epoch to epoch); in each stretch the codes that have a sample there are dealt into random
groups of equal size, at most S; all blocks are then shuffled. Every training sample is in exactly one block, and so
once in every epoch; with a half-life, older blocks are left out at random, more of them the older they are.

The plan is a pure function of (seed, epoch), and block number i of an epoch is dealt when it is asked for: the state to
resume is (seed, epoch, position), whatever the number of threads, the tier or the number of ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import overload

import numpy as np

from loaders.errors import InputError
from loaders.order import below, mix, permutation, random_bits
from loaders.panel import Int, Panel
from loaders.split import Days


@dataclass(frozen=True)
class Block:
    """Scored days day..day+D-1 of some codes; days outside `part` belong to no sample."""

    day: int
    codes: Int


@dataclass(frozen=True)
class Epoch(Sequence[Block]):
    """The blocks of one epoch, or of a rank's share of it, in their order: made when they are asked for."""

    key: tuple[int, int]  # seed and epoch
    day: Int  # [stretches] first day, maybe before the part
    start: Int  # [stretches] first day inside the part
    eligible: tuple[Int, ...]  # per stretch, its codes with a sample
    groups: Int  # [stretches] blocks of each
    order: Int  # [blocks] numbers of the blocks, in the order in which they come
    dealt: dict[int, Int] = field(default_factory=dict)  # per stretch, its codes in their random order

    def __len__(self) -> int:
        return len(self.order)

    @property
    def most_codes(self) -> int:
        """Codes of the largest block of the whole epoch."""
        sizes = np.array([len(eligible) for eligible in self.eligible])
        return int((-(-sizes // self.groups)).max())

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> list[Block]: ...
    def __getitem__(self, index: int | slice) -> Block | list[Block]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = int(self.order[index])
        ends = np.cumsum(self.groups)
        stretch = int(np.searchsorted(ends, number, "right"))
        if stretch not in self.dealt:
            eligible = self.eligible[stretch]
            key = mix(*self.key, 1, int(self.start[stretch]))
            self.dealt[stretch] = eligible[permutation(key, len(eligible))]
        group = number - int(ends[stretch] - self.groups[stretch])
        # As np.array_split: the first `longer` groups hold one code more.
        size, longer = divmod(len(self.dealt[stretch]), int(self.groups[stretch]))
        low = group * size + min(group, longer)
        codes = self.dealt[stretch][low : low + size + (group < longer)]
        return Block(int(self.day[stretch]), np.sort(codes))

    def first(self, blocks: int) -> "Epoch":
        """The epoch cut off after its first blocks, which are a random choice of all."""
        return replace(self, order=self.order[:blocks])

    def share(self, position: int, rank: int = 0, ranks: int = 1) -> "Epoch":
        """The blocks of one rank from a position on, one a step: at each step the ranks take the next `ranks` blocks.

        Shares are disjoint and together the rest of the epoch, at any number of ranks: `position` counts blocks of all
        ranks. Where the blocks do not divide evenly, the last step has none for the highest ranks.
        """
        return replace(self, order=self.order[position + rank :: ranks])


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

    def epoch(self, epoch: int) -> Epoch:
        """The blocks of an epoch in their order. The same for the same (seed, epoch), whatever ran before."""
        phase = below(mix(self.seed, epoch, 0), self.days)
        stretches = []
        for day in range(self.part.start - phase, self.part.stop, self.days):
            start, stop = max(day, self.part.start), min(day + self.days, self.part.stop)
            eligible = self.panel.codes_with(self.panel.samples, start, stop)
            if len(eligible):
                stretches.append((day, start, eligible))
        days, starts, eligibles = zip(*stretches, strict=True)
        groups = np.array([-(-len(eligible) // self.codes) for eligible in eligibles])
        order = permutation(mix(self.seed, epoch, 2), int(groups.sum()))
        if self.half_life:
            age = np.maximum(self.part.stop - (np.repeat(days, groups) + self.days), 0)
            drawn = random_bits(mix(self.seed, epoch, 5), len(age)) / 2.0**64
            order = order[(drawn < 0.5 ** (age / self.half_life))[order]]
        return Epoch((self.seed, epoch), np.array(days), np.array(starts), eligibles, groups, order)


def most_codes(blocks: Sequence[Block]) -> int:
    """Codes of the largest of the blocks; 0 without any. Deals no block of an epoch."""
    if isinstance(blocks, Epoch):
        return blocks.most_codes
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
