"""Physical limits of the machine that runs the benchmarks: copies of memory, and products of large matrices."""

from collections.abc import Callable
from itertools import cycle
from typing import Any

import torch

from bench.measurement.clock import DEVICE

SOURCE, SLOTS = 1 << 28, 4  # bytes that a copy reads from, larger than any cache, and buffers that it writes to
SIDE, PRODUCTS = 1024, 4  # of the square matrices, and how many products a call computes
PRODUCT_FLOPS = PRODUCTS * 2 * SIDE**3  # floating-point operations of a call


def copier(nbytes: int) -> Callable[[], Any]:
    """A copy that moves `nbytes`, half of them read and half written, at other places in each call."""
    half = nbytes // 2
    source = torch.ones(max(SOURCE // half, 1), half, dtype=torch.uint8, device=DEVICE)
    target = torch.ones(SLOTS, half, dtype=torch.uint8, device=DEVICE)
    pairs = zip(cycle(target), cycle(source), strict=False)
    return lambda: torch.Tensor.copy_(*next(pairs))


def products() -> Callable[[], Any]:
    """Matrix products in the dtype of the model's: bfloat16 on CUDA, else float32."""
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
    a, b = (torch.randn(SIDE, SIDE, device=DEVICE, dtype=dtype) for _ in range(2))
    return lambda: [a @ b for _ in range(PRODUCTS)]
