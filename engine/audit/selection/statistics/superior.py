"""Whether the best of many series has a mean above 0: White's reality check, and Hansen's test for superior ability.

White 2000, "A Reality Check for Data Snooping", Econometrica 68(5): the largest mean against the largest of resampled
means, each less its own mean. Hansen 2005, "A Test for Superior Predictive Ability", Journal of Business and Economic
Statistics 23(4): means are divided by a scale of their own, and series that are so bad that they cannot be the best,
below -sqrt(2 log log T) standard errors, are left at their own mean (the consistent p), so that bad ones do not hide a
good one. Both resample whole days by the stationary bootstrap, so correlations between series are kept.

Two choices keep the tests near their level where days are correlated. The scale is the daily standard deviation: the
long-run one is a noisy estimate that the draws do not repeat. Blocks are twice as long as is best for a variance.

T days, N series, R draws
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.audit.selection.statistics.block_length import block_length
from engine.audit.selection.statistics.stationary_bootstrap import long_run_variance, resampled_means

DRAWS = 5_000
MOST_LENGTHS = 50  # series whose block length is estimated


class Superior(NamedTuple):
    """p-values of the hypothesis that no series has a mean above 0."""

    reality_check: float  # White's
    superior: float  # Hansen's, consistent
    block: float  # mean length of a block, days


def superior_test(series: npt.ArrayLike, horizon: int, draws: int = DRAWS, seed: int = 0) -> Superior:
    """Test whether the best series has a mean above 0.

    Args:
        series: [T, N] float, finite.
        horizon: h, days that a label covers: blocks are at least as long.
    """
    x = np.asarray(series, np.float64)
    days, mean = len(x), x.mean(0)
    block = min(max(2 * common_block_length(x), horizon), days / 3)
    drawn = resampled_means(x, block, draws, seed) - mean
    white = _p(drawn.max(1), mean.max())
    varies = x.max(0) > x.min(0)
    if not varies.any():
        return Superior(white, math.nan, block)
    mean, scale = mean[varies], x[:, varies].std(0)
    error = np.sqrt(np.maximum(long_run_variance(x[:, varies], block), 0) / days)
    bad = mean < -math.sqrt(2 * math.log(math.log(max(days, 3)))) * error
    studentised = (drawn[:, varies] + np.where(bad, mean, 0)) / scale
    return Superior(white, _p(np.maximum(studentised.max(1), 0), max((mean / scale).max(), 0.0)), block)


def common_block_length(x: npt.NDArray[np.float64]) -> float:
    """One length for all series: the median of theirs, or that of the best where it is longer."""
    some = np.unique(np.linspace(0, x.shape[1] - 1, min(x.shape[1], MOST_LENGTHS)).round().astype(int))
    own = block_length(x[:, int(x.mean(0).argmax())])
    return max(own, float(np.median([block_length(x[:, i]) for i in some])))


def _p(drawn: npt.NDArray[np.float64], found: float) -> float:
    return (1 + float((drawn >= found).sum())) / (1 + len(drawn))
