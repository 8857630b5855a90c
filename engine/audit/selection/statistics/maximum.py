"""The largest of many standard normal numbers: its mean, and how many independent ones correlated ones are worth.

Bailey and Lopez de Prado 2014, "The Deflated Sharpe Ratio", Journal of Portfolio Management 40(5): equation 1 for the
mean, appendix A.3 for the number.
"""

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt


def expected_maximum(count: float) -> float:
    """The mean of the largest of `count` independent standard normal numbers, 0 where there is one.

    By extreme value theory: (1 - g) z(1 - 1 / N) + g z(1 - 1 / (N e)), with Euler's g and the normal quantile z. At
    most 3% above the exact mean from N = 5 on.
    """
    if count <= 1:
        return 0.0
    z = NormalDist().inv_cdf
    return float((1 - np.euler_gamma) * z(1 - 1 / count) + np.euler_gamma * z(1 - 1 / (count * math.e)))


def effective_count(series: npt.ArrayLike) -> float:
    """How many independent series N correlated ones are worth: r + (1 - r) N, r their mean pairwise correlation.

    Args:
        series: [T, N] float. One that is constant counts as independent of the others.

    Returns a number from 1 to N: negative mean correlations count as 0.
    """
    x = np.asarray(series, np.float64)
    n = x.shape[1]
    if n < 2:
        return float(n)
    x = x - x.mean(0)
    size = np.sqrt((x**2).sum(0))
    total = (x / np.where(size > 0, size, 1)).sum(1)
    mean = (float(total @ total) - float((size > 0).sum())) / (n * (n - 1))
    mean = min(max(mean, 0.0), 1.0)
    return mean + (1 - mean) * n
