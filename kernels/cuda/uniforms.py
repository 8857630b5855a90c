"""Uniform random numbers on CUDA: see kernels.uniforms. A program computes VALUES consecutive ones of a member.

K members, n values of each
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels import uniforms as definition

VALUES = 1024  # 4 warps of 32 threads, 8 values each
_GOLDEN, _FIRST, _SECOND = (tl.constexpr(factor) for factor in (definition.GOLDEN, *definition.MULTIPLIERS))


@triton.jit
def _uniforms(seeds, values, n, VALUES: tl.constexpr):  # type: ignore[no-untyped-def]
    member = tl.program_id(0)
    i = tl.program_id(1) * VALUES + tl.arange(0, VALUES)
    # Unsigned: a shift of a signed integer would copy its sign.
    z = (tl.load(seeds + member) + tl.zeros([VALUES], tl.int64)).to(tl.uint64) + (i + 1).to(tl.uint64) * _GOLDEN
    z = (z ^ (z >> 30)) * _FIRST
    z = (z ^ (z >> 27)) * _SECOND
    z ^= z >> 31
    tl.store(values + member.to(tl.int64) * n + i, (z >> 40).to(tl.int32).to(tl.float32) * 2.0**-24, mask=i < n)


def uniforms(seeds: Tensor, n: int) -> Tensor:
    """Values [K, n] of seeds [K]."""
    values = torch.empty(len(seeds), n, device=seeds.device)
    grid: Any = (len(seeds), triton.cdiv(n, VALUES))
    if values.numel():
        _uniforms[grid](seeds, values, n, VALUES=VALUES, num_warps=4)
    return values
