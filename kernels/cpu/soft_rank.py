"""Soft ranks of cross-sections on CPUs: see kernels.soft_rank for the mathematics.

R cross-sections, N entries, n of them valid
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import float32, uint32
from torch import Tensor

from kernels.cpu.compiling import compiled
from kernels.cpu.exponential import exp
from kernels.cpu.sorting import place_in, scratch, sort, value_in
from kernels.cpu.threads import for_rows
from kernels.rank_terms import EPSILON


@compiled
def compact(mask, place):  # type: ignore[no-untyped-def]
    """Fill `place` (int32 [N + 1]) with the places of the valid entries and give their number n."""
    n = 0
    for i in range(len(mask)):
        place[n] = i
        n += 1 if mask[i] else 0
    return n


@compiled
def valid_of(row, place, n, room):  # type: ignore[no-untyped-def]
    """The n valid entries of a row, in `room`; the row itself where all are valid."""
    if n == len(row):
        return row
    for i in range(n):
        room[i] = row[uint32(place[i])]
    return room[:n]


@compiled
def spread(values, place, row):  # type: ignore[no-untyped-def]
    """Put the valid entries' values at their places in a row."""
    if len(values) == len(row):
        row[:] = values
    else:
        for i in range(len(values)):
            row[uint32(place[i])] = values[i]


@compiled
def moments(values):  # type: ignore[no-untyped-def]
    """Mean and 1 / deviation, see rank_terms.standardise; sums in float64."""
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


@compiled
def pull_back(decay, both, tau, g, below, above, dz):  # type: ignore[no-untyped-def]
    """Fill dz with the gradient by z of sum(g * soft), all in ascending order.

    both [n] is A + B; below and above [n] are to work in; dz may be `both`.
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
        dz[i] = (g[i] * both[i] - below[i] - above[i]) * half


@compiled
def _forward(begin, end, scores, mask, tau, ranks, order, z_sorted, both, inverse):  # type: ignore[no-untyped-def]
    size = scores.shape[1]
    place, rooms = np.empty(size + 1, np.int32), np.empty((5, size), np.float32)
    words, spare, counts = scratch(size)
    for r in range(begin, end):
        n = compact(mask[r], place)
        ranks[r, n:], order[r, n:], z_sorted[r, n:], both[r, n:] = 0, 0, 0, 0
        if n == 0:
            inverse[r] = 0
            continue
        score = valid_of(scores[r], place, n, rooms[0])
        z, decay, below, above, soft = z_sorted[r, :n], rooms[1, :n], rooms[2, :n], rooms[3, :n], rooms[4, :n]
        mean, inverse[r] = moments(score)
        sort(score, words, spare, counts)
        ascending(words, mean, inverse[r], z)
        decays(z, tau, decay)
        ranks_from(decay, below, above, soft)
        if n < size:
            ranks[r] = 0
        for k in range(n):
            at = place_in(words[k]) if n == size else uint32(place[place_in(words[k])])
            order[r, k] = at
            ranks[r, at] = soft[k]
            both[r, k] = below[k] + above[k]


@compiled
def _backward(begin, end, upstream, mask, tau, order, z_sorted, both, inverse, gradient):  # type: ignore[no-untyped-def]
    size = upstream.shape[1]
    rooms = np.empty((5, size), np.float32)
    for r in range(begin, end):
        n = 0
        for i in range(size):
            n += 1 if mask[r, i] else 0
        if n < size:
            gradient[r] = 0
        if n == 0:
            continue
        z, decay, below, above = z_sorted[r, :n], rooms[0, :n], rooms[1, :n], rooms[2, :n]
        g, dz = rooms[3, :n], rooms[4, :n]
        for k in range(n):
            g[k] = upstream[r, uint32(order[r, k])]
        decays(z, tau, decay)
        pull_back(decay, both[r, :n], tau, g, below, above, dz)
        mean, along = means(dz, z)
        for k in range(n):
            gradient[r, uint32(order[r, k])] = (dz[k] - mean - z[k] * along) * inverse[r]


@compiled
def means(dz, z):  # type: ignore[no-untyped-def]
    """mean(dz) and mean(dz z), what a gradient by z lacks of one by scores: (dz - mean - z along) / deviation."""
    mean, along = 0.0, 0.0
    for i in range(len(z)):
        mean += dz[i]
        along += dz[i] * z[i]
    return float32(mean / len(z)), float32(along / len(z))


def forward(scores: Tensor, mask: Tensor, tau: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Soft ranks, and for `backward`: order, ascending z, A + B, 1 / deviation. [R, N] and [R]."""
    ranks, z_sorted, both = (torch.empty_like(scores) for _ in range(3))
    order, inverse = torch.empty_like(scores, dtype=torch.int32), scores.new_empty(len(scores))
    arrays = _arrays(ranks, order, z_sorted, both, inverse)
    for_rows(_forward, len(scores), *_arrays(scores, mask), float(tau), *arrays)
    return ranks, order, z_sorted, both, inverse


def backward(
    upstream: Tensor, mask: Tensor, tau: Tensor, order: Tensor, z_sorted: Tensor, both: Tensor, inverse: Tensor
) -> Tensor:
    """Gradient by the scores [R, N] of sum(upstream * ranks)."""
    gradient = torch.empty_like(upstream)
    arrays = _arrays(order, z_sorted, both, inverse, gradient)
    for_rows(_backward, len(upstream), *_arrays(upstream, mask), float(tau), *arrays)
    return gradient


def _arrays(*tensors: Tensor) -> list[npt.NDArray[Any]]:
    return [tensor.numpy() for tensor in tensors]
