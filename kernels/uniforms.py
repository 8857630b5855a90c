"""temporary"""

import torch
from torch import Tensor


def _signed(v):
    return v - (1 << 64) if v >= 1 << 63 else v


def uniforms(keys: Tensor, n: int) -> Tensor:
    z = keys[:, None] + torch.arange(1, n + 1, device=keys.device) * _signed(0x9E3779B97F4A7C15)
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _signed(0x94D049BB133111EB)
    z = z ^ ((z >> 31) & ((1 << 33) - 1))
    return ((z >> 40) & ((1 << 24) - 1)).float() * 2.0**-24
