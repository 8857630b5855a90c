"""fast-soft-sort, by the authors of the projection in torchsort: NumPy and numba, row by row, on CPUs.

Forward and backward are its own `pytorch_ops`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from torch import Tensor

from bench.peers.ranking.torchsort import STRENGTH
from bench.workloads.ranking import CPU, Ranking, Sections, with_gradients

TASK = "soft_rank"
NEEDS = ("fast_soft_sort",)
BLOCKS = 1


@contextmanager
def build(work: Ranking) -> Iterator[Ranking]:
    """Supports no masks, and works in NumPy."""
    yield replace(work, masked=False, device=CPU)


def run(work: Ranking, blocks: list[Sections]) -> Iterator[tuple[Tensor, ...]]:
    """Yield, for each block, ranks and gradient, [G, N] each."""
    from fast_soft_sort.pytorch_ops import soft_rank

    ranks = partial(soft_rank, regularization_strength=STRENGTH / work.names)
    for block in blocks:
        yield with_gradients(ranks, block.scores, upstream=block.upstream)
