"""Piecewise-linear columns of features, each times its feature's weight, in one walk over memory.

    out[..., f, b] = weight[..., f] * min(max(x[..., f] - edges[b], low[b]), high[b])

Torch writes an array of all columns four times for the values and once more for the gradient; here the values alone are
written, once. On CUDA and in what is compiled torch's own operators are used, which compiling joins in the same way.

F features, B columns of a feature
"""

from typing import Any

import torch
from torch import Tensor


def pieces(x: Tensor, edges: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The columns [..., F, B] without weights, by torch; arguments as of `weighted_pieces`."""
    return torch.minimum(torch.maximum(x[..., None] - edges, low), high)


def weighted_pieces(x: Tensor, weight: Tensor, edges: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The columns [..., F, B], differentiable in the weight, and where torch's operators are used in x too.

    Args:
        x, weight: [..., F] float.
        edges, low, high: [B] float, the same type.

    A NaN in x or in the weight is a NaN in its columns.
    """
    ours = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and not x.requires_grad
    if ours and not torch.compiler.is_compiling():
        out: Tensor = _Weighted.apply(x, weight, edges, low, high)
        return out
    return weight[..., None] * pieces(x, edges, low, high)


class _Weighted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, *bounds: Tensor) -> Tensor:
        from kernels.cpu.pieces import columns

        ctx.save_for_backward(x, *bounds)
        return columns(x, weight, *bounds)

    @staticmethod
    def backward(ctx: Any, by_columns: Tensor) -> tuple[Tensor | None, ...]:
        from kernels.cpu.pieces import by_weight

        return None, by_weight(by_columns, *ctx.saved_tensors), None, None, None
