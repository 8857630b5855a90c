"""Uniform random numbers for dropout, the same on every device: value i of a member is a function of its seed and i.

    uniform(seed, i) = top 24 bits of mix(seed + (i + 1) golden) / 2^24

mix is splitmix64's finaliser (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"), in
unsigned arithmetic of 64 bits, and golden its increment. So values need no state and no order of computation, and a
member has the same ones alone and beside others. A CUDA graph can hold the call: it reads the seeds from memory.

K members, n values of each
"""

import torch
from torch import Tensor

from kernels.registration import register

GOLDEN = 0x9E3779B97F4A7C15
MULTIPLIERS = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

register("atft::uniforms", "(Tensor seeds, SymInt n) -> Tensor", "uniforms.uniforms")


@torch.library.register_fake("atft::uniforms")
def _shape(seeds: Tensor, n: int) -> Tensor:
    return seeds.new_empty((len(seeds), n), dtype=torch.float32)


def uniforms(seeds: Tensor, n: int) -> Tensor:
    """The first n values in [0, 1) for every seed, float32 [K, n], multiples of 2^-24, on the seeds' device.

    seeds: int64 [K], keys of 64 bits as two's complement. Raises ValueError for seeds of another type or shape.
    """
    if seeds.dim() != 1 or seeds.dtype != torch.int64:
        raise ValueError(f"seeds are {seeds.dtype} {tuple(seeds.shape)}: give int64 [K]")
    values: Tensor = torch.ops.atft.uniforms.default(seeds.contiguous(), n)
    return values
