"""Rows of a simulated market, one code at a time: features, presence, targets, and the best forecast of each target.

Every random value is number i of a stream of `loaders.random_bits`, keyed by (seed, stream, code, feature) with i the
calendar day, so it depends on nothing else: not on threads, nor on the number of codes, days or features simulated.
Autoregressions start on the calendar's first day, whenever the code is listed. On a day in a gap price and features
move on unseen; what lags contribute is what the cache shows, so the best forecast needs nothing but the cache.

n days in the code's span, F features, H horizons, K ingredients (see `planted`)
"""

import math

import numpy as np
import numpy.typing as npt

from kernels.jit.compile import jit
from loaders.cache.format import ABSENT, CONTEXT, SCORED
from loaders.random_bits import mix

Float = npt.NDArray[np.float64]

FEATURE, GAP, SIZE, LEVEL, BETA, MARKET, LISTING, DELISTING = STREAMS = range(8)
MARKET_SD, RETURN_SD = 0.01, 0.02  # daily standard deviation of the market's and of a code's own return
LOADING = 0.3  # standard deviation of the codes' loadings on the market, whose mean is 1
GAP_STARTS = 1 / 400  # share of days on which a gap starts
LONGEST_GAP = 20  # days; most are far shorter
OUTSIDE = -1.645  # the universe ends at this many standard deviations of size: the 5% quantile
SIZE_PERSISTENCE, LEVEL_SHARE = 0.995, 0.7  # of the size within a code; variance of size that is the code's level
MIN_SAMPLES = 20  # a day with fewer has no RankIC


@jit()
def _bits(key, i):  # type: ignore[no-untyped-def]
    """Value number i, from 0, of the stream `key`: `order.random_bits(key, i + 1)[i]`."""
    z = np.uint64(key) + (np.uint64(i) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@jit()
def _mix(key, part):  # type: ignore[no-untyped-def]
    """The key that `order.mix` gives after one more part."""
    return _bits(np.uint64(key) ^ np.uint64(part), 0)


@jit()
def _uniform(key, i):  # type: ignore[no-untyped-def]
    """In (0, 1), with 53 bits."""
    return (np.float64(_bits(key, i) >> np.uint64(11)) + 0.5) / 9007199254740992.0


@jit()
def normal_quantile(u: float) -> float:
    """The standard normal quantile of u in (0, 1), to 1e-7 relative: Wichura 1988, algorithm AS 241, routine PPND7."""
    q = u - 0.5
    if abs(q) <= 0.425:
        r = 0.180625 - q * q
        return (
            q
            * (((5.9109374720e1 * r + 1.5929113202e2) * r + 5.0434271938e1) * r + 3.3871327179)
            / (((6.7187563600e1 * r + 7.8757757664e1) * r + 1.7895169469e1) * r + 1.0)
        )
    r = math.sqrt(-math.log(min(u, 1.0 - u)))
    if r <= 5.0:
        r -= 1.6
        x = (((1.7023821103e-1 * r + 1.3067284816) * r + 2.7568153900) * r + 1.4234372777) / (
            (1.2021132975e-1 * r + 7.3700164250e-1) * r + 1.0
        )
    else:
        r -= 5.0
        x = (((1.7337203997e-2 * r + 4.2868294337e-1) * r + 3.0812263860) * r + 6.6579051150) / (
            (1.2258202635e-2 * r + 2.4197894225e-1) * r + 1.0
        )
    return x if q > 0 else -x


@jit()
def _normal(key, i):  # type: ignore[no-untyped-def]
    return normal_quantile(_uniform(key, i))


@jit(nogil=True)
def uniforms(key: np.uint64, n: int) -> Float:
    """The first n values in (0, 1) of a stream, float64 [n]."""
    out = np.empty(n)
    for i in range(n):
        out[i] = _uniform(key, i)
    return out


@jit(nogil=True)
def normals(key: np.uint64, n: int) -> Float:
    """The first n standard normal values of a stream, float64 [n]."""
    out = np.empty(n)
    for i in range(n):
        out[i] = _normal(key, i)
    return out


@jit()
def _presence(gap_key, size_key, level, first, presence):  # type: ignore[no-untyped-def]
    """Gaps inside the span (never its first and last day), and days on which the code is too small."""
    n, gap, size = len(presence), 0, 0.0
    for t in range(first + n):
        gap -= 1
        u = _uniform(gap_key, t) / GAP_STARTS
        if u < 1:
            gap = max(gap, 1 + int((LONGEST_GAP - 1) * u**3 + 0.5))
        step = _normal(size_key, t)
        size = step if t == 0 else SIZE_PERSISTENCE * size + math.sqrt(1 - SIZE_PERSISTENCE**2) * step
        if t >= first:
            if gap > 0 and first < t < first + n - 1:
                presence[t - first] = ABSENT
            elif math.sqrt(LEVEL_SHARE) * level + math.sqrt(1 - LEVEL_SHARE) * size < OUTSIDE:
                presence[t - first] = CONTEXT
            else:
                presence[t - first] = SCORED


@jit()
def _ingredients(x, presence, i, out):  # type: ignore[no-untyped-def]
    """The planted ingredients [K] of day i of the span; a lag that is absent or before the span is 0."""
    out[0], out[1] = x[i, 0], x[i, 1]
    out[2], out[3] = out[0] * x[i, 2], out[1] * x[i, 2]
    for lag in range(len(out) - 4):
        shown = i >= lag and presence[i - lag] != ABSENT
        out[4 + lag] = x[i - lag, 3] if shown else 0.0


@jit(nogil=True)
def simulate_code(  # type: ignore[no-untyped-def]
    keys, code, first, persistence, market, level, beta, scale, coefficients, horizons, x, presence, targets, forecast
):
    """Fill the n rows of one code.

    Args:
        keys: uint64 [8], key of each stream.
        code: its number.
        first: calendar day of its first row.
        persistence: float64 [F], autoregression coefficient of each feature, 0 for one independent from day to day.
        market: float64 [T], the market's return on each calendar day, in units of RETURN_SD.
        level: the code's mean size, standard normal.
        beta: its loading on the market.
        scale: weight a of the signal in a day's return.
        coefficients: float64 [1 + H, K] of the signal and of the best forecast for each horizon.
        horizons: int64 [H].
        x, presence, targets, forecast: outputs, float32 [n, F], uint8 [n], float32 [n, H], float32 [n, H]; the
            forecast is in units of RETURN_SD.
    """
    n, width = x.shape
    _presence(_mix(keys[GAP], code), _mix(keys[SIZE], code), level, first, presence)
    for f in range(width):
        key, p = _mix(_mix(keys[FEATURE], code), f), persistence[f]
        innovation, value = math.sqrt(1 - p * p), 0.0
        for t in range(0 if p else first, first + n):
            step = _normal(key, t)
            value = step if p == 0 or t == 0 else p * value + innovation * step
            if t >= first:
                x[t - first, f] = value

    noise = math.sqrt(1 - scale * scale)
    log_price = np.zeros(n)  # in units of RETURN_SD
    today = np.empty(coefficients.shape[1])
    signal = 0.0  # of the day before
    for i in range(n):
        if i > 0:
            log_price[i] = log_price[i - 1] + beta * market[first + i] + scale * signal + noise * x[i, 0]
        _ingredients(x, presence, i, today)
        signal = 0.0
        for k in range(len(today)):
            signal += coefficients[0, k] * today[k]
        for j in range(len(horizons)):
            best = 0.0
            for k in range(len(today)):
                best += coefficients[1 + j, k] * today[k]
            forecast[i, j] = scale * best
    for i in range(n):
        for j in range(len(horizons)):
            end = i + horizons[j]
            priced = end < n and presence[i] != ABSENT and presence[min(end, n - 1)] != ABSENT
            targets[i, j] = math.expm1(RETURN_SD * (log_price[end] - log_price[i])) if priced else np.nan
        if presence[i] == ABSENT:
            x[i] = 0


def stream_keys(seed: int) -> npt.NDArray[np.uint64]:
    """The key of each of STREAMS, uint64 [8]."""
    return np.array([mix(seed, stream) for stream in STREAMS], np.uint64)


def market_returns(key: np.uint64, days: int) -> Float:
    """The market's return on each day, float64 [days], in units of RETURN_SD."""
    return normals(key, days) * (MARKET_SD / RETURN_SD)


def market_loadings(key: np.uint64, codes: int) -> Float:
    """Each code's loading on the market, float64 [codes]."""
    return 1 + LOADING * normals(key, codes)


@jit()
def _average_ranks(values):  # type: ignore[no-untyped-def]
    order = np.argsort(values)
    ranks = np.empty(len(values))
    start = 0
    while start < len(values):
        stop = start + 1
        while stop < len(values) and values[order[stop]] == values[order[start]]:
            stop += 1
        for i in range(start, stop):
            ranks[order[i]] = (start + stop - 1) / 2
        start = stop
    return ranks


@jit(nogil=True)
def day_rank_ic(day, first, days, offset, presence, targets, forecast):  # type: ignore[no-untyped-def]
    """Spearman's correlation, float64 [H], of forecasts and targets over the day's samples; NaN below MIN_SAMPLES."""
    n_horizons = targets.shape[1]
    out = np.full(n_horizons, np.nan)
    for j in range(n_horizons):
        score, target = np.empty(len(first)), np.empty(len(first))
        count = 0
        for code in range(len(first)):
            row = offset[code] + day - first[code]
            listed = first[code] <= day < first[code] + days[code]
            if listed and presence[row] == SCORED and not math.isnan(targets[row, j]):
                score[count], target[count] = forecast[row, j], targets[row, j]
                count += 1
        if count >= MIN_SAMPLES:
            a, b = _average_ranks(score[:count]), _average_ranks(target[:count])
            a -= a.mean()
            b -= b.mean()
            out[j] = (a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum())
    return out
