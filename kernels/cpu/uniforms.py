"""Uniform random numbers on CPUs: see kernels.uniforms.

K members, n values of each
"""

import numpy as np
import torch
from numba import float32, int32, uint64
from torch import Tensor

from kernels.cpu.loops import compiled, for_rows
from kernels.uniforms import GOLDEN, MULTIPLIERS

GRAIN = 1 << 16  # values that are worth waking a thread for
_GOLDEN, _FIRST, _SECOND = (uint64(factor) for factor in (GOLDEN, *MULTIPLIERS))


@compiled
def _run(seed, begin, values):  # type: ignore[no-untyped-def]
    """Fill `values` with those of a seed from number `begin` on."""
    for i in range(len(values)):
        z = seed + uint64(begin + i + 1) * _GOLDEN
        z = (z ^ (z >> uint64(30))) * _FIRST
        z = (z ^ (z >> uint64(27))) * _SECOND
        z ^= z >> uint64(31)
        values[i] = float32(int32(z >> uint64(40))) * float32(2.0**-24)


@compiled
def _fill(begin, end, seeds, values):  # type: ignore[no-untyped-def]
    """Fill the elements begin..end-1 of values [K, n], counted row by row."""
    n = values.shape[1]
    while begin < end:
        member, first = begin // n, begin % n
        last = min(n, first + end - begin)
        _run(seeds[member], first, values[member, first:last])
        begin += last - first


def uniforms(seeds: Tensor, n: int) -> Tensor:
    """Values [K, n] of seeds [K]."""
    values = torch.empty(len(seeds), n)
    for_rows(_fill, values.numel(), seeds.numpy().view(np.uint64), values.numpy(), grain=GRAIN)
    return values
