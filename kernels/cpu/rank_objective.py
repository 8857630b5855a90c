"""The rank objective on CPUs, value and gradient in one walk: see kernels.rank_objective for the mathematics.

A thread holds one cross-section at a time in arrays of its valid entries, so that all terms find it in the cache. Only
`sharpe` needs the other days: its gradient follows in a second walk.

H horizons, G cross-sections (days), R = H * G rows, N entries, n valid ones, Q quantile levels, K rotations
"""

import math
from typing import Any

import numpy as np
import torch
from numba import float32, uint32
from torch import Tensor

from kernels.cpu.compiling import compiled
from kernels.cpu.exponential import exp
from kernels.cpu.soft_rank import ascending, compact, decays, means, moments, pull_back, ranks_from, valid_of
from kernels.cpu.sorting import average_ranks, place_in, scratch, sort
from kernels.cpu.threads import for_rows
from kernels.rank_terms import EPSILON, LEAST_VARIANCE, TERMS

RANK_IC, IC, SHARPE, SPEARMAN, HUBER, QUANTILE, PAIRWISE, LISTNET = range(len(TERMS))


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
def _rank_ic(soft, hard, weight, p, q, g):  # type: ignore[no-untyped-def]
    """1 - correlation of soft and hard ranks; its gradient by the soft ranks is added to g. p, q: [n] to work in."""
    n = len(soft)
    inverse = _standardise(soft, p)
    _standardise(hard, q)
    correlation = _dot(p, q) / n
    factor, along = float32(-weight * inverse / n), float32(correlation)
    for i in range(n):
        g[i] += factor * (q[i] - along * p[i])
    return 1 - correlation


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
def _quantile(wanted, place, n, quantiles, levels, weight, gradient):  # type: ignore[no-untyped-def]
    """Pinball loss of quantiles [N, Q] at levels [Q], whose gradient is written for the valid entries."""
    count = len(levels)
    total, factor = 0.0, float32(weight / (n * count))
    for i in range(n):
        at = uint32(place[i])
        for k in range(count):
            error, level = wanted[i] - quantiles[at, k], levels[k]
            # Sides as numbers: their order is random, and a branch would be guessed wrong half of the time.
            over, under = float32(error < 0), float32(error > 0)
            total += error * (level * under + (level - float32(1)) * over)
            gradient[at, k] = factor * (over + float32(0.5) * (float32(1) - over - under) - level)
    return total / (n * count)


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
    values, daily, gradient, gradient_q,
):  # fmt: skip
    size = scores.shape[1]
    place = np.empty(size + 1, np.int32)
    words, spare, counts = scratch(size)
    rooms = np.empty((16, size), np.float32)
    soft_terms = weights[RANK_IC] != 0 or weights[SPEARMAN] != 0
    aimed = weights[IC] != 0 or weights[HUBER] != 0 or weights[QUANTILE] != 0 or weights[LISTNET] != 0
    for r in range(begin, end):
        n = compact(mask[r], place)
        if n < max(size, 2):
            gradient[r] = 0
        if n < max(size, 2) or weights[QUANTILE] == 0:
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
                values[r, RANK_IC] = _rank_ic(soft, hard_sorted, weights[RANK_IC] * share[r], p, q, g)
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
                wanted, place, n, quantiles[r], levels, weights[QUANTILE] * share[r], gradient_q[r]
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
            realised = valid_of(returns[r], place, n, p)
            total, gross = 0.0, 0.0
            for i in range(n):
                total += z[i] * realised[i]
                gross += abs(z[i])
            daily[r] = total / max(gross, EPSILON)
        mean, along = means(dz, z)
        for i in range(n):
            ds[i] += (dz[i] - mean - z[i] * along) * inverse
        if n == size:
            gradient[r] = ds
        else:
            for i in range(n):
                gradient[r, uint32(place[i])] = ds[i]


@compiled
def _walk_sharpe(begin, end, scores, returns, mask, daily, slope, gradient):  # type: ignore[no-untyped-def]
    """Add slope[r] times the gradient of daily[r] by the scores of row r."""
    size = scores.shape[1]
    place = np.empty(size + 1, np.int32)
    rooms = np.empty((4, size), np.float32)
    for r in range(begin, end):
        n = compact(mask[r], place)
        if n < 2:
            continue
        score, realised = valid_of(scores[r], place, n, rooms[0]), valid_of(returns[r], place, n, rooms[1])
        z, dz = rooms[2, :n], rooms[3, :n]
        inverse = _standardise(score, z)
        gross = 0.0
        for i in range(n):
            gross += abs(z[i])
        factor = float32(slope[r] / max(gross, EPSILON))
        pull = float32(daily[r] if gross > EPSILON else 0.0)
        for i in range(n):
            dz[i] = factor * (realised[i] - pull * (float32(z[i] > 0) - float32(z[i] < 0)))
        mean, along = means(dz, z)
        for i in range(n):
            gradient[r, uint32(place[i])] += (dz[i] - mean - z[i] * along) * inverse


@compiled
def _count(mask, names):  # type: ignore[no-untyped-def]
    """Fill names [R] with the number of valid entries of every row, 0 where there are fewer than two."""
    for r in range(len(mask)):
        n = 0
        for i in range(mask.shape[1]):
            n += 1 if mask[r, i] else 0
        names[r] = n if n >= 2 else 0


def rank_objective(
    scores: Tensor, targets: Tensor, returns: Tensor, mask: Tensor, quantiles: Tensor, weights: Tensor,
    horizon_weights: Tensor, tau: Tensor, temperature: Tensor, levels: Tensor, rotations: Tensor, ranked: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Loss [], terms [8], and the loss's gradients by scores [H, G, N] and quantiles [H, G, N, Q], all float32.

    Inputs as in kernels.rank_objective, contiguous float32. Raises ValueError for a term that lacks its inputs.
    """
    shape = scores.shape
    for term, given in ((QUANTILE, len(levels)), (PAIRWISE, len(rotations))):
        if weights[term] != 0 and not given:
            needs = {QUANTILE: "quantiles at levels", PAIRWISE: "rotations"}[term]
            raise ValueError(f"{TERMS[term]} has the weight {float(weights[term])}: give {needs}")
    rows, wanted = shape[0] * shape[1], weights.numpy()
    names, values, daily = np.empty(rows), np.zeros((rows, len(TERMS))), np.zeros(rows)
    gradient, gradient_q = torch.empty(shape), torch.empty(quantiles.shape)

    def flat(array: Tensor) -> Any:
        return array.flatten(0, 1).numpy()

    sections = [flat(array) for array in (scores, targets, returns, mask, quantiles)]
    _count(sections[3], names)
    share = names * np.repeat(horizon_weights.numpy(), shape[1])
    share /= max(share.sum(), EPSILON)
    settings = (wanted, float(tau), float(temperature), levels.numpy(), rotations.numpy(), ranked)
    for_rows(_walk, rows, *sections, *settings, share, values, daily, flat(gradient), flat(gradient_q))
    terms = share @ values
    if wanted[SHARPE] != 0:
        terms[SHARPE], slope = _sharpe(daily.reshape(shape[:2]), names.reshape(shape[:2]) > 0, horizon_weights.numpy())
        slope = slope.reshape(-1) * wanted[SHARPE]
        for_rows(_walk_sharpe, rows, *(sections[i] for i in (0, 2, 3)), daily, slope, flat(gradient))
    terms[wanted == 0] = np.nan
    loss = (wanted * terms)[wanted != 0].sum()
    return torch.tensor(loss, dtype=torch.float32), torch.tensor(terms, dtype=torch.float32), gradient, gradient_q


def _sharpe(daily: Any, alive: Any, horizon_weights: Any) -> tuple[float, Any]:
    """The term over all horizons, and its slope [H, G] by every daily return."""
    count = np.maximum(alive.sum(1, keepdims=True), 1)
    mean = (daily * alive).sum(1, keepdims=True) / count
    variance = (((daily - mean) * alive) ** 2).sum(1, keepdims=True) / count
    std = np.sqrt(np.maximum(variance, LEAST_VARIANCE))
    weight = horizon_weights[:, None] / horizon_weights.sum() * (alive.sum(1, keepdims=True) >= 2)
    steeper = np.where(variance > LEAST_VARIANCE, mean * (daily - mean) / std**3, 0.0)
    return float((-mean / std * weight).sum()), weight * alive / count * (steeper - 1 / std)
