"""The rank objective on CUDA in two launches: see kernels.rank_objective for the mathematics.

The first sorts: with two programs for each row, one ranks the targets, one puts the scores in order and takes what
other rows need to know of this one. The second, with a program for each row, then knows how much its row counts and
what `sharpe` asks of it, and writes terms and gradient; the program that ends last sums up the loss, always in the same
order. Weights are read from memory, and the walks of a term that has none are jumped over.

H horizons, G cross-sections (days), R = H * G rows, N entries, n valid ones, Q quantile levels, K rotations
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels import limits
from kernels.cuda.soft_rank import means, moments, pull_back, soft_ranks, unpack
from kernels.cuda.sorting import average_ranks, sort
from kernels.limits import block_of, tile_of, warps_of
from kernels.rank_terms import EPSILON, FUSED, LEAST_VARIANCE

RANK_IC, IC, SHARPE, SPEARMAN, HUBER, QUANTILE, PAIRWISE, LISTNET = (tl.constexpr(i) for i in range(FUSED))
_COUNT = tl.constexpr(FUSED)
_FLOOR = tl.constexpr(EPSILON**2)
_EPSILON = tl.constexpr(EPSILON)
_LEAST_VARIANCE = tl.constexpr(LEAST_VARIANCE)
_LOG2 = tl.constexpr(0.6931471805599453)
# What is kept of a row: its names (0 where it does not count), moments of its scores, the return of its portfolio, the
# sum of |z|, and the means of returns and of the signs of z.
_NAMES, _MEAN, _INVERSE, _DAILY, _GROSS, _RETURN, _SIGN, _STATISTICS = (tl.constexpr(i) for i in range(8))


@triton.jit
def _sign(x):  # type: ignore[no-untyped-def]
    return (x > 0).to(tl.float32) - (x < 0).to(tl.float32)


@triton.jit
def _pairs(  # type: ignore[no-untyped-def]
    scores_at, targets_at, mask_at, rotations, shifts, size, inverse, gradient_at, TILE: tl.constexpr
):
    """Store the gradient by z of the sum over pairs (i, i + shift), not yet divided; gives that sum and their number.

    Every entry gathers from the pair it begins and from the pair it ends, so nothing is added in memory.
    """
    total, count = tl.zeros([TILE], tl.float32), tl.zeros([TILE], tl.float32)
    for start in range(0, size, TILE):
        i = start + tl.arange(0, TILE)
        inside = i < size
        valid = tl.load(mask_at + i, mask=inside, other=0) != 0
        score = tl.load(scores_at + i, mask=valid, other=0.0)
        target = tl.load(targets_at + i, mask=valid, other=0.0)
        gradient = tl.zeros([TILE], tl.float32)
        for k in range(shifts):
            shift = tl.load(rotations + k)
            for side in tl.static_range(2):
                j = i + shift if side == 0 else i - shift + size
                j = tl.where(j >= size, j - size, j)
                paired = valid & (tl.load(mask_at + j, mask=inside, other=0) != 0)
                other = tl.load(targets_at + j, mask=paired, other=0.0)
                order = tl.where(paired, _sign(target - other), 0.0)
                x = order * (score - tl.load(scores_at + j, mask=paired, other=0.0)) * inverse
                x = tl.where(order != 0, x, 0.0)
                e = tl.exp(-tl.abs(x))
                gradient -= order * tl.where(x > 0, e, 1.0) / (1.0 + e)
                if side == 0:
                    loss = tl.maximum(-x, 0.0) + tl.log(1.0 + e)
                    total += tl.where(order != 0, loss, 0.0)
                    count += tl.abs(order)
        tl.store(gradient_at + i, gradient, mask=inside)
    tl.debug_barrier()
    return tl.sum(total), tl.sum(count)


@triton.jit
def _quantiles(  # type: ignore[no-untyped-def]
    aims_at, mask_at, quantiles_at, levels, count, size, mean, inverse, weight, gradient_at, TILE: tl.constexpr
):
    """Store weight times the gradient of the summed pinball loss by the quantiles; gives that sum."""
    total = tl.zeros([TILE], tl.float32)
    for start in range(0, size, TILE):
        i = start + tl.arange(0, TILE)
        valid = tl.load(mask_at + i, mask=i < size, other=0) != 0
        wanted = (tl.load(aims_at + i, mask=valid, other=0.0) - mean) * inverse
        for k in range(count):
            level = tl.load(levels + k)
            error = tl.where(valid, wanted - tl.load(quantiles_at + i * count + k, mask=valid, other=0.0), 0.0)
            total += tl.maximum(level * error, (level - 1.0) * error)
            slope = tl.where(error > 0, -level, tl.where(error < 0, 1.0 - level, 0.5 - level))
            tl.store(gradient_at + i * count + k, tl.where(valid, weight * slope, 0.0), mask=i < size)
    return tl.sum(total)


@triton.jit
def _prepare(  # type: ignore[no-untyped-def]
    scores, targets, returns, mask, statistics, words, z_sorted, order, hard, ended, size, BLOCK: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    r, ranks_targets = tl.program_id(0), tl.program_id(1) == 0
    row = r * size
    words += (tl.program_id(1) * tl.num_programs(0) + r) * size
    sort((targets if ranks_targets else scores) + row, mask + row, words, size, BLOCK)
    n, mean, inverse = moments(scores + row, mask + row, size, TILE)
    if ranks_targets:
        average_ranks(words, n, hard + row, TILE)
        tl.store(ended, 0)  # by every row: the same value
    else:
        unpack(words, n, mean, inverse, z_sorted + row, order + row, size, TILE)
        none = tl.zeros([TILE], tl.float32)
        z_return, z_size, returned, signs = none, none, none, none
        for start in range(0, n, TILE):
            k = start + tl.arange(0, TILE)
            z = tl.load(z_sorted + row + k, mask=k < n, other=0.0)
            place = tl.load(order + row + k, mask=k < n, other=0)
            realised = tl.load(returns + row + place, mask=k < n, other=0.0)
            z_return += z * realised
            z_size += tl.abs(z)
            returned += realised
            signs += _sign(z)
        here = statistics + r * _STATISTICS
        count, gross = tl.maximum(n, 1).to(tl.float32), tl.sum(z_size)
        tl.store(here + _NAMES, tl.where(n >= 2, n, 0).to(tl.float32))
        tl.store(here + _MEAN, mean)
        tl.store(here + _INVERSE, inverse)
        tl.store(here + _DAILY, tl.sum(z_return) / tl.maximum(gross, _EPSILON))
        tl.store(here + _GROSS, gross)
        tl.store(here + _RETURN, tl.sum(returned) / count)
        tl.store(here + _SIGN, tl.sum(signs) / count)


@triton.jit
def _total_share(statistics, horizon_weights, sections, rows, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Names times their horizon's weight, summed over all rows."""
    totals = tl.zeros([TILE], tl.float32)
    for start in range(0, rows, TILE):
        r = start + tl.arange(0, TILE)
        names = tl.load(statistics + r * _STATISTICS + _NAMES, mask=r < rows, other=0.0)
        totals += names * tl.load(horizon_weights + r // sections, mask=r < rows, other=0.0)
    return tl.maximum(tl.sum(totals), _EPSILON)


@triton.jit
def _daily_moments(statistics, h, sections, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of the daily returns of a horizon: their number, mean and variance."""
    count, total = 0.0, 0.0
    for start in range(0, sections, TILE):
        g = start + tl.arange(0, TILE)
        at = statistics + (h * sections + g) * _STATISTICS
        alive = tl.load(at + _NAMES, mask=g < sections, other=0.0) > 0
        count += tl.sum(alive.to(tl.float32))
        total += tl.sum(tl.load(at + _DAILY, mask=alive, other=0.0))
    mean = total / tl.maximum(count, 1.0)
    square = 0.0
    for start in range(0, sections, TILE):
        g = start + tl.arange(0, TILE)
        at = statistics + (h * sections + g) * _STATISTICS
        alive = tl.load(at + _NAMES, mask=g < sections, other=0.0) > 0
        centred = tl.where(alive, tl.load(at + _DAILY, mask=alive, other=0.0) - mean, 0.0)
        square += tl.sum(centred * centred)
    return count, mean, square / tl.maximum(count, 1.0)


@triton.jit
def _sharpe_slope(  # type: ignore[no-untyped-def]
    statistics, r, sections, horizon_weights, all_horizons, weight, TILE: tl.constexpr
):
    """Slope of the weighted term `sharpe` by the daily return of row r."""
    h = r // sections
    alive, mean, variance = _daily_moments(statistics, h, sections, TILE)
    deviation = tl.sqrt_rn(tl.maximum(variance, _LEAST_VARIANCE))
    steeper = mean * (tl.load(statistics + r * _STATISTICS + _DAILY) - mean) / (deviation * deviation * deviation)
    slope = tl.where(variance > _LEAST_VARIANCE, steeper, 0.0) - 1.0 / deviation
    slope *= weight * tl.load(horizon_weights + h) / all_horizons / tl.maximum(alive, 1.0)
    return tl.where(alive >= 2, slope, 0.0)


@triton.jit
def _sum_up(  # type: ignore[no-untyped-def]
    values, statistics, weights, horizon_weights, loss, terms, horizons, sections, all_names, all_horizons,
    TILE: tl.constexpr,
):  # fmt: skip
    """Store the terms over all rows, NaN for those without a weight, and their weighted sum."""
    rows = horizons * sections
    total = 0.0
    for t in tl.static_range(_COUNT):
        weight = tl.load(weights + t)
        term = float("nan")
        if weight != 0:
            term = 0.0
            if t == SHARPE:
                for h in range(horizons):
                    alive, mean, variance = _daily_moments(statistics, h, sections, TILE)
                    ratio = mean / tl.sqrt_rn(tl.maximum(variance, _LEAST_VARIANCE))
                    term -= tl.where(alive >= 2, ratio, 0.0) * tl.load(horizon_weights + h) / all_horizons
            else:
                sums = tl.zeros([TILE], tl.float32)
                for start in range(0, rows, TILE):
                    k = start + tl.arange(0, TILE)
                    names = tl.load(statistics + k * _STATISTICS + _NAMES, mask=k < rows, other=0.0)
                    share = names * tl.load(horizon_weights + k // sections, mask=k < rows, other=0.0)
                    # Other programs wrote these: past the cache of this processor, which may hold older ones.
                    value = tl.load(values + k * _COUNT + t, mask=share > 0, other=0.0, cache_modifier=".cg")
                    sums += share * value
                term = tl.sum(sums) / all_names
            total += weight * term
        tl.store(terms + t, term)
    tl.store(loss, total)


@triton.jit
def _terms(  # type: ignore[no-untyped-def]
    scores, targets, returns, mask, quantiles, weights, horizon_weights, tau_at, temperature_at, levels, rotations,
    values, statistics, z_sorted, order, hard, both, soft, ended, loss, terms, gradient, gradient_q, size, horizons,
    sections, levels_count, shifts, RANKED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0)
    row = r * size
    here = statistics + r * _STATISTICS
    n = tl.load(here + _NAMES).to(tl.int32)
    mean, inverse = tl.load(here + _MEAN), tl.load(here + _INVERSE)
    count = tl.maximum(n, 1).to(tl.float32)
    middle = (n + 1).to(tl.float32) * 0.5
    all_names = _total_share(statistics, horizon_weights, sections, horizons * sections, TILE)
    all_horizons = 0.0
    for h in range(horizons):
        all_horizons += tl.load(horizon_weights + h)
    share = n.to(tl.float32) * tl.load(horizon_weights + r // sections) / all_names
    aims = (hard if RANKED else targets) + row
    _, aim, to_wanted = moments(aims, mask + row, size, TILE)
    _, _, to_hard = moments(hard + row, mask + row, size, TILE)

    w_rank_ic, w_spearman = tl.load(weights + RANK_IC) * share, tl.load(weights + SPEARMAN) * share
    soft_n = n if tl.abs(w_rank_ic) + tl.abs(w_spearman) > 0 else 0  # entries that have soft ranks
    scale = 1.0 / tl.load(tau_at)
    if soft_n > 0:
        soft_ranks(z_sorted + row, n, scale, both + row, soft + row, TILE)

    # Sums over the cross-section that the gradients need, kept by entry of a tile and reduced once.
    temperature = tl.load(temperature_at)
    high = tl.load(z_sorted + row + n - 1, mask=n > 0, other=0.0) / inverse
    tops = tl.full([TILE], float("-inf"), tl.float32)
    for start in range(0, n, TILE):
        k = start + tl.arange(0, TILE)
        place = tl.load(order + row + k, mask=k < n, other=0)
        wanted = (tl.load(aims + place, mask=k < n, other=0.0) - aim) * to_wanted
        tops = tl.maximum(tops, tl.where(k < n, wanted, float("-inf")))
    top = tl.max(tops)
    none = tl.zeros([TILE], tl.float32)
    soft_soft, soft_hard, apart, z_wanted = none, none, none, none
    hubers, p_sum, q_sum, crosses = none, none, none, none
    for start in range(0, n, TILE):
        k = start + tl.arange(0, TILE)
        inside = k < n
        place = tl.load(order + row + k, mask=inside, other=0)
        z = tl.load(z_sorted + row + k, mask=inside, other=0.0)
        from_middle = tl.where(inside, tl.load(hard + row + place, mask=inside, other=0.0) - middle, 0.0)
        s = tl.load(soft + row + k, mask=k < soft_n, other=0.0)
        soft_soft += s * s
        soft_hard += s * from_middle
        apart += (s - from_middle) * (s - from_middle)
        wanted = tl.where(inside, (tl.load(aims + place, mask=inside, other=0.0) - aim) * to_wanted, 0.0)
        z_wanted += z * wanted
        score = z / inverse
        error = tl.where(inside, score + mean - wanted, 0.0)
        within = tl.minimum(tl.maximum(error, -1.0), 1.0)
        hubers += within * (error - 0.5 * within)
        # Beyond the n entries the difference may be anything, and its exponential overflow.
        below = tl.where(inside, score - high, 0.0)
        q = tl.where(inside, tl.exp(tl.where(inside, wanted - top, 0.0) / temperature), 0.0)
        p_sum += tl.where(inside, tl.exp(below), 0.0)
        q_sum += q
        crosses += q * below
    # The largest entry adds 1 to these two; there is none where n is 0.
    given, aimed = tl.maximum(tl.sum(p_sum), 1.0), tl.maximum(tl.sum(q_sum), 1.0)
    to_soft = 1.0 / tl.sqrt_rn(tl.sum(soft_soft) / count + _FLOOR)
    correlation = tl.sum(soft_hard) / count * to_soft * to_hard
    widest = 3.0 / tl.maximum(count * count - 1.0, 1.0)
    tl.store(values + r * _COUNT + RANK_IC, 1.0 - correlation)
    tl.store(values + r * _COUNT + IC, 1.0 - tl.sum(z_wanted) / count)
    tl.store(values + r * _COUNT + SPEARMAN, tl.sum(apart) / count * widest)
    tl.store(values + r * _COUNT + HUBER, tl.sum(hubers) / count)
    tl.store(values + r * _COUNT + LISTNET, tl.log(given) - tl.sum(crosses) / aimed)
    pinball = float("nan")
    w_quantile = tl.load(weights + QUANTILE) * share
    if (w_quantile != 0) & (levels_count > 0):
        at = row * levels_count
        part = 1.0 / (count * levels_count)
        pinball = part * _quantiles(
            aims, mask + row, quantiles + at, levels, levels_count, size, aim, to_wanted, w_quantile * part,
            gradient_q + at, TILE,
        )  # fmt: skip
    tl.store(values + r * _COUNT + QUANTILE, pinball)
    pairs, pair_scale = float("nan"), 0.0
    w_pairwise = tl.load(weights + PAIRWISE) * share
    if (w_pairwise != 0) & (shifts > 0):
        pairs, decided = _pairs(
            scores + row, targets + row, mask + row, rotations, shifts, size, inverse, gradient + row, TILE
        )
        pair_scale = 1.0 / (tl.maximum(decided, 1.0) * _LOG2)
        pairs *= pair_scale
        pair_scale *= w_pairwise
    tl.store(values + r * _COUNT + PAIRWISE, pairs)

    # The gradient by the soft ranks is a mix of soft and hard ranks; it takes the place of the soft ranks.
    if soft_n > 0:
        by_rank_ic = -w_rank_ic * to_soft / count
        by_distance = w_spearman * 2.0 * widest / count
        of_soft = by_distance - by_rank_ic * correlation * to_soft
        of_hard = by_rank_ic * to_hard - by_distance
        for start in range(0, n, TILE):
            k = start + tl.arange(0, TILE)
            place = tl.load(order + row + k, mask=k < n, other=0)
            from_middle = tl.load(hard + row + place, mask=k < n, other=0.0) - middle
            g = of_soft * tl.load(soft + row + k, mask=k < n, other=0.0) + of_hard * from_middle
            tl.store(soft + row + k, g, mask=k < n)
        tl.debug_barrier()
        pull_back(z_sorted + row, n, scale, soft + row, both + row, TILE)
    by_ic = tl.load(weights + IC) * share / count
    for start in range(0, n, TILE):
        k = start + tl.arange(0, TILE)
        place = tl.load(order + row + k, mask=k < n, other=0)
        wanted = (tl.load(aims + place, mask=k < n, other=0.0) - aim) * to_wanted
        dz = tl.load(both + row + k, mask=k < soft_n, other=0.0) - by_ic * wanted
        if pair_scale != 0:
            dz += pair_scale * tl.load(gradient + row + place, mask=k < n, other=0.0)
        tl.store(both + row + k, dz, mask=k < n)
    tl.debug_barrier()
    dz_mean, dz_along = means(z_sorted + row, both + row, n, TILE)
    by_huber, w_listnet = tl.load(weights + HUBER) * share / count, tl.load(weights + LISTNET) * share
    w_sharpe = tl.load(weights + SHARPE)
    slope = 0.0
    if w_sharpe != 0:
        slope = _sharpe_slope(statistics, r, sections, horizon_weights, all_horizons, w_sharpe, TILE)
    gross = tl.load(here + _GROSS)
    by_return = slope * inverse / tl.maximum(gross, _EPSILON)
    pull = tl.where(gross > _EPSILON, tl.load(here + _DAILY), 0.0)
    mean_return, mean_sign = tl.load(here + _RETURN), tl.load(here + _SIGN)
    for start in range(0, size, TILE):
        k = start + tl.arange(0, TILE)
        inside = k < n
        place = tl.load(order + row + k, mask=inside, other=0)
        z = tl.load(z_sorted + row + k, mask=inside, other=0.0)
        ds = (tl.load(both + row + k, mask=inside, other=0.0) - dz_mean - z * dz_along) * inverse
        wanted = (tl.load(aims + place, mask=inside, other=0.0) - aim) * to_wanted
        score = z / inverse
        ds += by_huber * tl.minimum(tl.maximum(score + mean - wanted, -1.0), 1.0)
        if w_listnet != 0:
            p = tl.exp(tl.where(inside, score - high, 0.0)) / given
            ds += w_listnet * (p - tl.exp(tl.where(inside, wanted - top, 0.0) / temperature) / aimed)
        if by_return != 0:
            # The daily return does not change with the scale of z, so its gradient needs no part along z taken away.
            realised = tl.load(returns + row + place, mask=inside, other=0.0)
            ds += by_return * (realised - mean_return - pull * (_sign(z) - mean_sign))
        tl.store(gradient + row + place, ds, mask=inside)
        valid = tl.load(mask + row + k, mask=k < size, other=1) != 0
        tl.store(gradient + row + k, 0.0, mask=(k < size) & ((valid == 0) | (n == 0)))

    for start in range(0, size * levels_count, TILE):
        k = start + tl.arange(0, TILE)
        unknown = size * levels_count if w_quantile == 0 else 0
        tl.store(gradient_q + row * levels_count + k, 0.0, mask=k < unknown)

    tl.debug_barrier()
    if tl.atomic_add(ended, 1, sem="acq_rel", scope="gpu") == tl.num_programs(0) - 1:
        _sum_up(
            values, statistics, weights, horizon_weights, loss, terms, horizons, sections, all_names, all_horizons, TILE
        )


def rank_objective(
    scores: Tensor, targets: Tensor, returns: Tensor, mask: Tensor, quantiles: Tensor, weights: Tensor,
    horizon_weights: Tensor, tau: Tensor, temperature: Tensor, levels: Tensor, rotations: Tensor, ranked: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Loss [], terms [8], and the loss's gradients by scores [H, G, N] and quantiles [H, G, N, Q], all float32.

    Inputs as in kernels.rank_objective, contiguous float32, N at most LONGEST. Takes 36 bytes an entry to work in.
    """
    horizons, sections, size = scores.shape
    rows = horizons * sections
    loss, terms = scores.new_empty(()), scores.new_empty(FUSED)
    gradient, gradient_q = torch.empty_like(scores), torch.empty_like(quantiles)
    values, statistics = scores.new_empty(rows, FUSED), scores.new_empty(rows, _STATISTICS.value)
    words = torch.empty((2, *scores.shape), dtype=torch.int64, device=scores.device)
    order, ended = torch.empty_like(scores, dtype=torch.int32), torch.empty((), dtype=torch.int32, device=scores.device)
    z_sorted, hard, both, soft = (torch.empty_like(scores) for _ in range(4))
    block = block_of(size)
    grid: Any = (rows, 2)
    _prepare[grid](
        scores, targets, returns, mask, statistics, words, z_sorted, order, hard, ended, size, BLOCK=block,
        TILE=tile_of(block), num_warps=warps_of(block),
    )  # fmt: skip
    grid = (rows,)
    _terms[grid](
        scores, targets, returns, mask, quantiles, weights, horizon_weights, tau, temperature, levels, rotations,
        values, statistics, z_sorted, order, hard, both, soft, ended, loss, terms, gradient, gradient_q, size,
        horizons, sections, len(levels), len(rotations), RANKED=ranked, TILE=limits.TILE,
        num_warps=limits.TILE_WARPS,
    )  # fmt: skip
    return loss, terms, gradient, gradient_q
