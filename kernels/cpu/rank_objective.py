"""The rank objective on CPUs, value and gradient in one pass over the rows: see kernels.rank_objective.

A thread compacts one cross-section at a time into arrays that fit into the cache, and evaluates all terms on them. Only
`sharpe` needs the other days: the gradient of a day's return is kept, then scaled and added once all days are known.

K members, H horizons, G cross-sections (days), rows: all K * H * G cross-sections, N entries, n valid ones, Q quantile
levels, R rotations
"""

import numpy as np
import torch
from numba import float32, uint32
from torch import Tensor

from kernels.cpu import terms
from kernels.cpu.compaction import compact, scatter, valid_of
from kernels.cpu.loops import compiled, for_rows
from kernels.cpu.soft_rank import ascending, decays, recurrences, recurrences_backward
from kernels.cpu.sorting import average_ranks, index_in, sort, sort_scratch
from kernels.rank_terms import FUSED, LEAST_VARIANCE, TERMS
from kernels.ranks import EPSILON

RANK_IC, IC, SHARPE, SPEARMAN, HUBER, QUANTILE, PAIRWISE, LISTNET = range(FUSED)
GRAIN = 1 << 18  # entries to add up that are worth waking a thread for


@compiled
def _rows(  # type: ignore[no-untyped-def]
    begin, end, scores, targets, returns, mask, quantiles, member_rows, settings, tau, temperature, levels, rotations,
    ranked, share, values, daily, by_daily, gradient, gradient_q,
):  # fmt: skip
    """Fill the rows begin..end-1 of the values of the terms, the daily returns with their gradients, and the gradients.

    member_rows: rows of a member. settings: the weights of the terms [K, TERMS]. share [rows]: what a row counts in its
    member's loss.
    """
    size = scores.shape[1]
    index = np.empty(size + 1, np.int32)
    words, spare, counts = sort_scratch(size)
    scratch = np.empty((16, size), np.float32)
    level_scratch = np.empty((3, terms.TILE, len(levels)), np.float32)
    level_scratch[0] = levels
    for r in range(begin, end):
        member = r // member_rows
        weights = settings[member]
        needs_soft = weights[RANK_IC] != 0 or weights[SPEARMAN] != 0
        needs_targets = weights[IC] != 0 or weights[HUBER] != 0 or weights[QUANTILE] != 0 or weights[LISTNET] != 0
        n = compact(mask[r], index)
        if n < max(size, 2):
            gradient[r] = 0
        if n < 2 or weights[QUANTILE] == 0:
            gradient_q[r] = 0
        if n < 2:
            continue
        score = valid_of(scores[r], index, n, scratch[0])
        target = valid_of(targets[r], index, n, scratch[1])
        z, ranks, z_target, dz, ds = scratch[2, :n], scratch[3, :n], scratch[4, :n], scratch[5, :n], scratch[6, :n]
        p, q = scratch[7, :n], scratch[8, :n]
        dz[:], ds[:] = 0, 0
        mean, inverse = terms.standardise(score, z)
        if not np.isfinite(mean):
            score = z  # all NaN: so is every term that reads the scores

        if needs_soft or (needs_targets and ranked):
            sort(target, words, spare, counts)
            average_ranks(words, ranks)
        if needs_targets:
            terms.standardise(ranks if ranked else target, z_target)
        if needs_soft:
            z_sorted, ranks_sorted, decay, below = scratch[9, :n], scratch[10, :n], scratch[11, :n], scratch[12, :n]
            above, soft, g = scratch[13, :n], scratch[14, :n], scratch[15, :n]
            g[:] = 0
            sort(score, words, spare, counts)
            ascending(words, mean, inverse, z_sorted)
            for k in range(n):
                ranks_sorted[k] = ranks[index_in(words[k])]
            decays(z_sorted, tau[member], decay)
            recurrences(decay, below, above, soft)
            if weights[RANK_IC] != 0:
                values[r, RANK_IC] = terms.rank_ic(soft, ranks_sorted, weights[RANK_IC] * share[r], g)
            if weights[SPEARMAN] != 0:
                values[r, SPEARMAN] = terms.spearman(soft, ranks_sorted, weights[SPEARMAN] * share[r], g)
            for k in range(n):
                soft[k] = below[k] + above[k]
            recurrences_backward(decay, soft, tau[member], g, below, above, soft)
            for k in range(n):
                dz[index_in(words[k])] = soft[k]
        if weights[IC] != 0:
            values[r, IC] = terms.ic(z, z_target, weights[IC] * share[r], dz)
        if weights[HUBER] != 0:
            values[r, HUBER] = terms.huber(score, z_target, weights[HUBER] * share[r], ds)
        if weights[LISTNET] != 0:
            weight = weights[LISTNET] * share[r]
            values[r, LISTNET] = terms.listnet(score, z_target, temperature[member], weight, p, q, ds)
        if weights[QUANTILE] != 0:
            weight = weights[QUANTILE] * share[r]
            values[r, QUANTILE] = terms.quantile(
                z_target, index, quantiles[r], levels, level_scratch, weight, gradient_q[r]
            )
        if weights[PAIRWISE] != 0:
            z_row, target_row, product, x, dz_row = scratch[9], scratch[10], scratch[11], scratch[12], scratch[13]
            z_row[:], target_row[:] = 0, np.nan
            for i in range(n):
                at = uint32(index[i])
                z_row[at], target_row[at] = z[i], target[i]
            weight = weights[PAIRWISE] * share[r]
            values[r, PAIRWISE] = terms.pairwise(z_row, target_row, rotations[member], weight, product, x, dz_row)
            for i in range(n):
                dz[i] += dz_row[uint32(index[i])]
        if weights[SHARPE] != 0:
            daily[r] = terms.portfolio_return(z, valid_of(returns[r], index, n, p), q)
            terms.standardise_backward(q, z, inverse, p)
            scatter(p, index, by_daily[r])
        terms.standardise_backward(dz, z, inverse, p)
        for i in range(n):
            ds[i] += p[i]
        scatter(ds, index, gradient[r])


@compiled
def _add_rows(begin, end, mask, slope, by_daily, gradient):  # type: ignore[no-untyped-def]
    """Add slope[r] times by_daily[r] to the gradient of row r."""
    for r in range(begin, end):
        factor = float32(slope[r])
        if factor == 0:  # a day with fewer than two entries, whose by_daily was never filled
            continue
        for i in range(gradient.shape[1]):
            gradient[r, i] += factor * by_daily[r, i] if mask[r, i] else float32(0)


@compiled
def _shares(mask, horizon_weights, entries, share):  # type: ignore[no-untyped-def]
    """Fill the number of valid entries of every row, 0 for fewer than two, and its share of its member's loss.

    mask [K, H, G, N], horizon_weights [K, H], entries and share [K, H, G].
    """
    for k in range(len(mask)):
        total = 0.0
        for h, g in np.ndindex(entries.shape[1:]):
            n = 0
            for i in range(mask.shape[3]):
                n += 1 if mask[k, h, g, i] else 0
            entries[k, h, g] = n if n >= 2 else 0
            share[k, h, g] = entries[k, h, g] * horizon_weights[k, h]
            total += share[k, h, g]
        share[k] /= max(total, EPSILON)


@compiled
def _sharpe(daily, entries, weight, slope):  # type: ignore[no-untyped-def]
    """Fill the slope [H, G] of a member's term by every daily return [H, G], and return the term over all horizons.

    weight: [H], of every horizon in the loss.
    """
    term = 0.0
    slope[:] = 0
    for h in range(len(weight)):
        alive = entries[h] > 0
        count = alive.sum()
        if count < 2:
            continue
        mean = (daily[h] * alive).sum() / count
        variance = (((daily[h] - mean) * alive) ** 2).sum() / count
        std = np.sqrt(max(variance, LEAST_VARIANCE))
        steeper = mean / std**3 if variance > LEAST_VARIANCE else 0.0
        term -= weight[h] * mean / std
        slope[h] = np.where(alive, weight[h] / count * (steeper * (daily[h] - mean) - 1 / std), 0.0)
    return term


@compiled
def _weighted_sum(weights, share, values, totals):  # type: ignore[no-untyped-def]
    """Fill the terms [TERMS] of a member from their values in every row, all but `sharpe`; return its loss."""
    loss = 0.0
    for k in range(len(totals)):
        if weights[k] == 0:
            totals[k] = np.nan
            continue
        if k != SHARPE:
            totals[k] = (share * values[:, k]).sum()
        loss += weights[k] * totals[k]
    return loss


@compiled
def _losses(weights, horizon_weights, share, values, daily, entries, slope, totals, loss):  # type: ignore[no-untyped-def]
    """Fill losses [K], terms [K, TERMS], and the slope [K, H, G] of every loss by the daily returns.

    share, daily, entries: [K, H, G], values: [K, H * G, TERMS].
    """
    for k in range(len(loss)):
        if weights[k, SHARPE] != 0:
            of_horizon = horizon_weights[k] / horizon_weights[k].sum()
            totals[k, SHARPE] = _sharpe(daily[k], entries[k], of_horizon, slope[k])
            slope[k] *= weights[k, SHARPE]
        loss[k] = _weighted_sum(weights[k], share[k].ravel(), values[k], totals[k])


def rank_objective(
    scores: Tensor, targets: Tensor, returns: Tensor, mask: Tensor, quantiles: Tensor, weights: Tensor,
    horizon_weights: Tensor, tau: Tensor, temperature: Tensor, levels: Tensor, rotations: Tensor, ranked: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Losses [K], terms [K, TERMS], and the losses' gradients by scores [K, H, G, N] and quantiles [K, H, G, N, Q].

    Inputs as in kernels.rank_objective with the axis of members, contiguous float32; so are the results. Raises
    ValueError for a term that lacks its inputs.
    """
    members, horizons, days, size = scores.shape
    rows, w, of_horizon = members * horizons * days, weights.numpy(), horizon_weights.numpy()
    used = (w != 0).any(axis=0).tolist()  # which terms some member has
    for term, given in ((QUANTILE, len(levels)), (PAIRWISE, rotations.shape[1])):
        if used[term] and not given:
            needs = {QUANTILE: "quantiles at levels", PAIRWISE: "rotations"}[term]
            raise ValueError(f"{list(TERMS)[term]} has a weight: give {needs}")
    entries, share, daily, slope = np.zeros((4, members, horizons, days))
    values, totals = np.zeros((rows, FUSED)), np.zeros((members, FUSED), np.float32)
    by_daily = np.empty((rows, size if used[SHARPE] else 0), np.float32)
    gradient, gradient_q = np.empty(scores.shape, np.float32), np.empty(quantiles.shape, np.float32)
    inputs = [array.numpy() for array in (scores, targets, returns, mask, quantiles)]
    _shares(inputs[3], of_horizon, entries, share)
    sections = [array.reshape(rows, *array.shape[3:]) for array in inputs]
    widths = tau.double().numpy(), temperature.double().numpy()
    settings = (horizons * days, w, *widths, levels.numpy(), rotations.numpy(), ranked)
    of_rows = [array.reshape(rows, *array.shape[3:]) for array in (share, daily, slope, gradient, gradient_q)]
    for_rows(_rows, rows, *sections, *settings, of_rows[0], values, of_rows[1], by_daily, *of_rows[3:])
    loss = np.empty(members, np.float32)
    by_member = values.reshape(members, horizons * days, FUSED)
    _losses(w, of_horizon, share, by_member, daily, entries, slope, totals, loss)
    if used[SHARPE]:
        grain = 1 + GRAIN // max(size, 1)
        for_rows(_add_rows, rows, sections[3], of_rows[2], by_daily, of_rows[3], grain=grain)
    return torch.from_numpy(loss), torch.from_numpy(totals), torch.from_numpy(gradient), torch.from_numpy(gradient_q)
