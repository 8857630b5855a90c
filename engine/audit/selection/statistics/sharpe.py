"""The probability that a Sharpe ratio is above another one, and above what the best of many trials reaches by luck.

Bailey and Lopez de Prado 2012, "The Sharpe Ratio Efficient Frontier" (probabilistic); 2014, "The Deflated Sharpe Ratio".
All Sharpe ratios here are of one observation, not annual.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.audit.selection.statistics.maximum import expected_maximum


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
