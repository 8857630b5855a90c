"""Our own soft ranks alone, forward and backward: the part of the objective that needs a sort."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor

from bench.workloads.ranking import TAU, Ranking, Sections, with_gradients
from kernels.soft_rank import soft_rank

TASK = "objective"
NEEDS = ("torch",)
BLOCKS = 4


@contextmanager
def build(work: Ranking) -> Iterator[Ranking]:
    """Supports every task; computes a part of it."""
    yield work


def run(_work: Ranking, blocks: list[Sections]) -> Iterator[tuple[Tensor, ...]]:
    """Yield, for each block, ranks and gradient, [G, N] each."""
    for block in blocks:
        yield with_gradients(partial(soft_rank, mask=block.mask, tau=TAU), block.scores, upstream=block.upstream)
