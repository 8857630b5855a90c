"""Plain torch: the logistic loss of all pairs of a cross-section (RankNet, Burges et al. 2005), N^2 of everything.

Ours takes K rotations of the cross-section instead, drawn anew at each step: K N pairs that estimate the same mean.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from bench.peers.ranking._pairs import all_at_once
from bench.workloads.ranking import Ranking, Sections, with_gradients

TASK = "pairwise"
NEEDS = ("torch",)
BLOCKS = 1
ARRAYS = 7  # of [G, N, N] at the same time, as measured


@contextmanager
def build(work: Ranking) -> Iterator[Ranking]:
    """Supports no masks, and only sizes that fit in memory."""
    yield all_at_once(work, ARRAYS)


def run(_work: Ranking, blocks: list[Sections]) -> Iterator[tuple[Tensor, ...]]:
    """Yield, for each block, the loss [] and its gradient by the scores [G, N]."""
    for block in blocks:
        yield with_gradients(partial(loss, block.targets), block.scores)


def loss(targets: Tensor, scores: Tensor) -> Tensor:
    """Mean over the cross-sections [G, N] of the mean logistic loss, in bits, of the pairs whose targets differ."""
    z = scores - scores.mean(-1, keepdim=True)
    z = z / z.square().mean(-1, keepdim=True).sqrt()
    sign = (targets[:, :, None] - targets[:, None, :]).sign()
    losses = F.softplus((z[:, None, :] - z[:, :, None]) * sign) * sign.abs()
    return (losses.sum((-1, -2)) / sign.abs().sum((-1, -2)).clamp(min=1)).mean() / math.log(2)
