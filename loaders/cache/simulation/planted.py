"""The signal planted in a simulated market, and what it lets a perfect and a linear model reach, in closed form.

A day's signal is a sum over INGREDIENTS of that day, each of mean 0, variance 1 and uncorrelated with the others:

    g[t] =  sqrt(LINEAR / 2)  (f1 - ret_1)             linear in today's features
          + sqrt(PRODUCT / 2) (f1 - ret_1) f2          the same effects, stronger where f2 is high
          + sqrt(LAGGED / 5)  sum f3[t - 5 .. t - 9]   nothing of it shows in today's features

f1 and f2 are first-order autoregressions with coefficient PERSISTENCE, ret_1 and f3 are independent from day to day.
The return of day t + 1, in units of its standard deviation without the market, is

    a g[t] + b ret_1[t + 1]        with a = scale, a^2 + b^2 = 1

so ret_1 is the surprise of the day's own return, and yesterday's surprise is partly taken back. Since

    E[f1[t+k] | t] = p^k f1[t],   E[f1 f2 [t+k] | t] = p^2k f1 f2 [t],   E[ret_1[t+k] | t] = E[f3[t+k] | t] = 0

the best forecast of the return over days t+1..t+h is again linear in the day's ingredients (`forecast`), with lags of
f3 that come into their window on the way. H horizons, K ingredients
"""

import math

import numpy as np
import numpy.typing as npt

from loaders.cache.simulation.market import GAP_STARTS, LOADING, LONGEST_GAP, MARKET_SD, RETURN_SD

Float = npt.NDArray[np.float64]

LINEAR, PRODUCT, LAGGED = 0.24, 0.24, 0.52  # shares of the signal's variance at one day ahead
PERSISTENCE = 0.8  # of f1 and f2
FIRST_LAG, LAST_LAG = 5, 9  # days back of the first and last f3 in the signal
PLANTED = ("ret_1", "f1", "f2", "f3")
INGREDIENTS = ("ret_1", "f1", "ret_1 f2", "f1 f2", "f3[t]", *(f"f3[t-{lag}]" for lag in range(1, LAST_LAG + 1)))
TODAY = (0, 1, 4)  # ingredients that are features of the day itself: all that a linear model sees
SHOWN = 1 - GAP_STARTS * (1 + (LONGEST_GAP - 1) / 4)  # share of lags that no gap hides; a gap is 1 + 19 u^3 days
LARGEST_SCALE = 0.99


def forecast(horizon: int) -> Float:
    """Coefficients [K] of E[g[t] + .. + g[t + horizon - 1] | features up to day t]; with horizon 1, of g itself."""
    ahead = np.arange(horizon)
    lags = np.arange(LAST_LAG + 1)[:, None] + ahead
    linear, product = math.sqrt(LINEAR / 2), math.sqrt(PRODUCT / 2)
    known = math.sqrt(LAGGED / (LAST_LAG - FIRST_LAG + 1)) * ((lags >= FIRST_LAG) & (lags <= LAST_LAG)).sum(1)
    slow = np.array(
        [-linear, linear * (PERSISTENCE**ahead).sum(), -product, product * (PERSISTENCE ** (2 * ahead)).sum()]
    )
    return np.concatenate([slow, known])


def return_variance(horizon: int, scale: float) -> float:
    """Variance, within a day, of the return over `horizon` days, in units of one day's own return variance."""
    apart = np.abs(np.subtract.outer(np.arange(horizon), np.arange(horizon)))
    width = LAST_LAG - FIRST_LAG + 1
    signal = (
        LINEAR / 2 * (PERSISTENCE**apart).sum()
        + PRODUCT / 2 * (horizon + (PERSISTENCE ** (2 * apart)).sum())
        + SHOWN * LAGGED / width * np.maximum(width - apart, 0).sum()
    )
    # ret_1 moves its own day's return by b and the next day's by -reversal: inside the window both add up.
    noise, reversal = math.sqrt(1 - scale**2), scale * math.sqrt(LINEAR / 2)
    surprises = reversal**2 + (horizon - 1) * (noise - reversal) ** 2 + noise**2
    return float(scale**2 * signal + surprises + horizon * (LOADING * MARKET_SD / RETURN_SD) ** 2)


def expected_rank_ic(horizon: int, scale: float, linear_only: bool = False) -> float:
    """RankIC of the best forecast, or of the best forecast that is linear in the day's features.

    For Gaussian variables of correlation r, Spearman's is 6/pi asin(r/2). The forecast is Gaussian only given f2, with
    a variance v(f2), which lowers its rank correlation, to first order in r, by E sqrt(v + v') / sqrt(2 E v), where v'
    is an independent copy. Neglected: that lags are missing in the first days of a span, that the spread of the market
    loadings is not the same every day, and terms of the order of 1 / codes; under 1% of the value on panels of some
    hundred codes and a few years.
    """
    c = forecast(horizon)
    c[4:] *= math.sqrt(SHOWN)
    used = c[list(TODAY)] if linear_only else c
    correlation = scale * np.linalg.norm(used) / math.sqrt(return_variance(horizon, scale))
    gaussian = 6 / math.pi * math.asin(correlation / 2)
    return gaussian if linear_only else gaussian * _mixture(c)


def _mixture(c: Float) -> float:
    """E sqrt(v + v') / sqrt(2 E v) over independent standard normal f2, f2', by Gauss-Hermite quadrature."""
    f2, weight = np.polynomial.hermite_e.hermegauss(64)
    weight = weight / weight.sum()
    v = (c[0] + c[2] * f2) ** 2 + (c[1] + c[3] * f2) ** 2 + (c[4:] ** 2).sum()
    return float(weight @ np.sqrt(np.add.outer(v, v)) @ weight / math.sqrt(2 * weight @ v))


def scale_for(ic: float, horizon: int) -> float:
    """The scale a at which the best forecast of that horizon has RankIC `ic`; NaN where none up to 0.99 reaches it."""
    if expected_rank_ic(horizon, LARGEST_SCALE) < ic:
        return math.nan
    low, high = 0.0, LARGEST_SCALE
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if expected_rank_ic(horizon, middle) < ic else (low, middle)
    return high
