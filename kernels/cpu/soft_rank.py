"""Soft ranks of cross-sections on CPUs: see kernels.soft_rank for the mathematics.

R cross-sections, N entries, n of them valid
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import float32, uint32
from torch import Tensor

from kernels.cpu.bits import exp
from kernels.cpu.compaction import compact, valid_of
from kernels.cpu.loops import compiled, for_rows
from kernels.cpu.sorting import index_in, sort, sort_scratch, value_in
from kernels.ranks import EPSILON


@compiled
def moments(values):  # type: ignore[no-untyped-def]
    """Mean and 1 / standard deviation, see kernels.ranks.standardise; sums in float64."""
    n = len(values)
    total = 0.0
    for i in range(n):
        total += values[i]
    mean = total / n
    square = 0.0
    for i in range(n):
        centred = values[i] - mean
        square += centred * centred
    return float32(mean), float32(1 / np.sqrt(square / n + EPSILON**2))


@compiled
def ascending(words, mean, inverse, z):  # type: ignore[no-untyped-def]
    """Fill z with the standardised values of sorted words."""
    for k in range(len(z)):
        z[k] = (value_in(words[k]) - mean) * inverse


@compiled
def decays(z, tau, decay):  # type: ignore[no-untyped-def]
    """Fill decay[i] with exp(-(z[i + 1] - z[i]) / tau) for ascending z; the last one is 0."""
    inverse = float32(1) / float32(tau)
    for i in range(len(z) - 1):
        decay[i] = exp((z[i] - z[i + 1]) * inverse)
    decay[len(z) - 1] = 0


@compiled
def recurrences(decay, below, above, soft):  # type: ignore[no-untyped-def]
    """Fill below (A), above (B) and soft = i - A / 2 + B / 2 from the neighbours' decays, all in ascending order.

    Both recurrences run in one loop, from opposite ends: a step waits for the last value of its recurrence, not for
    memory.
    """
    n = len(decay)
    a, b = float32(0), float32(0)
    below[0], above[n - 1] = a, b
    for i in range(1, n):
        a = decay[i - 1] * a + decay[i - 1]
        b = decay[n - 1 - i] * b + decay[n - 1 - i]
        below[i], above[n - 1 - i] = a, b
    for i in range(n):
        soft[i] = float32(i + 1) + (above[i] - below[i]) * float32(0.5)


@compiled
def recurrences_backward(decay, sums, tau, g, below, above, dz):  # type: ignore[no-untyped-def]
    """Fill dz with the gradient by z of sum(g * soft), all in ascending order.

    sums [n]: A + B. below, above [n]: scratch. dz may be `sums`.
    """
    n = len(decay)
    c, d = float32(0), float32(0)
    below[0], above[n - 1] = c, d
    for i in range(1, n):
        j = n - 1 - i
        c = decay[i - 1] * c + decay[i - 1] * g[i - 1]
        d = decay[j] * d + decay[j] * g[j + 1]
        below[i], above[j] = c, d
    half = float32(0.5 / tau)
    for i in range(n):
        dz[i] = (g[i] * sums[i] - below[i] - above[i]) * half


@compiled
def _forward(begin, end, scores, mask, tau, ranks, order, z_sorted, sums, inverse):  # type: ignore[no-untyped-def]
    size = scores.shape[1]
    index, scratch = np.empty(size + 1, np.int32), np.empty((5, size), np.float32)
    words, spare, counts = sort_scratch(size)
    for r in range(begin, end):
        n = compact(mask[r], index)
        ranks[r, n:], order[r, n:], z_sorted[r, n:], sums[r, n:] = 0, 0, 0, 0
        if n == 0:
            inverse[r] = 0
            continue
        score = valid_of(scores[r], index, n, scratch[0])
        z, decay, below, above, soft = z_sorted[r, :n], scratch[1, :n], scratch[2, :n], scratch[3, :n], scratch[4, :n]
        mean, inverse[r] = moments(score)
        sort(score, words, spare, counts)
        ascending(words, mean, inverse[r], z)
        decays(z, tau, decay)
        recurrences(decay, below, above, soft)
        if n < size:
            ranks[r] = 0
        for k in range(n):
            i = index_in(words[k]) if n == size else uint32(index[index_in(words[k])])
            order[r, k] = i
            ranks[r, i] = soft[k]
            sums[r, k] = below[k] + above[k]


@compiled
def _backward(begin, end, upstream, mask, tau, order, z_sorted, sums, inverse, gradient):  # type: ignore[no-untyped-def]
    size = upstream.shape[1]
    scratch = np.empty((5, size), np.float32)
    for r in range(begin, end):
        n = 0
        for i in range(size):
            n += 1 if mask[r, i] else 0
        if n < size:
            gradient[r] = 0
        if n == 0:
            continue
        z, decay, below, above = z_sorted[r, :n], scratch[0, :n], scratch[1, :n], scratch[2, :n]
        g, dz = scratch[3, :n], scratch[4, :n]
        for k in range(n):
            g[k] = upstream[r, uint32(order[r, k])]
        decays(z, tau, decay)
        recurrences_backward(decay, sums[r, :n], tau, g, below, above, dz)
        mean, along = means(dz, z)
        for k in range(n):
            gradient[r, uint32(order[r, k])] = (dz[k] - mean - z[k] * along) * inverse[r]


@compiled
def means(dz, z):  # type: ignore[no-untyped-def]
    """mean(dz) and mean(dz z), which turn a gradient by z into one by scores: (dz - mean - z along) / std."""
    mean, along = 0.0, 0.0
    for i in range(len(z)):
        mean += dz[i]
        along += dz[i] * z[i]
    return float32(mean / len(z)), float32(along / len(z))


def forward(scores: Tensor, mask: Tensor, tau: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Soft ranks, and for `backward`: order, ascending z, A + B, 1 / std. [R, N] and [R]."""
    ranks, z_sorted, sums = (torch.empty_like(scores) for _ in range(3))
    order, inverse = torch.empty_like(scores, dtype=torch.int32), scores.new_empty(len(scores))
    arrays = _arrays(ranks, order, z_sorted, sums, inverse)
    for_rows(_forward, len(scores), *_arrays(scores, mask), float(tau), *arrays)
    return ranks, order, z_sorted, sums, inverse


def backward(
    upstream: Tensor, mask: Tensor, tau: Tensor, order: Tensor, z_sorted: Tensor, sums: Tensor, inverse: Tensor
) -> Tensor:
    """Gradient by the scores [R, N] of sum(upstream * ranks)."""
    gradient = torch.empty_like(upstream)
    arrays = _arrays(order, z_sorted, sums, inverse, gradient)
    for_rows(_backward, len(upstream), *_arrays(upstream, mask), float(tau), *arrays)
    return gradient


def _arrays(*tensors: Tensor) -> list[npt.NDArray[Any]]:
    return [tensor.numpy() for tensor in tensors]
