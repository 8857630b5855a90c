"""The test of the best of many series: its t, held against that of the best of as many series of mean 0.

`mean_test` divides a mean by the root mean square of B cosine transforms, which are independent of the mean and of its
variance. So under mean 0 and correlations R of the series, the t of all of them are

    t_i = Z_0i / sqrt(mean_j Z_ji^2),    j = 1..B,    Z_j independent normal vectors of correlation R,

which is drawn here. As in the data, the series of the largest mean is chosen. Correlated series are so worth fewer
independent ones by as much as they are, without an estimate of how many.

T days, N series
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.score.standard_error import degrees_of_freedom, mean_test, two_sided_p

DRAWS = 10_000
MOST_NUMBERS = 30_000_000  # normal numbers that are drawn, about a second
CHUNK = 2_000_000


class LargestT(NamedTuple):
    """The best series, and whether its mean could be luck."""

    best: int  # which series has the largest mean
    t: float  # its t; NaN where there is no test
    p_alone: float  # one-sided, of this series as if it were the only one
    p: float  # one-sided, of the best of N


def best_test(series: npt.ArrayLike, horizon: int, draws: int = DRAWS, seed: int = 0) -> LargestT:
    """Test whether the series of the largest mean has a mean above 0.

    Args:
        series: [T, N] float, finite.
        horizon: h, days that a label covers.
        draws: fewer are taken of many series, down to 1,000.
    """
    x = np.asarray(series, np.float64)
    best = int(x.mean(0).argmax())
    t = float(mean_test(x[:, best], horizon).t)
    degrees = degrees_of_freedom(len(x), horizon)
    if not math.isfinite(t):
        return LargestT(best, math.nan, math.nan, math.nan)
    p_alone = upper_p(t, degrees)
    if x.shape[1] == 1:
        return LargestT(best, t, p_alone, p_alone)
    drawn = _drawn(x, degrees, draws, seed)
    p = (1 + float((drawn >= t).sum())) / (1 + len(drawn))
    return LargestT(best, t, p_alone, min(p, x.shape[1] * p_alone))  # Bonferroni's bound where draws are too few


def upper_p(t: float, degrees: int) -> float:
    """P(Student's t > t)."""
    half = float(two_sided_p(t, degrees)) / 2
    return half if t > 0 else 1 - half


def p_of_many(p: float, count: float) -> float:
    """P(the smallest of `count` independent p-values is as small as this), Sidak 1967."""
    return -math.expm1(count * math.log1p(-p)) if p < 1 else 1.0


def t_needed(level: float, count: float, degrees: int) -> float:
    """The t that the best of `count` independent series exceeds with this probability, all of them of mean 0."""
    low, high = 0.0, 1e4
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if p_of_many(upper_p(middle, degrees), count) > level else (low, middle)
    return high


def _drawn(x: npt.NDArray[np.float64], degrees: int, draws: int, seed: int) -> npt.NDArray[np.float64]:
    """The t of the best of N series of mean 0, correlated as x [T, N], of some thousand draws."""
    scale = x.std(0)
    varies = x.max(0) > x.min(0)
    centred = np.where(varies, (x - x.mean(0)) / np.where(varies, scale, 1), 0.0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(x))
    some = values > values.max(initial=0) * 1e-10
    factor = (vectors[:, some] * np.sqrt(values[some])).T  # [K, N]
    numbers = (degrees + 1) * len(factor)
    draws = min(draws, max(MOST_NUMBERS // numbers, 1000))
    rng, found = np.random.default_rng(seed), []
    while draws > 0:
        some_draws = min(max(CHUNK // numbers, 1), draws)
        z = rng.standard_normal((some_draws, degrees + 1, len(factor))) @ factor
        chosen = np.where(varies, z[:, 0] * scale, -np.inf).argmax(1)
        own = np.take_along_axis(z, chosen[:, None, None], 2)[:, :, 0]
        found.append(own[:, 0] / np.sqrt((own[:, 1:] ** 2).mean(1)))
        draws -= some_draws
    return np.concatenate(found)
