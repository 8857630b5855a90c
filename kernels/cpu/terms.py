"""The terms of the rank objective on one cross-section, each with its gradient: see kernels.rank_objective.

A function returns the value of its term and, where it does not say otherwise, adds `weight` times the gradient to its
last argument. Arrays are [n] float32: score, z = standardised scores, z_target = standardised targets or ranks, ranks
of the targets, soft ranks of the scores. Sums are float64.

n valid entries of a row of N, Q quantile levels
"""

import math

import numpy as np
from numba import float32, uint32

from kernels.cpu.bits import exp
from kernels.cpu.loops import compiled
from kernels.cpu.soft_rank import means, moments
from kernels.ranks import EPSILON

TILE = 512  # entries whose quantiles are processed together: they fit into the first-level cache


@compiled
def standardise(values, z):  # type: ignore[no-untyped-def]
    """Fill z with the standardised values and return their mean and 1 / standard deviation."""
    mean, inverse = moments(values)
    for i in range(len(values)):
        z[i] = (values[i] - mean) * inverse
    return mean, inverse


@compiled
def standardise_backward(dz, z, inverse, ds):  # type: ignore[no-untyped-def]
    """Fill ds with the gradient by scores, given dz by z = (score - mean) * inverse."""
    mean, along = means(dz, z)
    for i in range(len(z)):
        ds[i] = (dz[i] - mean - z[i] * along) * inverse


@compiled
def rank_ic(soft, ranks, weight, g):  # type: ignore[no-untyped-def]
    """1 - correlation of soft ranks and ranks; g is by the soft ranks."""
    n = len(soft)
    mean, inverse = moments(soft)
    ranks_mean, ranks_inverse = moments(ranks)
    total = 0.0
    for i in range(n):
        total += ((soft[i] - mean) * inverse) * ((ranks[i] - ranks_mean) * ranks_inverse)
    factor, along = float32(-weight * inverse / n), float32(total / n)
    for i in range(n):
        g[i] += factor * ((ranks[i] - ranks_mean) * ranks_inverse - along * ((soft[i] - mean) * inverse))
    return 1 - total / n


@compiled
def spearman(soft, ranks, weight, g):  # type: ignore[no-untyped-def]
    """Squared distance of soft ranks and ranks, scaled to 0..1; g is by the soft ranks."""
    n = float(len(soft))
    scale = 3 / max(n * n - 1, 1.0) / n
    total, factor = 0.0, float32(weight * 2 * scale)
    for i in range(len(soft)):
        distance = soft[i] - ranks[i]
        total += distance * distance
        g[i] += factor * distance
    return total * scale


@compiled
def ic(z, z_target, weight, dz):  # type: ignore[no-untyped-def]
    """1 - correlation; dz is by z."""
    n = len(z)
    factor = float32(-weight / n)
    for i in range(n):
        dz[i] += factor * z_target[i]
    total = 0.0
    for i in range(n):
        total += z[i] * z_target[i]
    return 1 - total / n


@compiled
def huber(score, z_target, weight, ds):  # type: ignore[no-untyped-def]
    """Mean of Huber's loss of score - z_target; ds is by the score."""
    n = len(score)
    total, factor = 0.0, float32(weight / n)
    for i in range(n):
        error = score[i] - z_target[i]
        within = min(max(error, float32(-1)), float32(1))
        total += within * (error - float32(0.5) * within)
        ds[i] += factor * within
    return total / n


@compiled
def listnet(score, z_target, temperature, weight, p, q, ds):  # type: ignore[no-untyped-def]
    """Cross-entropy of softmax(score) to softmax(z_target / temperature); ds is by the score. p, q [n]: scratch."""
    n = len(score)
    high, top = score[0], z_target[0]
    for i in range(n):
        high, top = max(high, score[i]), max(top, z_target[i])
    inverse = float32(1 / temperature)
    given, aimed, cross = 0.0, 0.0, 0.0
    for i in range(n):
        p[i], q[i] = exp(score[i] - high), exp((z_target[i] - top) * inverse)
    for i in range(n):
        given += p[i]
        aimed += q[i]
        cross += q[i] * (score[i] - high)
    to_given, to_aimed = float32(weight / given), float32(weight / aimed)
    for i in range(n):
        ds[i] += to_given * p[i] - to_aimed * q[i]
    return math.log(given) - cross / aimed


@compiled
def quantile(z_target, index, quantiles, levels, scratch, weight, gradient):  # type: ignore[no-untyped-def]
    """Mean pinball loss of a row's quantiles [N, Q]; fills their gradient. scratch: [3, TILE, Q], levels in the first.

    It goes by tiles, in which the target of every valid entry is repeated for each level, so that one loop runs over
    entries and levels.
    """
    n, size, count = len(z_target), len(quantiles), len(levels)
    total, factor, done = 0.0, float32(weight / (n * count)), 0
    targets, valid = scratch[1], scratch[2]
    for begin in range(0, size, TILE):
        tile = slice(begin, min(begin + TILE, size))
        valid[:] = 0
        while done < n and index[done] < tile.stop:
            i = uint32(index[done] - begin)
            for k in range(count):
                targets[i, k], valid[i, k] = z_target[done], 1
            done += 1
        total += _pinball(
            targets.ravel(), valid.ravel(), scratch[0].ravel(), factor, quantiles[tile].ravel(), gradient[tile].ravel()
        )
    return total / (n * count)


@compiled
def _pinball(targets, valid, levels, factor, quantiles, gradient):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(len(quantiles)):
        error = targets[i] - quantiles[i] if valid[i] != 0 else float32(0)
        # Numbers instead of a branch, which the processor would mispredict half of the time.
        over, under = float32(error < 0), float32(error > 0)
        total += error * (levels[i] * under + (levels[i] - float32(1)) * over)
        gradient[i] = factor * valid[i] * (over + float32(0.5) * (float32(1) - over - under) - levels[i])
    return total


@compiled
def portfolio_return(z, returns, dz):  # type: ignore[no-untyped-def]
    """Return of the portfolio with weights z / sum|z|; fills dz with its gradient by z, not weighted."""
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
def _margins(z, z_ahead, target, target_ahead, x):  # type: ignore[no-untyped-def]
    """Fill x with the margin of every pair, z - z_ahead signed by the order of their targets; infinity for ties.

    Returns the number of pairs that are not tied. Targets that are not valid are NaN, and so neither above nor below
    any other.
    """
    count = float32(0)
    for i in range(len(x)):
        sign = float32(target[i] > target_ahead[i]) - float32(target[i] < target_ahead[i])
        count += abs(sign)
        x[i] = sign * (z[i] - z_ahead[i]) if sign != 0 else float32(np.inf)
    return count


@compiled
def _logistic(x, product):  # type: ignore[no-untyped-def]
    """Return the sum of max(-x, 0), one part of log(1 + exp(-x)), and replace x by the slope.

    The other part is the logarithm of 1 + exp(-|x|), which `product` is multiplied by. These factors are at most 2, so
    the product of 64 of them does not overflow, and one logarithm serves all 64.
    """
    total = 0.0
    for i in range(len(x)):
        e = exp(-abs(x[i]))
        total += max(-x[i], float32(0))
        product[i] *= float32(1) + e
        x[i] = (e if x[i] > 0 else float32(1)) / (float32(1) + e)
    return total


@compiled
def _apply_sign(target, target_ahead, slope):  # type: ignore[no-untyped-def]
    """Multiply slope by the order of the pair's targets."""
    for i in range(len(slope)):
        slope[i] *= float32(target[i] > target_ahead[i]) - float32(target[i] < target_ahead[i])


@compiled
def pairwise(z, target, rotations, weight, product, x, dz):  # type: ignore[no-untyped-def]
    """Logistic loss of the pairs (i, i + shift) of a row [N], around its end; fills dz. product, x [N]: scratch.

    Each loop reads few arrays: with more, the compiler cannot prove that they do not overlap, and does not vectorise.
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
        _apply_sign(target[:split], target[shift:], x[:split])
        _apply_sign(target[split:], target[:shift], x[split:])
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
