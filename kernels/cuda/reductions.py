"""What the rank objective on CUDA needs of all rows of a member: their total weight, `sharpe`, the sum of the terms.

H horizons, G cross-sections (days), rows: the H * G cross-sections of the member
"""

import triton
import triton.language as tl

from kernels import rank_terms, ranks
from kernels.cuda.selects import larger

_SHARPE, _FUSED = tl.constexpr(rank_terms.SHARPE), tl.constexpr(rank_terms.FUSED)
_EPSILON, _LEAST_VARIANCE = tl.constexpr(ranks.EPSILON), tl.constexpr(rank_terms.LEAST_VARIANCE)
# The statistics of a row: its number of entries (0 where it does not count), mean and 1 / std of its scores, the return
# of its portfolio, sum |z|, and the means of the returns and of the signs of z.
ENTRIES, MEAN, INVERSE, DAILY, GROSS, RETURN, SIGN, STATISTICS = (tl.constexpr(i) for i in range(8))


@triton.jit
def total_weight(statistics, horizon_weights, sections, rows, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Entries times their horizon's weight, summed over all rows."""
    totals = tl.zeros([TILE], tl.float32)
    for start in range(0, rows, TILE):
        r = start + tl.arange(0, TILE)
        entries = tl.load(statistics + r * STATISTICS + ENTRIES, mask=r < rows, other=0.0)
        totals += entries * tl.load(horizon_weights + r // sections, mask=r < rows, other=0.0)
    return larger(tl.sum(totals), _EPSILON)


@triton.jit
def daily_moments(statistics, h, sections, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Number, mean and variance of a horizon's daily returns."""
    count, total = 0.0, 0.0
    for start in range(0, sections, TILE):
        g = start + tl.arange(0, TILE)
        at = statistics + (h * sections + g) * STATISTICS
        alive = tl.load(at + ENTRIES, mask=g < sections, other=0.0) > 0
        count += tl.sum(alive.to(tl.float32))
        total += tl.sum(tl.load(at + DAILY, mask=alive, other=0.0))
    mean = total / larger(count, 1.0)
    square = 0.0
    for start in range(0, sections, TILE):
        g = start + tl.arange(0, TILE)
        at = statistics + (h * sections + g) * STATISTICS
        alive = tl.load(at + ENTRIES, mask=g < sections, other=0.0) > 0
        centred = tl.where(alive, tl.load(at + DAILY, mask=alive, other=0.0) - mean, 0.0)
        square += tl.sum(centred * centred)
    return count, mean, square / larger(count, 1.0)


@triton.jit
def sharpe_slope(  # type: ignore[no-untyped-def]
    statistics, r, sections, horizon_weights, all_horizons, weight, TILE: tl.constexpr
):
    """Slope of the weighted term `sharpe` by the daily return of row r."""
    h = r // sections
    alive, mean, variance = daily_moments(statistics, h, sections, TILE)
    std = tl.sqrt_rn(larger(variance, _LEAST_VARIANCE))
    steeper = mean * (tl.load(statistics + r * STATISTICS + DAILY) - mean) / (std * std * std)
    slope = tl.where(variance > _LEAST_VARIANCE, steeper, 0.0) - 1.0 / std
    slope *= weight * tl.load(horizon_weights + h) / all_horizons / larger(alive, 1.0)
    return tl.where(alive >= 2, slope, 0.0)


@triton.jit
def weighted_sum(  # type: ignore[no-untyped-def]
    values, statistics, weights, horizon_weights, loss, terms, horizons, sections, all_weights, all_horizons,
    TILE: tl.constexpr,
):  # fmt: skip
    """Store the terms over all rows, NaN for those without a weight, and their weighted sum."""
    rows = horizons * sections
    total = 0.0
    for t in tl.static_range(_FUSED):
        weight = tl.load(weights + t)
        term = float("nan")
        if weight != 0:
            term = 0.0
            if t == _SHARPE:
                for h in range(horizons):
                    alive, mean, variance = daily_moments(statistics, h, sections, TILE)
                    ratio = mean / tl.sqrt_rn(larger(variance, _LEAST_VARIANCE))
                    term -= tl.where(alive >= 2, ratio, 0.0) * tl.load(horizon_weights + h) / all_horizons
            else:
                sums = tl.zeros([TILE], tl.float32)
                for start in range(0, rows, TILE):
                    k = start + tl.arange(0, TILE)
                    entries = tl.load(statistics + k * STATISTICS + ENTRIES, mask=k < rows, other=0.0)
                    share = entries * tl.load(horizon_weights + k // sections, mask=k < rows, other=0.0)
                    # Other programs wrote these: bypass the L1 cache, which may hold older values.
                    value = tl.load(values + k * _FUSED + t, mask=entries > 0, other=0.0, cache_modifier=".cg")
                    sums += share * value
                term = tl.sum(sums) / all_weights
            total += weight * term
        tl.store(terms + t, term)
    tl.store(loss, total)
