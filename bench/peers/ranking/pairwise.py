"""Plain torch, the definition: the Laplace kernel's distribution function of all pairs, N^2 of everything.

The usual form of soft ranks by a kernel, differentiated by autograd.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from bench.peers.ranking._pairs import all_at_once
from bench.workloads.ranking import TAU, Ranking, Sections, with_gradients

TASK = "soft_rank"
NEEDS = ("torch",)
BLOCKS = 1
ARRAYS = 7  # of [G, N, N] at the same time, as measured


@contextmanager
def build(work: Ranking) -> Iterator[Ranking]:
    """Supports no masks, and only sizes that fit in memory."""
    yield all_at_once(work, ARRAYS)


def run(_work: Ranking, blocks: list[Sections]) -> Iterator[tuple[Tensor, ...]]:
    """Yield, for each block, ranks and gradient, [G, N] each."""
    for block in blocks:
        yield with_gradients(ranks, block.scores, upstream=block.upstream)


def ranks(scores: Tensor) -> Tensor:
    """1/2 + sum_j CDF(u_ij), [G, N], with u_ij = (z_i - z_j) / tau and CDF(u) = (1 - sign(u) expm1(-|u|)) / 2."""
    z = scores - scores.mean(-1, keepdim=True)
    z = z / (z.square().mean(-1, keepdim=True).sqrt() * TAU)
    u = z[:, :, None] - z[:, None, :]
    return (1 + scores.shape[-1] - (u.sign() * torch.expm1(-u.abs())).sum(-1)) / 2
