"""Stacking: weights of several sources, fitted on earlier days of the same scores and then fixed.

Weights w of a horizon are 0 or more, and the least squares of

    sum over days of  mean over the day's samples of (r - sum_k w_k z_k)^2,

r the rank of the target within the day and z_k the z-scores of source k (Breiman 1996, "Stacked regressions", who shows
why they must not be negative). They are scaled to sum 1: a cross-section's order does not depend on the scale.

K sources, N samples
"""

from itertools import combinations

import numpy as np
import numpy.typing as npt

from engine.score.cross_section import ranks_within_day, samples_of, zscores_within_day

Float = npt.NDArray[np.float64]

MOST_SOURCES = 12  # whose subsets are all tried


def stack_weights(scores: list[npt.NDArray[np.floating]], targets: npt.ArrayLike, day: npt.ArrayLike) -> Float:
    """Weights [K], 0 or more and of sum 1; all the same where no source has a positive one.

    Args:
        scores: of each source [N], finite.
        targets: [N], NaN where there is none. Days with fewer than 20 do not count.
        day: [N] int.

    Raises ValueError for more than MOST_SOURCES sources, and without a day that counts.
    """
    if len(scores) > MOST_SOURCES:
        raise ValueError(f"{len(scores)} sources, at most {MOST_SOURCES} can be stacked")
    samples = samples_of(targets, day)
    if not len(samples.days):
        raise ValueError("no day has 20 samples")
    days = np.repeat(samples.days, samples.counts)
    z = np.stack([zscores_within_day(each[samples.rows], days) for each in scores], 1)
    rank = ranks_within_day(samples.targets, days)
    of_day = np.repeat(1 / samples.counts, samples.counts)  # a day weighs as much as any other
    gram, moment = (z * of_day[:, None]).T @ z, (z * of_day[:, None]).T @ rank
    weights = _nonnegative(gram, moment)
    return weights / weights.sum() if weights.any() else np.full(len(scores), 1 / len(scores))


def _nonnegative(gram: Float, moment: Float) -> Float:
    """argmin w'Gw - 2 m'w over w >= 0: the best of the solutions on all subsets that are feasible."""
    best, least = np.zeros(len(moment)), 0.0
    for size in range(1, len(moment) + 1):
        for subset in map(list, combinations(range(len(moment)), size)):
            solved = np.linalg.lstsq(gram[np.ix_(subset, subset)], moment[subset], rcond=None)[0]
            value = -float(solved @ moment[subset])
            if (solved >= 0).all() and value < least:
                best, least = np.zeros(len(moment)), value
                best[subset] = solved
    return best
