"""Plain torch: two `argsort` for ranks, a common form, exact only without ties.

It does less than ours, which averages the ranks of ties and supports masks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor

from bench.workloads.ranking import Ranking, Sections

TASK = "spearman"
NEEDS = ("torch",)
BLOCKS = 2


@contextmanager
def build(work: Ranking) -> Iterator[Ranking]:
    """Supports no masks."""
    yield replace(work, masked=False)


def run(work: Ranking, blocks: list[Sections]) -> Iterator[Tensor]:
    """Yield, for each block, the correlations of scores and targets, [G] float64: 1 - 6 sum d^2 / (n (n^2 - 1))."""
    n = work.names
    for block in blocks:
        distance = ranks(block.scores) - ranks(block.targets)
        yield 1 - 6 * distance.square().sum(-1).double() / (n * (n * n - 1))


def ranks(values: Tensor) -> Tensor:
    """0..n-1 along the last axis, ties in any order."""
    return values.argsort(-1).argsort(-1)
