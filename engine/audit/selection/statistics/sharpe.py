"""The probability that a Sharpe ratio is above another one, and above what the best of many trials reaches by luck.

Bailey and Lopez de Prado 2012, "The Sharpe Ratio Efficient Frontier", Journal of Risk 15(2), for the former; 2014, "The
Deflated Sharpe Ratio", Journal of Portfolio Management 40(5), for the latter.
All Sharpe ratios here are of one observation, not annual.

T days, N series
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.audit.selection.statistics.maximum import expected_maximum
from engine.score.standard_error import mean_test


class Returns(NamedTuple):
    """What the formulas need of a series of returns."""

    sharpe: float  # mean / standard deviation; NaN where the series is constant
    skewness: float
    kurtosis: float  # 3 of a normal distribution
    observations: float


def returns_of(series: npt.ArrayLike) -> Returns:
    """The moments of a series [T]."""
    x = np.asarray(series, np.float64)
    if len(x) < 2 or not x.max() > x.min():
        return Returns(math.nan, math.nan, math.nan, len(x))
    z = (x - x.mean()) / x.std()
    return Returns(float(x.mean() / x.std(ddof=1)), float((z**3).mean()), float((z**4).mean()), len(x))


def probabilistic_sharpe(returns: Returns, benchmark: float) -> float:
    """P(the true Sharpe ratio is above the benchmark), where returns are independent and need not be normal."""
    sharpe, skewness, kurtosis, observations = returns
    spread = 1 - skewness * sharpe + (kurtosis - 1) / 4 * sharpe**2
    if not (observations > 1 and spread > 0):
        return math.nan
    return NormalDist().cdf((sharpe - benchmark) * math.sqrt((observations - 1) / spread))


def deflated_sharpe(returns: Returns, trials: float, variance: float) -> float:
    """The same, above the expected largest of `trials` Sharpe ratios that are all luck.

    Args:
        variance: of the trials' Sharpe ratios.
    """
    return probabilistic_sharpe(returns, math.sqrt(variance) * expected_maximum(trials))


class BestSharpe(NamedTuple):
    """The series of the largest Sharpe ratio, and whether the ratio could be luck."""

    best: int
    returns: Returns  # of this series
    deflated: float  # NaN where the formula does not apply


def best_sharpe(series: npt.ArrayLike, horizon: int, trials: float) -> BestSharpe | None:
    """The deflated Sharpe ratio of the best of several series of returns; None where none of them varies.

    The spread of ratios that are all luck is that of the series', and at most that of a ratio that is 0, one over the
    root of the observations: what goes beyond is no luck.

    Args:
        series: [T, N] returns over `horizon` days, on every day.
        trials: series that were tried in all.
    """
    x = np.asarray(series, np.float64)
    every = [overlapping_returns(x[:, i], horizon) for i in range(x.shape[1])]
    ratios = np.array([each.sharpe for each in every])
    finite = ratios[np.isfinite(ratios)]
    if not len(finite):
        return None
    best = int(np.nanargmax(ratios))
    luck = 1 / every[best].observations
    spread = min(float(finite.var(ddof=1)), luck) if len(finite) > 1 else luck
    return BestSharpe(best, every[best], deflated_sharpe(every[best], trials, spread))


def overlapping_returns(series: npt.NDArray[np.float64], horizon: int) -> Returns:
    """The moments of returns [T] over `horizon` days, on every day.

    The ratio is the mean of those of the h phases of every h-th day. Observations are T / h, or fewer: as many
    independent ones as the standard error of `mean_test` is worth, where days are correlated beyond the overlap.
    """
    ratio = float(np.mean([returns_of(series[phase::horizon]).sharpe for phase in range(horizon)]))
    observations, test = len(series) / horizon, mean_test(series, horizon)
    if test.se > 0:
        observations = min(observations, float(series.var() / test.se**2))
    return returns_of(series)._replace(sharpe=ratio, observations=observations)
