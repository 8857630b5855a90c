"""The probability of backtest overfitting, by combinatorially symmetric cross-validation.

Bailey, Borwein, Lopez de Prado and Zhu 2017, "The Probability of Backtest Overfitting", Journal of Computational
Finance 20(4). The days are cut into S blocks. Of every way to call half of the blocks in sample: which series is the
best in sample, and what is its rank out of sample? The share of ways in which it is no better than the median is the
probability of overfitting. A series is as good as its mean.

T days, N series, S blocks, C = S choose S / 2 ways
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

BLOCKS = 16
CHUNK = 4_000_000  # ways x series


class Overfitting(NamedTuple):
    """What becomes of the best in sample out of sample."""

    probability: float  # that it is no better than the median
    loss: float  # that its mean is not above 0
    inside: float  # its mean in sample, mean over all ways
    outside: float  # the same out of sample


def overfitting(series: npt.ArrayLike, blocks: int = BLOCKS) -> Overfitting:
    """The probability of overfitting of a choice by the largest mean.

    Args:
        series: [T, N] float, finite, of at least two series; the first T modulo `blocks` days are left out.
        blocks: S, an even number of at most T.
    """
    x = np.asarray(series, np.float64)
    length, n = len(x) // blocks, x.shape[1]
    means = x[len(x) - length * blocks :].reshape(blocks, length, n).mean(1)
    ways = np.array(list(combinations(range(blocks), blocks // 2)))
    inside_of = np.zeros((len(ways), blocks))
    np.put_along_axis(inside_of, ways, 2 / blocks, 1)
    low, lost, inside, outside = 0, 0, 0.0, 0.0
    step = max(CHUNK // n, 1)
    for start in range(0, len(ways), step):
        some = inside_of[start : start + step]
        within, out = some @ means, (2 / blocks - some) @ means
        best = within.argmax(1)
        own = np.take_along_axis(out, best[:, None], 1)
        rank = (out < own).sum(1) + ((out == own).sum(1) + 1) / 2  # 1..N, ties share theirs
        low += int((rank / (n + 1) <= 0.5).sum())
        lost += int((own <= 0).sum())
        inside += float(np.take_along_axis(within, best[:, None], 1).sum())
        outside += float(own.sum())
    count = len(ways)
    return Overfitting(low / count, lost / count, inside / count, outside / count)
