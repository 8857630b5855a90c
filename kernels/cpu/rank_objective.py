"""The rank objective on CPUs, value and gradient in one walk: see kernels.rank_objective for the mathematics.

A thread holds one cross-section at a time in arrays of its valid entries, so that all terms find it in the cache. Only
`sharpe` needs the other days: its gradient by a day's return is kept, and scaled and added once all days are known.

H horizons, G cross-sections (days), R = H * G rows, N entries, n valid ones, Q quantile levels, K rotations
"""

import math

import numpy as np
import torch
from numba import float32, uint32
from torch import Tensor

from kernels.cpu.compiling import compiled
from kernels.cpu.exponential import exp
from kernels.cpu.soft_rank import ascending, compact, decays, means, moments, pull_back, ranks_from, spread, valid_of
from kernels.cpu.sorting import average_ranks, place_in, scratch, sort
from kernels.cpu.threads import for_rows
from kernels.rank_terms import EPSILON, FUSED, LEAST_VARIANCE, TERMS

RANK_IC, IC, SHARPE, SPEARMAN, HUBER, QUANTILE, PAIRWISE, LISTNET = range(FUSED)
GRAIN = 1 << 18  # entries that a thread adds up before it is worth waking
TILE = 512  # entries whose quantiles are looked at together: they fit into the first cache


@compiled
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@compiled
def _standardise(values, z):  # type: ignore[no-untyped-def]
    """Fill z with the standardised values and give 1 / deviation."""
    mean, inverse = moments(values)
    for i in range(len(values)):
        z[i] = (values[i] - mean) * inverse
    return inverse


@compiled
def _rank_ic(soft, hard, weight, g):  # type: ignore[no-untyped-def]
    """1 - correlation of soft and hard ranks; its gradient by the soft ranks is added to g."""
    n = len(soft)
    mean, inverse = moments(soft)
    hard_mean, hard_inverse = moments(hard)
    total = 0.0
    for i in range(n):
        total += ((soft[i] - mean) * inverse) * ((hard[i] - hard_mean) * hard_inverse)
    factor, along = float32(-weight * inverse / n), float32(total / n)
    for i in range(n):
        g[i] += factor * ((hard[i] - hard_mean) * hard_inverse - along * ((soft[i] - mean) * inverse))
    return 1 - total / n


@compiled
def _spearman(soft, hard, weight, g):  # type: ignore[no-untyped-def]
    n = float(len(soft))
    scale = 3 / max(n * n - 1, 1.0) / n
    total, factor = 0.0, float32(weight * 2 * scale)
    for i in range(len(soft)):
        distance = soft[i] - hard[i]
        total += distance * distance
        g[i] += factor * distance
    return total * scale


@compiled
def _ic(z, wanted, weight, dz):  # type: ignore[no-untyped-def]
    n = len(z)
    factor = float32(-weight / n)
    for i in range(n):
        dz[i] += factor * wanted[i]
    return 1 - _dot(z, wanted) / n


@compiled
def _huber(score, wanted, weight, ds):  # type: ignore[no-untyped-def]
    n = len(score)
    total, factor = 0.0, float32(weight / n)
    for i in range(n):
        error = score[i] - wanted[i]
        within = min(max(error, float32(-1)), float32(1))
        total += within * (error - float32(0.5) * within)
        ds[i] += factor * within
    return total / n


@compiled
def _listnet(score, wanted, temperature, weight, p, q, ds):  # type: ignore[no-untyped-def]
    """Cross-entropy of the scores' softmax to that of wanted / temperature. p, q: [n] to work in."""
    n = len(score)
    high, top = score[0], wanted[0]
    for i in range(n):
        high, top = max(high, score[i]), max(top, wanted[i])
    inverse = float32(1 / temperature)
    given, aimed, cross = 0.0, 0.0, 0.0
    for i in range(n):
        p[i], q[i] = exp(score[i] - high), exp((wanted[i] - top) * inverse)
    for i in range(n):
        given += p[i]
        aimed += q[i]
        cross += q[i] * (score[i] - high)
    to_given, to_aimed = float32(weight / given), float32(weight / aimed)
    for i in range(n):
        ds[i] += to_given * p[i] - to_aimed * q[i]
    return math.log(given) - cross / aimed


@compiled
def _quantile(wanted, place, quantiles, levels, rooms, weight, gradient):  # type: ignore[no-untyped-def]
    """Pinball loss of a row's quantiles [N, Q], whose gradient is filled. rooms: [3, TILE, Q], levels in the first.

    By tiles, in which every valid entry's aim is repeated for the levels, so that one loop runs over both.
    """
    n, size, count = len(wanted), len(quantiles), len(levels)
    total, factor, done = 0.0, float32(weight / (n * count)), 0
    aims, valid = rooms[1], rooms[2]
    for begin in range(0, size, TILE):
        tile = slice(begin, min(begin + TILE, size))
        valid[:] = 0
        while done < n and place[done] < tile.stop:
            at = uint32(place[done] - begin)
            for k in range(count):
                aims[at, k], valid[at, k] = wanted[done], 1
            done += 1
        total += _pinball(
            aims.ravel(), valid.ravel(), rooms[0].ravel(), factor, quantiles[tile].ravel(), gradient[tile].ravel()
        )
    return total / (n * count)


@compiled
def _pinball(aims, valid, levels, factor, quantiles, gradient):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(len(quantiles)):
        error = aims[i] - quantiles[i] if valid[i] != 0 else float32(0)
        # Sides as numbers: their order is random, and a branch would be guessed wrong half of the time.
        over, under = float32(error < 0), float32(error > 0)
        total += error * (levels[i] * under + (levels[i] - float32(1)) * over)
        gradient[i] = factor * valid[i] * (over + float32(0.5) * (float32(1) - over - under) - levels[i])
    return total


@compiled
def _day(z, returns, dz):  # type: ignore[no-untyped-def]
    """The return of a day, whose gradient by z fills dz."""
    total, gross = 0.0, 0.0
    for i in range(len(z)):
        total += z[i] * returns[i]
        gross += abs(z[i])
    daily = total / max(gross, EPSILON)
    factor, pull = float32(1 / max(gross, EPSILON)), float32(daily if gross > EPSILON else 0.0)
    for i in range(len(z)):
        dz[i] = factor * (returns[i] - pull * (float32(z[i] > 0) - float32(z[i] < 0)))
    return daily


@compiled
def _by_scores(dz, z, inverse, ds):  # type: ignore[no-untyped-def]
    """Fill ds with the gradient by scores from dz, that by z."""
    mean, along = means(dz, z)
    for i in range(len(z)):
        ds[i] = (dz[i] - mean - z[i] * along) * inverse


@compiled
def _margins(z, z_ahead, target, target_ahead, x):  # type: ignore[no-untyped-def]
    """Fill x with how far every pair stands apart in the right direction, infinity for pairs without an order.

    Gives the number of pairs with one. Targets that are not valid are NaN, and so not above and not below any other.
    """
    count = float32(0)
    for i in range(len(x)):
        sign = float32(target[i] > target_ahead[i]) - float32(target[i] < target_ahead[i])
        count += abs(sign)
        x[i] = sign * (z[i] - z_ahead[i]) if sign != 0 else float32(np.inf)
    return count


@compiled
def _logistic(x, product):  # type: ignore[no-untyped-def]
    """The sum of max(-x, 0), the one half of log(1 + exp(-x)); x becomes the slope.

    The other half goes into `product`, as factors of the logarithm's argument. They are at most 2, so 64 of them are
    multiplied up before a logarithm is taken.
    """
    total = 0.0
    for i in range(len(x)):
        e = exp(-abs(x[i]))
        total += max(-x[i], float32(0))
        product[i] *= float32(1) + e
        x[i] = (e if x[i] > 0 else float32(1)) / (float32(1) + e)
    return total


@compiled
def _signed(target, target_ahead, slope):  # type: ignore[no-untyped-def]
    for i in range(len(slope)):
        slope[i] *= float32(target[i] > target_ahead[i]) - float32(target[i] < target_ahead[i])


@compiled
def _pairwise(z, target, rotations, weight, product, x, dz):  # type: ignore[no-untyped-def]
    """Logistic loss of the pairs (i, i + shift) of a row [N], around its end; fills dz. product, x: [N] to work in.

    In loops of few arrays each: beyond that, the compiler gives up proving that they do not overlap, and does not
    vectorise them.
    """
    size = len(z)
    total, count = 0.0, 0.0
    product[:], dz[:] = 1, 0
    for k in range(len(rotations)):
        shift = rotations[k]
        split = size - shift
        count += _margins(z[:split], z[shift:], target[:split], target[shift:], x[:split])
        count += _margins(z[split:], z[:shift], target[split:], target[:shift], x[split:])
        total += _logistic(x, product)
        _signed(target[:split], target[shift:], x[:split])
        _signed(target[split:], target[:shift], x[split:])
        for i in range(size):
            dz[i] -= x[i]
        for i in range(split):
            dz[i + shift] += x[i]
        for i in range(shift):
            dz[i] += x[i + split]
        if k % 64 == 63 or k == len(rotations) - 1:
            for i in range(size):
                total += math.log(product[i])
                product[i] = 1
    scale = 1 / (max(count, 1) * math.log(2))
    factor = float32(weight * scale)
    for i in range(size):
        dz[i] *= factor
    return total * scale


@compiled
def _walk(  # type: ignore[no-untyped-def]
    begin, end, scores, targets, returns, mask, quantiles, weights, tau, temperature, levels, rotations, ranked, share,
    values, daily, by_daily, gradient, gradient_q,
):  # fmt: skip
    """Fill what belongs to the rows begin..end-1: values of the terms, daily returns, gradients."""
    size = scores.shape[1]
    place = np.empty(size + 1, np.int32)
    words, spare, counts = scratch(size)
    rooms = np.empty((16, size), np.float32)
    by_level = np.empty((3, TILE, len(levels)), np.float32)
    by_level[0] = levels
    soft_terms = weights[RANK_IC] != 0 or weights[SPEARMAN] != 0
    aimed = weights[IC] != 0 or weights[HUBER] != 0 or weights[QUANTILE] != 0 or weights[LISTNET] != 0
    for r in range(begin, end):
        n = compact(mask[r], place)
        if n < max(size, 2):
            gradient[r] = 0
        if n < 2 or weights[QUANTILE] == 0:
            gradient_q[r] = 0
        if n < 2:
            continue
        score = valid_of(scores[r], place, n, rooms[0])
        target = valid_of(targets[r], place, n, rooms[1])
        z, hard, wanted, dz, ds = rooms[2, :n], rooms[3, :n], rooms[4, :n], rooms[5, :n], rooms[6, :n]
        p, q = rooms[7, :n], rooms[8, :n]
        dz[:], ds[:] = 0, 0
        mean, inverse = moments(score)
        for i in range(n):
            z[i] = (score[i] - mean) * inverse

        if soft_terms or (aimed and ranked):
            sort(target, words, spare, counts)
            average_ranks(words, hard)
        if aimed:
            _standardise(hard if ranked else target, wanted)
        if soft_terms:
            z_sorted, hard_sorted, decay, below = rooms[9, :n], rooms[10, :n], rooms[11, :n], rooms[12, :n]
            above, soft, g = rooms[13, :n], rooms[14, :n], rooms[15, :n]
            g[:] = 0
            sort(score, words, spare, counts)
            ascending(words, mean, inverse, z_sorted)
            for k in range(n):
                hard_sorted[k] = hard[place_in(words[k])]
            decays(z_sorted, tau, decay)
            ranks_from(decay, below, above, soft)
            if weights[RANK_IC] != 0:
                values[r, RANK_IC] = _rank_ic(soft, hard_sorted, weights[RANK_IC] * share[r], g)
            if weights[SPEARMAN] != 0:
                values[r, SPEARMAN] = _spearman(soft, hard_sorted, weights[SPEARMAN] * share[r], g)
            for k in range(n):
                soft[k] = below[k] + above[k]
            pull_back(decay, soft, tau, g, below, above, soft)
            for k in range(n):
                dz[place_in(words[k])] = soft[k]
        if weights[IC] != 0:
            values[r, IC] = _ic(z, wanted, weights[IC] * share[r], dz)
        if weights[HUBER] != 0:
            values[r, HUBER] = _huber(score, wanted, weights[HUBER] * share[r], ds)
        if weights[LISTNET] != 0:
            values[r, LISTNET] = _listnet(score, wanted, temperature, weights[LISTNET] * share[r], p, q, ds)
        if weights[QUANTILE] != 0:
            values[r, QUANTILE] = _quantile(
                wanted, place, quantiles[r], levels, by_level, weights[QUANTILE] * share[r], gradient_q[r]
            )
        if weights[PAIRWISE] != 0:
            z_row, target_row, product, x, dz_row = rooms[9], rooms[10], rooms[11], rooms[12], rooms[13]
            z_row[:], target_row[:] = 0, np.nan
            for i in range(n):
                at = uint32(place[i])
                z_row[at], target_row[at] = z[i], target[i]
            weight = weights[PAIRWISE] * share[r]
            values[r, PAIRWISE] = _pairwise(z_row, target_row, rotations, weight, product, x, dz_row)
            for i in range(n):
                dz[i] += dz_row[uint32(place[i])]
        if weights[SHARPE] != 0:
            daily[r] = _day(z, valid_of(returns[r], place, n, p), q)
            _by_scores(q, z, inverse, p)
            spread(p, place, by_daily[r])
        _by_scores(dz, z, inverse, p)
        for i in range(n):
            ds[i] += p[i]
        spread(ds, place, gradient[r])


@compiled
def _add(begin, end, mask, slope, by_daily, gradient):  # type: ignore[no-untyped-def]
    """Add slope[r] times by_daily[r] to the gradient of row r."""
    for r in range(begin, end):
        factor = float32(slope[r])
        if factor == 0:  # of a day with too few names, by_daily was never filled
            continue
        for i in range(gradient.shape[1]):
            gradient[r, i] += factor * by_daily[r, i] if mask[r, i] else float32(0)


@compiled
def _shares(mask, horizon_weights, names, share):  # type: ignore[no-untyped-def]
    """Fill the number of valid entries of every row, 0 for fewer than two, and its share of the loss; [H, G]."""
    total = 0.0
    for h, g in np.ndindex(names.shape):
        n = 0
        for i in range(mask.shape[2]):
            n += 1 if mask[h, g, i] else 0
        names[h, g] = n if n >= 2 else 0
        share[h, g] = names[h, g] * horizon_weights[h]
        total += share[h, g]
    share /= max(total, EPSILON)


@compiled
def _sharpe(daily, names, weight, slope):  # type: ignore[no-untyped-def]
    """Fill the slope [H, G] of the term by every daily return [H, G], and give the term over all horizons.

    weight: [H], what a horizon adds to the loss.
    """
    term = 0.0
    slope[:] = 0
    for h in range(len(weight)):
        alive = names[h] > 0
        count = alive.sum()
        if count < 2:
            continue
        mean = (daily[h] * alive).sum() / count
        variance = (((daily[h] - mean) * alive) ** 2).sum() / count
        std = np.sqrt(max(variance, LEAST_VARIANCE))
        steeper = mean / std**3 if variance > LEAST_VARIANCE else 0.0
        term -= weight[h] * mean / std
        slope[h] = weight[h] / count * alive * (steeper * (daily[h] - mean) - 1 / std)
    return term


@compiled
def _sum_up(weights, share, values, terms):  # type: ignore[no-untyped-def]
    """Fill the terms [8] from their values in every row, all but `sharpe`, which is there; give the loss."""
    loss = 0.0
    for k in range(len(terms)):
        if weights[k] == 0:
            terms[k] = np.nan
            continue
        if k != SHARPE:
            terms[k] = (share * values[:, k]).sum()
        loss += weights[k] * terms[k]
    return loss


def rank_objective(
    scores: Tensor, targets: Tensor, returns: Tensor, mask: Tensor, quantiles: Tensor, weights: Tensor,
    horizon_weights: Tensor, tau: Tensor, temperature: Tensor, levels: Tensor, rotations: Tensor, ranked: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Loss [], terms [8], and the loss's gradients by scores [H, G, N] and quantiles [H, G, N, Q], all float32.

    Inputs as in kernels.rank_objective, contiguous float32. Raises ValueError for a term that lacks its inputs.
    """
    horizons, days, size = scores.shape
    rows, w, of_horizon = horizons * days, weights.numpy(), horizon_weights.numpy()
    for term, given in ((QUANTILE, len(levels)), (PAIRWISE, len(rotations))):
        if w[term] != 0 and not given:
            needs = {QUANTILE: "quantiles at levels", PAIRWISE: "rotations"}[term]
            raise ValueError(f"{list(TERMS)[term]} has the weight {w[term]}: give {needs}")
    names, share, daily, slope = np.zeros((4, horizons, days))
    values, terms = np.zeros((rows, FUSED)), np.zeros(FUSED, np.float32)
    by_daily = np.empty((rows, size if w[SHARPE] != 0 else 0), np.float32)
    gradient, gradient_q = np.empty(scores.shape, np.float32), np.empty(quantiles.shape, np.float32)
    inputs = [array.numpy() for array in (scores, targets, returns, mask, quantiles)]
    _shares(inputs[3], of_horizon, names, share)
    sections = [array.reshape(rows, *array.shape[2:]) for array in inputs]
    settings = (w, float(tau), float(temperature), levels.numpy(), rotations.numpy(), ranked)
    of_rows = [array.reshape(rows, *array.shape[2:]) for array in (share, daily, slope, gradient, gradient_q)]
    for_rows(_walk, rows, *sections, *settings, of_rows[0], values, of_rows[1], by_daily, *of_rows[3:])
    if w[SHARPE] != 0:
        terms[SHARPE] = _sharpe(daily, names, of_horizon / of_horizon.sum(), slope)
        for_rows(_add, rows, sections[3], w[SHARPE] * of_rows[2], by_daily, of_rows[3], grain=1 + GRAIN // max(size, 1))
    loss = np.float32(_sum_up(w, of_rows[0], values, terms))
    return torch.tensor(loss), torch.from_numpy(terms), torch.from_numpy(gradient), torch.from_numpy(gradient_q)
