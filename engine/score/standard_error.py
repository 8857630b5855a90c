"""Standard error and t test of the mean of a daily series whose days are correlated: equal-weighted cosines.

The B cosine transforms of slowest change of a series x of T days,

    X_j = sqrt(2 / T) sum_t x_t cos(pi j (t - 1/2) / T),    j = 1..B,

are nearly independent, of the variance that the mean has times T. So se^2 = mean(X_j^2) / T, and mean / se follows
Student's t with B degrees of freedom (Lazarus, Lewis, Stock and Watson 2018, "HAR Inference: Recommendations for
Practice"). Their B = 0.4 T^(2/3). Labels of h days overlap, and where scores persist their correlation reaches h - 1
days; the transforms see it whole only where they change little within h days, hence B <= T / (3h) as well.

Newey and West's estimate with few lags and normal critical values finds too much: docs/metrics.md has the sizes of both
tests, examples/standard_errors.py measures them.

T days, B cosines
"""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]


class MeanTest(NamedTuple):
    """The test of mean = 0, an entry for each series. NaN where the series is too short or does not vary."""

    se: Any  # standard error of the mean
    t: Any  # mean / se
    p: Any  # two-sided, by Student's t with `degrees_of_freedom`


def mean_test(series: npt.ArrayLike, horizon: int) -> MeanTest:
    """Test whether the mean over days is 0.

    Args:
        series: [..., T] float, the days last.
        horizon: h, days that a label covers.
    """
    x = np.asarray(series, np.float64)
    days, degrees = x.shape[-1], degrees_of_freedom(x.shape[-1], horizon)
    if not degrees:
        nothing = np.full(x.shape[:-1], np.nan)[()]
        return MeanTest(nothing, nothing, nothing)
    mean = x.mean(-1)
    cosines = np.cos(np.pi / days * np.outer(np.arange(days) + 0.5, np.arange(1, degrees + 1)))
    transforms = math.sqrt(2 / days) * ((x - mean[..., None]) @ cosines)
    varies = x.max(-1) > x.min(-1)  # by the range: rounding keeps the variance of a constant from being 0
    se = np.where(varies, np.sqrt((transforms**2).mean(-1) / days), 0.0)[()]
    t = mean / np.where(se > 0, se, np.nan)
    return MeanTest(se, t, two_sided_p(t, degrees))


def degrees_of_freedom(days: int, horizon: int) -> int:
    """B of `mean_test`. 0 where there are fewer than 3h days: no test then."""
    return min(max(int(0.4 * days ** (2 / 3)), 1), days // (3 * horizon))


def two_sided_p(t: npt.ArrayLike, degrees: int) -> Any:
    """P(|Student's t| > |t|), an entry for each t; exact to 1e-14 (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = np.arctan(np.abs(np.asarray(t, np.float64)) / math.sqrt(degrees))
    sine, cosine = np.sin(angle), np.cos(angle)
    odd = degrees % 2
    term = cosine if odd else np.ones_like(angle)
    total = np.zeros_like(angle)
    for k in range(1 + odd, degrees, 2):
        total = total + term
        term = term * cosine**2 * k / (k + 1)
    inside = (angle + sine * total) * 2 / math.pi if odd else sine * total
    return np.clip(1 - inside, 0, 1)[()]


def half_width(se: float, days: int, horizon: int, level: float = 0.95) -> float:
    """Half the width of the interval around a mean that `mean_test` gives; NaN where there is no test.

    Args:
        se: standard error of the mean of that many days, of labels over `horizon` days.
    """
    degrees = degrees_of_freedom(days, horizon)
    if not degrees or not math.isfinite(se):
        return math.nan
    low, high = 0.0, 1e4
    for _ in range(60):  # bisection: p falls with t
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, degrees) > 1 - level else (low, middle)
    return se * high
