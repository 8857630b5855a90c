"""Plain torch: the same terms of the objective, one after the other, differentiated by autograd."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from bench.workloads.ranking import TAU, Ranking, Sections, with_gradients
from kernels.rank_terms import rank_terms, weigh
from kernels.ranks import average_ranks

TASK = "objective"
NEEDS = ("torch",)
BLOCKS = 1


@contextmanager
def build(work: Ranking) -> Iterator[Ranking]:
    """Supports every task."""
    yield work


def run(work: Ranking, blocks: list[Sections]) -> Iterator[tuple[Tensor, ...]]:
    """Yield, for each block, the loss [] and its gradients by the scores [G, N] and by the quantiles [G, N, Q]."""
    for block in blocks:
        yield with_gradients(partial(loss, work.terms, block), block.scores, block.quantiles)


def loss(terms: tuple[str, ...], block: Sections, scores: Tensor, quantiles: Tensor | None = None) -> Tensor:
    """The weighted sum of the terms of a block as a single horizon, in the precision of the scores."""
    mask, kind = block.mask[None], scores.dtype
    aims = average_ranks(block.targets[None].to(kind), mask.to(kind))
    values = rank_terms(
        scores[None], aims, block.returns[None], mask, terms,
        quantiles=None if quantiles is None else quantiles[None], levels=block.levels.to(kind),
        rotations=block.rotations, tau=TAU,
    )  # fmt: skip
    return weigh(values, mask, block.weights.to(kind), torch.ones(1, dtype=kind, device=scores.device))[0]
