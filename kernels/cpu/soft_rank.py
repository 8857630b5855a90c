"""Soft ranks of cross-sections on CPUs: see kernels.soft_rank for the mathematics.

R cross-sections, N entries, n of them valid
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import float32, njit
from torch import Tensor

from kernels.cpu.exponential import exp
from kernels.cpu.sorting import argsort, scratch
from kernels.cpu.threads import for_rows
from kernels.rank_terms import EPSILON

_FAST = {"reassoc", "contract"}  # lets sums vectorise; NaN and infinities keep their meaning


@njit(nogil=True)
def compact(mask, place):  # type: ignore[no-untyped-def]
    """Fill `place` with the places of the valid entries and give their number n."""
    n = 0
    for i in range(len(mask)):
        place[n] = i
        n += 1 if mask[i] else 0
    return n


@njit(nogil=True, fastmath=_FAST)
def standardise(values, z):  # type: ignore[no-untyped-def]
    """Fill z with (values - mean) / deviation and give 1 / deviation; sums in float64, see rank_terms.standardise."""
    n = len(values)
    total = 0.0
    for i in range(n):
        total += values[i]
    mean = total / n
    square = 0.0
    for i in range(n):
        centred = values[i] - mean
        square += centred * centred
    inverse = 1 / np.sqrt(square / n + EPSILON**2)
    for i in range(n):
        z[i] = (values[i] - mean) * inverse
    return inverse


@njit(nogil=True, fastmath=_FAST)
def decays(z, tau, decay):  # type: ignore[no-untyped-def]
    """Fill decay[i] with exp(-(z[i + 1] - z[i]) / tau) for ascending z; the last one is 0."""
    inverse = float32(1) / float32(tau)
    for i in range(len(z) - 1):
        decay[i] = exp((z[i] - z[i + 1]) * inverse)
    decay[len(z) - 1] = 0


@njit(nogil=True, fastmath=_FAST)
def ranks_from(decay, below, above, soft):  # type: ignore[no-untyped-def]
    """Fill below (A), above (B) and soft = i - A / 2 + B / 2 from the neighbours' decays, all in ascending order.

    The two recurrences run in one loop from both ends: each waits for its last value, not for memory.
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


@njit(nogil=True, fastmath=_FAST)
def pull_back(decay, below, above, tau, g, dz):  # type: ignore[no-untyped-def]
    """Fill dz with the gradient by z of sum(g * soft), all in ascending order; uses up `below` and `above`."""
    n = len(decay)
    for i in range(n):
        dz[i] = g[i] * (below[i] + above[i])
    c, d = float32(0), float32(0)
    below[0], above[n - 1] = c, d
    for i in range(1, n):
        j = n - 1 - i
        c = decay[i - 1] * c + decay[i - 1] * g[i - 1]
        d = decay[j] * d + decay[j] * g[j + 1]
        below[i], above[j] = c, d
    half = float32(0.5 / tau)
    for i in range(n):
        dz[i] = (dz[i] - below[i] - above[i]) * half


@njit(nogil=True)
def _forward(begin, end, scores, mask, tau, ranks, order, z_sorted, inverse):  # type: ignore[no-untyped-def]
    size = scores.shape[1]
    place, sorted_place = np.empty(size + 1, np.int32), np.empty(size, np.int32)
    valid, z = np.empty(size, np.float32), np.empty(size, np.float32)
    decay, below = np.empty(size, np.float32), np.empty(size, np.float32)
    above, soft = np.empty(size, np.float32), np.empty(size, np.float32)
    words, spare, counts = scratch(size)
    for r in range(begin, end):
        n = compact(mask[r], place)
        ranks[r] = 0
        if n == 0:
            continue
        for i in range(n):
            valid[i] = scores[r, place[i]]
        inverse[r] = standardise(valid[:n], z[:n])
        argsort(z[:n], sorted_place[:n], words, spare, counts)
        for k in range(n):
            z_sorted[r, k] = z[sorted_place[k]]
            order[r, k] = place[sorted_place[k]]
        decays(z_sorted[r, :n], tau, decay[:n])
        ranks_from(decay[:n], below[:n], above[:n], soft[:n])
        for k in range(n):
            ranks[r, order[r, k]] = soft[k]


@njit(nogil=True, fastmath=_FAST)
def _backward(begin, end, upstream, mask, tau, order, z_sorted, inverse, gradient):  # type: ignore[no-untyped-def]
    size = upstream.shape[1]
    decay, below, above = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32)
    soft, g, dz = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32)
    for r in range(begin, end):
        n = 0
        for i in range(size):
            n += 1 if mask[r, i] else 0
        gradient[r] = 0
        if n == 0:
            continue
        for k in range(n):
            g[k] = upstream[r, order[r, k]]
        decays(z_sorted[r, :n], tau, decay[:n])
        ranks_from(decay[:n], below[:n], above[:n], soft[:n])
        pull_back(decay[:n], below[:n], above[:n], tau, g[:n], dz[:n])
        mean, along = 0.0, 0.0
        for k in range(n):
            mean += dz[k]
            along += dz[k] * z_sorted[r, k]
        mean, along = mean / n, along / n
        for k in range(n):
            gradient[r, order[r, k]] = (dz[k] - mean - z_sorted[r, k] * along) * inverse[r]


def forward(scores: Tensor, mask: Tensor, tau: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Soft ranks, and for `backward`: order, z in ascending order, 1 / deviation. [R, N] and [R]."""
    ranks, z_sorted = torch.empty_like(scores), torch.zeros_like(scores)
    order, inverse = torch.zeros_like(scores, dtype=torch.int32), scores.new_zeros(len(scores))
    arrays = _arrays(ranks, order, z_sorted, inverse)
    for_rows(_forward, len(scores), *_arrays(scores, mask), tau, *arrays)
    return ranks, order, z_sorted, inverse


def backward(upstream: Tensor, mask: Tensor, tau: float, order: Tensor, z_sorted: Tensor, inverse: Tensor) -> Tensor:
    """Gradient by the scores [R, N] of sum(upstream * ranks)."""
    gradient = torch.empty_like(upstream)
    arrays = _arrays(order, z_sorted, inverse, gradient)
    for_rows(_backward, len(upstream), *_arrays(upstream, mask), tau, *arrays)
    return gradient


def _arrays(*tensors: Tensor) -> list[npt.NDArray[Any]]:
    return [tensor.numpy() for tensor in tensors]
