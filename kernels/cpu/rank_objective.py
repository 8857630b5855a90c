"""The rank objective on CPUs, value and gradient in one walk: see kernels.rank_objective for the mathematics.

A thread holds one cross-section at a time in arrays of its valid entries, so that all terms find it in the cache. Only
`sharpe` needs the other days: its gradient follows in a second walk.

H horizons, G cross-sections (days), R = H * G rows, N entries, n valid ones, Q quantile levels, K rotations
"""

import math
from typing import Any

import numpy as np
import torch
from numba import float32, njit
from torch import Tensor

from kernels.cpu.exponential import exp
from kernels.cpu.soft_rank import compact, decays, pull_back, ranks_from, standardise
from kernels.cpu.sorting import argsort, average_ranks, scratch
from kernels.cpu.threads import for_rows
from kernels.rank_terms import EPSILON, LEAST_VARIANCE, TERMS

_FAST = {"reassoc", "contract"}  # lets sums vectorise; NaN and infinities keep their meaning
RANK_IC, IC, SHARPE, SPEARMAN, HUBER, QUANTILE, PAIRWISE, LISTNET = range(len(TERMS))


@njit(nogil=True, fastmath=_FAST)
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@njit(nogil=True, fastmath=_FAST)
def _rank_ic(soft, hard, weight, p, q, g):  # type: ignore[no-untyped-def]
    """1 - correlation of soft and hard ranks; its gradient by the soft ranks is added to g. p, q: [n] to work in."""
    n = len(soft)
    inverse = standardise(soft, p)
    standardise(hard, q)
    correlation = _dot(p, q) / n
    factor, along = float32(-weight * inverse / n), float32(correlation)
    for i in range(n):
        g[i] += factor * (q[i] - along * p[i])
    return 1 - correlation


@njit(nogil=True, fastmath=_FAST)
def _spearman(soft, hard, weight, g):  # type: ignore[no-untyped-def]
    n = float(len(soft))
    scale = 3 / max(n * n - 1, 1.0) / n
    total, factor = 0.0, float32(weight * 2 * scale)
    for i in range(len(soft)):
        distance = soft[i] - hard[i]
        total += distance * distance
        g[i] += factor * distance
    return total * scale


@njit(nogil=True, fastmath=_FAST)
def _ic(z, wanted, weight, dz):  # type: ignore[no-untyped-def]
    n = len(z)
    factor = float32(-weight / n)
    for i in range(n):
        dz[i] += factor * wanted[i]
    return 1 - _dot(z, wanted) / n


@njit(nogil=True, fastmath=_FAST)
def _huber(score, wanted, weight, ds):  # type: ignore[no-untyped-def]
    n = len(score)
    total, factor = 0.0, float32(weight / n)
    for i in range(n):
        error = score[i] - wanted[i]
        within = min(max(error, float32(-1)), float32(1))
        total += within * (error - float32(0.5) * within)
        ds[i] += factor * within
    return total / n


@njit(nogil=True, fastmath=_FAST)
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


@njit(nogil=True, fastmath=_FAST)
def _quantile(wanted, place, n, quantiles, levels, weight, gradient):  # type: ignore[no-untyped-def]
    """Pinball loss of quantiles [N, Q] at levels [Q], whose gradient is written for the valid entries."""
    count = len(levels)
    total, factor = 0.0, float32(weight / (n * count))
    for i in range(n):
        for k in range(count):
            error, level = wanted[i] - quantiles[place[i], k], levels[k]
            total += max(level * error, (level - float32(1)) * error)
            slope = float32(0.5) - level  # where the error is 0: the middle of both sides
            if error > 0:
                slope = -level
            elif error < 0:
                slope = float32(1) - level
            gradient[place[i], k] = factor * slope
    return total / (n * count)


@njit(nogil=True, fastmath=_FAST)
def _pairwise(z, target, valid, rotations, weight, product, dz):  # type: ignore[no-untyped-def]
    """Logistic loss of the pairs (i, i + shift) of a row, all [N] with 0 for entries that are not valid.

    softplus(-x) = max(-x, 0) + log(1 + exp(-|x|)); the logarithms' arguments are at most 2 and are multiplied up.
    """
    size = len(z)
    total, count = 0.0, 0
    product[:] = 1
    dz[:] = 0
    for k in range(len(rotations)):
        shift = rotations[k] % size
        for part in range(2):  # i + shift < N, then those that wrap around
            begin, end, ahead = (0, size - shift, shift) if part == 0 else (size - shift, size, shift - size)
            for i in range(begin, end):
                j = i + ahead
                difference, order = z[i] - z[j], target[i] - target[j]
                sign = float32(0)
                if order > 0:
                    sign = float32(1)
                elif order < 0:
                    sign = float32(-1)
                sign *= valid[i] * valid[j]
                x = sign * difference
                e = exp(-abs(x))
                total += max(-x, float32(0)) * abs(sign)
                product[i] *= float32(1) + e * abs(sign)
                count += 1 if sign != 0 else 0
                push = sign * (float32(1) - (float32(1) if x > 0 else e) / (float32(1) + e))
                dz[i] -= push
                dz[j] += push
        if k % 64 == 63 or k == len(rotations) - 1:
            for i in range(size):
                total += math.log(product[i])
                product[i] = 1
    scale = 1 / (max(count, 1) * math.log(2))
    factor = float32(weight * scale)
    for i in range(size):
        dz[i] *= factor
    return total * scale


@njit(nogil=True, fastmath=_FAST)
def _to_scores(dz, z, inverse, ds):  # type: ignore[no-untyped-def]
    """Add to ds what a gradient by z is as a gradient by the scores that z = (s - mean) * inverse comes from."""
    n = len(z)
    mean, along = 0.0, 0.0
    for i in range(n):
        mean += dz[i]
        along += dz[i] * z[i]
    mean, along, inverse = float32(mean / n), float32(along / n), float32(inverse)
    for i in range(n):
        ds[i] += (dz[i] - mean - z[i] * along) * inverse


@njit(nogil=True, fastmath=_FAST)
def _walk(  # type: ignore[no-untyped-def]
    begin, end, scores, targets, returns, mask, quantiles, weights, tau, temperature, levels, rotations, ranked, share,
    values, daily, gradient, gradient_q,
):  # fmt: skip
    size = scores.shape[1]
    place, order = np.empty(size + 1, np.int32), np.empty(size, np.int32)
    words, spare, counts = scratch(size)
    rooms = np.empty((15, size), np.float32)
    soft_terms = weights[RANK_IC] != 0 or weights[SPEARMAN] != 0
    aimed = weights[IC] != 0 or weights[HUBER] != 0 or weights[QUANTILE] != 0 or weights[LISTNET] != 0
    for r in range(begin, end):
        gradient[r] = 0
        gradient_q[r] = 0
        n = compact(mask[r], place)
        if n < 2:
            continue
        score, target, z, hard, wanted = rooms[0, :n], rooms[1, :n], rooms[2, :n], rooms[3, :n], rooms[4, :n]
        dz, ds, p, q = rooms[5, :n], rooms[6, :n], rooms[7, :n], rooms[8, :n]
        for i in range(n):
            score[i], target[i] = scores[r, place[i]], targets[r, place[i]]
        dz[:] = 0
        ds[:] = 0
        inverse = standardise(score, z)

        if soft_terms or (aimed and ranked):
            argsort(target, order[:n], words, spare, counts)
            average_ranks(target, order[:n], hard)
        if aimed:
            standardise(hard if ranked else target, wanted)
        if soft_terms:
            z_sorted, hard_sorted, decay, below = rooms[9, :n], rooms[10, :n], rooms[11, :n], rooms[12, :n]
            above, soft = rooms[13, :n], rooms[14, :n]
            argsort(z, order[:n], words, spare, counts)
            for k in range(n):
                z_sorted[k], hard_sorted[k] = z[order[k]], hard[order[k]]
            decays(z_sorted, tau, decay)
            ranks_from(decay, below, above, soft)
            g = rooms[1, :n]  # the target's place: it is not needed any more
            g[:] = 0
            if weights[RANK_IC] != 0:
                values[r, RANK_IC] = _rank_ic(soft, hard_sorted, weights[RANK_IC] * share[r], p, q, g)
            if weights[SPEARMAN] != 0:
                values[r, SPEARMAN] = _spearman(soft, hard_sorted, weights[SPEARMAN] * share[r], g)
            pull_back(decay, below, above, tau, g, soft)
            for k in range(n):
                dz[order[k]] = soft[k]
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
            z_row, target_row, valid, product, dz_row = rooms[9], rooms[10], rooms[11], rooms[12], rooms[13]
            z_row[:], target_row[:], valid[:] = 0, 0, 0
            for i in range(n):
                z_row[place[i]], target_row[place[i]], valid[place[i]] = z[i], targets[r, place[i]], 1
            values[r, PAIRWISE] = _pairwise(
                z_row, target_row, valid, rotations, weights[PAIRWISE] * share[r], product, dz_row
            )
            for i in range(n):
                dz[i] += dz_row[place[i]]
        if weights[SHARPE] != 0:
            total, gross = 0.0, 0.0
            for i in range(n):
                total += z[i] * returns[r, place[i]]
                gross += abs(z[i])
            daily[r] = total / max(gross, EPSILON)
        _to_scores(dz, z, inverse, ds)
        for i in range(n):
            gradient[r, place[i]] = ds[i]


@njit(nogil=True, fastmath=_FAST)
def _walk_sharpe(begin, end, scores, returns, mask, daily, slope, gradient):  # type: ignore[no-untyped-def]
    """Add slope[r] times the gradient of daily[r] by the scores of row r."""
    size = scores.shape[1]
    place = np.empty(size + 1, np.int32)
    rooms = np.empty((4, size), np.float32)
    for r in range(begin, end):
        n = compact(mask[r], place)
        if n < 2:
            continue
        score, z, dz, ds = rooms[0, :n], rooms[1, :n], rooms[2, :n], rooms[3, :n]
        for i in range(n):
            score[i] = scores[r, place[i]]
        inverse = standardise(score, z)
        gross = 0.0
        for i in range(n):
            gross += abs(z[i])
        factor = slope[r] / max(gross, EPSILON)
        pull = daily[r] if gross > EPSILON else 0.0
        for i in range(n):
            sign = 1.0 if z[i] > 0 else (-1.0 if z[i] < 0 else 0.0)
            dz[i] = factor * (returns[r, place[i]] - pull * sign)
        ds[:] = 0
        _to_scores(dz, z, inverse, ds)
        for i in range(n):
            gradient[r, place[i]] += ds[i]


def rank_objective(
    scores: Tensor, targets: Tensor, returns: Tensor, mask: Tensor, quantiles: Tensor, weights: Tensor,
    horizon_weights: Tensor, tau: Tensor, temperature: Tensor, levels: Tensor, rotations: Tensor, ranked: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Loss [], terms [8], and the loss's gradients by scores [H, G, N] and quantiles [H, G, N, Q], all float32.

    Inputs as in kernels.rank_objective, contiguous float32.
    """
    shape = scores.shape
    rows, wanted = shape[0] * shape[1], weights.numpy()
    names = mask.sum(-1).double() * (mask.sum(-1) >= 2)
    share = names * horizon_weights.double()[:, None]
    share /= share.sum().clamp(min=1e-30)
    values, daily = np.zeros((rows, len(TERMS))), np.zeros(rows)
    gradient, gradient_q = torch.empty(shape), torch.empty(quantiles.shape)

    def flat(array: Tensor) -> Any:
        return array.flatten(0, 1).numpy()

    sections = [flat(array) for array in (scores, targets, returns, mask, quantiles)]
    settings = (wanted, float(tau), float(temperature), levels.numpy(), rotations.numpy(), ranked)
    for_rows(_walk, rows, *sections, *settings, flat(share), values, daily, flat(gradient), flat(gradient_q))
    terms = flat(share) @ values
    if wanted[SHARPE] != 0:
        terms[SHARPE], slope = _sharpe(daily.reshape(shape[:2]), names.numpy() > 0, horizon_weights.numpy())
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
