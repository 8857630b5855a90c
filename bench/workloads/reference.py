"""Ranking operators by their definitions: every pair of entries compared, in float64. Slow, for a few rows.

n valid entries of a cross-section
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]  # [n]
CHUNK = 256  # entries compared with all others at a time


def soft_rank(scores: npt.NDArray[Any], upstream: npt.NDArray[Any], tau: float) -> tuple[Vector, Vector]:
    """Soft ranks of a cross-section, and the gradient by its scores of sum(upstream * soft ranks).

    softrank_i = 1/2 + sum_j CDF(u_ij) with u_ij = (z_i - z_j) / tau and the Laplace distribution, whose density is
    exp(-|u|) / 2; z are the scores in deviations from their mean.
    """
    scores, upstream = scores.astype(np.float64), upstream.astype(np.float64)
    deviation = scores.std()
    z = (scores - scores.mean()) / deviation
    ranks, by_z = np.empty_like(z), np.empty_like(z)
    for begin in range(0, len(z), CHUNK):
        some = slice(begin, begin + CHUNK)
        u = (z[some, None] - z) / tau
        density = np.exp(-np.abs(u)) / 2
        ranks[some] = 0.5 + np.where(u < 0, density, 1 - density).sum(1)
        by_z[some] = (density * (upstream[some, None] - upstream)).sum(1) / tau
    return ranks, (by_z - by_z.mean() - z * (by_z * z).mean()) / deviation


def spearman(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Pearson's correlation of the average ranks of two [n], neither of them constant."""
    x, y = (ranks - ranks.mean() for ranks in (average_ranks(a), average_ranks(b)))
    return float((x @ y) / math.sqrt((x @ x) * (y @ y)))


def average_ranks(values: npt.NDArray[Any]) -> Vector:
    """1 + the number of lower values + half the number of other equal ones."""
    ranks = np.empty(len(values))
    for begin in range(0, len(values), CHUNK):
        some = values[begin : begin + CHUNK, None]
        ranks[begin : begin + CHUNK] = (values < some).sum(1) + ((values == some).sum(1) + 1) / 2
    return ranks
