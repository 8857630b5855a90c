"""Plain torch: the same soft ranks by a sort and `logcumsumexp`, differentiated by autograd.

Our operator falls back on it where its own kernels do not apply.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor

from bench.workloads.ranking import TAU, Ranking, Sections, with_gradients
from kernels.ranks import soft_ranks, standardise

TASK = "soft_rank"
NEEDS = ("torch",)
BLOCKS = 2


@contextmanager
def build(work: Ranking) -> Iterator[Ranking]:
    """Supports every task."""
    yield work


def run(_work: Ranking, blocks: list[Sections]) -> Iterator[tuple[Tensor, ...]]:
    """Yield, for each block, ranks and gradient, [G, N] each."""
    for block in blocks:
        yield with_gradients(partial(ranks, block.mask.float()), block.scores, upstream=block.upstream)


def ranks(valid: Tensor, scores: Tensor) -> Tensor:
    """Soft ranks of [G, N] by its valid entries, 1 or 0."""
    return soft_ranks(standardise(scores, valid), valid, TAU)
