"""The rank objective on CUDA in two launches: see kernels.rank_objective for the mathematics.

`_prepare` sorts, with two programs for each row: one ranks the targets, the other sorts the scores and stores the
statistics that other rows need. `_terms`, with one program for each row, then knows the weight of its row and the slope
of `sharpe`, and stores terms and gradient. The program of a member that ends last adds up its loss, always in the same
order. Other members are nothing to a program: it moves its addresses to its own member, and counts rows from there.
Weights are loaded from memory, and a term without a weight is skipped: 0 times its NaN would be a NaN.

Labels are what ic, huber, quantile and listnet read: the ranks of the targets, or the targets.

K members, H horizons, G cross-sections (days), rows: all K * H * G cross-sections, N entries, n valid ones, Q quantile
levels, R rotations
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.cuda.reductions import (
    DAILY,
    ENTRIES,
    GROSS,
    INVERSE,
    MEAN,
    RETURN,
    SIGN,
    STATISTICS,
    sharpe_slope,
    total_weight,
    weighted_sum,
)
from kernels.cuda.selects import larger, largest, smaller
from kernels.cuda.soft_rank import means, moments, recurrences, recurrences_backward, unpack
from kernels.cuda.sorting import average_ranks, sort
from kernels.cuda.terms import pairwise, quantile, sign
from kernels.limits import sort_options, tile_options
from kernels.rank_terms import FUSED
from kernels.ranks import EPSILON

RANK_IC, IC, SHARPE, SPEARMAN, HUBER, QUANTILE, PAIRWISE, LISTNET = (tl.constexpr(i) for i in range(FUSED))
_FUSED = tl.constexpr(FUSED)
_FLOOR = tl.constexpr(EPSILON**2)
_EPSILON = tl.constexpr(EPSILON)
_LOG2 = tl.constexpr(0.6931471805599453)


# Counts are not specialised: one program serves all, so members and terms beside others change no bit of a result.
@triton.jit(do_not_specialize=["member_rows"])
def _prepare(  # type: ignore[no-untyped-def]
    scores, targets, returns, mask, statistics, words, z_sorted, order, ranks, ended, size, member_rows,
    BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    r, ranks_targets = tl.program_id(0), tl.program_id(1) == 0
    row = r * size
    words += (tl.program_id(1) * tl.num_programs(0) + r) * size
    sort((targets if ranks_targets else scores) + row, mask + row, words, size, BLOCK)
    n, mean, inverse = moments(scores + row, mask + row, size, TILE)
    if ranks_targets:
        average_ranks(words, n, ranks + row, TILE)
        tl.store(ended + r // member_rows, 0)  # every row of a member stores the same value
    else:
        unpack(words, n, mean, inverse, z_sorted + row, order + row, size, TILE)
        none = tl.zeros([TILE], tl.float32)
        z_return, z_size, returned, signs = none, none, none, none
        for start in range(0, n, TILE):
            k = start + tl.arange(0, TILE)
            z = tl.load(z_sorted + row + k, mask=k < n, other=0.0)
            index = tl.load(order + row + k, mask=k < n, other=0)
            realised = tl.load(returns + row + index, mask=k < n, other=0.0)
            z_return += z * realised
            z_size += tl.abs(z)
            returned += realised
            signs += sign(z)
        here = statistics + r * STATISTICS
        count, gross = tl.maximum(n, 1).to(tl.float32), tl.sum(z_size)
        tl.store(here + ENTRIES, tl.where(n >= 2, n, 0).to(tl.float32))
        tl.store(here + MEAN, mean)
        tl.store(here + INVERSE, inverse)
        tl.store(here + DAILY, tl.sum(z_return) / larger(gross, _EPSILON))
        tl.store(here + GROSS, gross)
        tl.store(here + RETURN, tl.sum(returned) / count)
        tl.store(here + SIGN, tl.sum(signs) / count)


@triton.jit(do_not_specialize=["horizons", "sections", "levels_count", "shifts"])
def _terms(  # type: ignore[no-untyped-def]
    scores, targets, returns, mask, quantiles, weights, horizon_weights, tau_at, temperature_at, levels, rotations,
    values, statistics, z_sorted, order, ranks, sums, soft, ended, loss, terms, gradient, gradient_q, size, horizons,
    sections, levels_count, shifts, RANKED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * size
    rows = horizons * sections
    member = tl.program_id(0) // rows
    r = tl.program_id(0) - member * rows
    statistics += member * rows * STATISTICS
    values += member * rows * _FUSED
    weights += member * _FUSED
    horizon_weights += member * horizons
    rotations += member * shifts
    here = statistics + r * STATISTICS
    n = tl.load(here + ENTRIES).to(tl.int32)
    mean, inverse = tl.load(here + MEAN), tl.load(here + INVERSE)
    count = tl.maximum(n, 1).to(tl.float32)
    middle = (n + 1).to(tl.float32) * 0.5
    all_weights = total_weight(statistics, horizon_weights, sections, rows, TILE)
    all_horizons = 0.0
    for h in range(horizons):
        all_horizons += tl.load(horizon_weights + h)
    share = n.to(tl.float32) * tl.load(horizon_weights + r // sections) / all_weights
    labels = (ranks if RANKED else targets) + row
    _, label_mean, label_inverse = moments(labels, mask + row, size, TILE)
    _, _, ranks_inverse = moments(ranks + row, mask + row, size, TILE)

    w_rank_ic, w_spearman = tl.load(weights + RANK_IC), tl.load(weights + SPEARMAN)
    soft_n = n if (w_rank_ic != 0) | (w_spearman != 0) else 0  # entries that have soft ranks
    scale = 1.0 / tl.load(tau_at + member)
    if soft_n > 0:
        recurrences(z_sorted + row, n, scale, sums + row, soft + row, TILE)

    # Sums over the cross-section that the gradients need: accumulated by position in a tile, reduced once at the end.
    temperature = tl.load(temperature_at + member)
    high = tl.load(z_sorted + row + n - 1, mask=n > 0, other=0.0) / inverse
    tops = tl.full([TILE], float("-inf"), tl.float32)
    for start in range(0, n, TILE):
        k = start + tl.arange(0, TILE)
        index = tl.load(order + row + k, mask=k < n, other=0)
        z_target = (tl.load(labels + index, mask=k < n, other=0.0) - label_mean) * label_inverse
        tops = larger(tops, tl.where(k < n, z_target, float("-inf")))
    top = largest(tops)
    none = tl.zeros([TILE], tl.float32)
    soft_dot_soft, soft_dot_ranks, apart, z_dot_target = none, none, none, none
    hubers, p_sum, q_sum, crosses = none, none, none, none
    for start in range(0, n, TILE):
        k = start + tl.arange(0, TILE)
        inside = k < n
        index = tl.load(order + row + k, mask=inside, other=0)
        z = tl.load(z_sorted + row + k, mask=inside, other=0.0)
        from_middle = tl.where(inside, tl.load(ranks + row + index, mask=inside, other=0.0) - middle, 0.0)
        s = tl.load(soft + row + k, mask=k < soft_n, other=0.0)
        soft_dot_soft += s * s
        soft_dot_ranks += s * from_middle
        apart += (s - from_middle) * (s - from_middle)
        label = tl.load(labels + index, mask=inside, other=0.0)
        z_target = tl.where(inside, (label - label_mean) * label_inverse, 0.0)
        z_dot_target += z * z_target
        score = z / inverse
        error = tl.where(inside, score + mean - z_target, 0.0)
        within = smaller(larger(error, -1.0), 1.0)
        hubers += within * (error - 0.5 * within)
        # After the n entries the difference may be anything, and its exponential overflow.
        below = tl.where(inside, score - high, 0.0)
        q = tl.where(inside, tl.exp(tl.where(inside, z_target - top, 0.0) / temperature), 0.0)
        p_sum += tl.where(inside, tl.exp(below), 0.0)
        q_sum += q
        crosses += q * below
    # The largest entry adds 1 to these two; there is none where n is 0.
    given, aimed = larger(tl.sum(p_sum), 1.0), larger(tl.sum(q_sum), 1.0)
    soft_inverse = 1.0 / tl.sqrt_rn(tl.sum(soft_dot_soft) / count + _FLOOR)
    correlation = tl.sum(soft_dot_ranks) / count * soft_inverse * ranks_inverse
    widest = 3.0 / larger(count * count - 1.0, 1.0)
    tl.store(values + r * _FUSED + RANK_IC, 1.0 - correlation)
    tl.store(values + r * _FUSED + IC, 1.0 - tl.sum(z_dot_target) / count)
    tl.store(values + r * _FUSED + SPEARMAN, tl.sum(apart) / count * widest)
    tl.store(values + r * _FUSED + HUBER, tl.sum(hubers) / count)
    tl.store(values + r * _FUSED + LISTNET, tl.log(given) - tl.sum(crosses) / aimed)
    pinball = float("nan")
    needs_quantile = (tl.load(weights + QUANTILE) != 0) & (n > 0)
    if needs_quantile & (levels_count > 0):
        at = row * levels_count
        part = 1.0 / (count * levels_count)
        pinball = part * quantile(
            labels, mask + row, quantiles + at, levels, levels_count, size, label_mean, label_inverse,
            tl.load(weights + QUANTILE) * share * part, gradient_q + at, TILE,
        )  # fmt: skip
    tl.store(values + r * _FUSED + QUANTILE, pinball)
    pairs, pair_scale = float("nan"), 0.0
    needs_pairs = (tl.load(weights + PAIRWISE) != 0) & (n > 0) & (shifts > 0)
    if needs_pairs:
        pairs, decided = pairwise(
            scores + row, targets + row, mask + row, rotations, shifts, size, inverse, gradient + row, TILE
        )
        pair_scale = 1.0 / (larger(decided, 1.0) * _LOG2)
        pairs *= pair_scale
        pair_scale *= tl.load(weights + PAIRWISE) * share
    tl.store(values + r * _FUSED + PAIRWISE, pairs)

    # The gradient by the soft ranks is a linear combination of soft ranks and ranks; it replaces the soft ranks.
    if soft_n > 0:
        by_rank_ic = -w_rank_ic * share * soft_inverse / count
        by_distance = w_spearman * share * 2.0 * widest / count
        of_soft = by_distance - by_rank_ic * correlation * soft_inverse
        of_ranks = by_rank_ic * ranks_inverse - by_distance
        for start in range(0, n, TILE):
            k = start + tl.arange(0, TILE)
            index = tl.load(order + row + k, mask=k < n, other=0)
            from_middle = tl.load(ranks + row + index, mask=k < n, other=0.0) - middle
            g = of_soft * tl.load(soft + row + k, mask=k < n, other=0.0) + of_ranks * from_middle
            tl.store(soft + row + k, g, mask=k < n)
        tl.debug_barrier()
        recurrences_backward(z_sorted + row, n, scale, soft + row, sums + row, TILE)
    w_ic = tl.load(weights + IC)
    by_ic = w_ic * share / count
    for start in range(0, n, TILE):
        k = start + tl.arange(0, TILE)
        index = tl.load(order + row + k, mask=k < n, other=0)
        dz = tl.load(sums + row + k, mask=k < soft_n, other=0.0)
        if w_ic != 0:
            dz -= by_ic * (tl.load(labels + index, mask=k < n, other=0.0) - label_mean) * label_inverse
        if needs_pairs:
            dz += pair_scale * tl.load(gradient + row + index, mask=k < n, other=0.0)
        tl.store(sums + row + k, dz, mask=k < n)
    tl.debug_barrier()
    dz_mean, dz_along = means(z_sorted + row, sums + row, n, TILE)
    w_huber, w_listnet, w_sharpe = tl.load(weights + HUBER), tl.load(weights + LISTNET), tl.load(weights + SHARPE)
    slope = 0.0
    if w_sharpe != 0:
        slope = sharpe_slope(statistics, r, sections, horizon_weights, all_horizons, w_sharpe, TILE)
    gross = tl.load(here + GROSS)
    by_return = slope * inverse / larger(gross, _EPSILON)
    pull = tl.where(gross > _EPSILON, tl.load(here + DAILY), 0.0)
    mean_return, mean_sign = tl.load(here + RETURN), tl.load(here + SIGN)
    for start in range(0, size, TILE):
        k = start + tl.arange(0, TILE)
        inside = k < n
        index = tl.load(order + row + k, mask=inside, other=0)
        z = tl.load(z_sorted + row + k, mask=inside, other=0.0)
        ds = (tl.load(sums + row + k, mask=inside, other=0.0) - dz_mean - z * dz_along) * inverse
        z_target = (tl.load(labels + index, mask=inside, other=0.0) - label_mean) * label_inverse
        score = z / inverse
        if w_huber != 0:
            ds += w_huber * share / count * smaller(larger(score + mean - z_target, -1.0), 1.0)
        if w_listnet != 0:
            p = tl.exp(tl.where(inside, score - high, 0.0)) / given
            ds += w_listnet * share * (p - tl.exp(tl.where(inside, z_target - top, 0.0) / temperature) / aimed)
        if by_return != 0:
            # The daily return does not depend on the scale of z, so its gradient has no component along z to remove.
            realised = tl.load(returns + row + index, mask=inside, other=0.0)
            ds += by_return * (realised - mean_return - pull * (sign(z) - mean_sign))
        tl.store(gradient + row + index, ds, mask=inside)
        valid = tl.load(mask + row + k, mask=k < size, other=1) != 0
        tl.store(gradient + row + k, 0.0, mask=(k < size) & ((valid == 0) | (n == 0)))

    for start in range(0, size * levels_count, TILE):
        k = start + tl.arange(0, TILE)
        unknown = 0 if needs_quantile else size * levels_count
        tl.store(gradient_q + row * levels_count + k, 0.0, mask=k < unknown)

    tl.debug_barrier()
    if tl.atomic_add(ended + member, 1, sem="acq_rel", scope="gpu") == rows - 1:
        weighted_sum(
            values, statistics, weights, horizon_weights, loss + member, terms + member * _FUSED, horizons, sections,
            all_weights, all_horizons, TILE,
        )  # fmt: skip


def rank_objective(
    scores: Tensor, targets: Tensor, returns: Tensor, mask: Tensor, quantiles: Tensor, weights: Tensor,
    horizon_weights: Tensor, tau: Tensor, temperature: Tensor, levels: Tensor, rotations: Tensor, ranked: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Losses [K], terms [K, TERMS], and the losses' gradients by scores [K, H, G, N] and quantiles [K, H, G, N, Q].

    Inputs as in kernels.rank_objective with the axis of members, contiguous float32, N at most LONGEST; so are the
    results. Allocates 36 bytes of scratch an entry.
    """
    members, horizons, sections, size = scores.shape
    rows, count = members * horizons * sections, horizons * sections
    loss, terms = scores.new_empty(members), scores.new_empty(members, FUSED)
    gradient, gradient_q = torch.empty_like(scores), torch.empty_like(quantiles)
    values, statistics = scores.new_empty(rows, FUSED), scores.new_empty(rows, STATISTICS.value)
    words = torch.empty((2, *scores.shape), dtype=torch.int64, device=scores.device)
    order, ended = torch.empty_like(scores, dtype=torch.int32), scores.new_empty(members, dtype=torch.int32)
    z_sorted, ranks, sums, soft = (torch.empty_like(scores) for _ in range(4))
    _prepare[(rows, 2)](
        scores, targets, returns, mask, statistics, words, z_sorted, order, ranks, ended, size, count,
        **sort_options(size),
    )  # fmt: skip
    _terms[(rows,)](
        scores, targets, returns, mask, quantiles, weights, horizon_weights, tau, temperature, levels, rotations,
        values, statistics, z_sorted, order, ranks, sums, soft, ended, loss, terms, gradient, gradient_q, size,
        horizons, sections, len(levels), rotations.shape[1], RANKED=ranked, **tile_options(size),
    )  # fmt: skip
    return loss, terms, gradient, gradient_q
