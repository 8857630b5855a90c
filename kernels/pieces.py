"""Piecewise-linear columns of features, each times its feature's weight, times a matrix.

    columns[..., f, b] = weight[..., f] * min(max(x[..., f] - edges[b], low[b]), high[b])
    out[..., d] = sum over f, b of columns[..., f, b] * matrix[d, f B + b]

Torch's operators write all columns, B times as large as the features, four times for the values and twice more for the
gradient. On a CPU none is written: each value looks up what the pieces before its own add up to. On CUDA and under
torch.compile torch's operators are used, since the compiler fuses them.

F features, B columns of a feature, d width
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def pieces(x: Tensor, edges: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The columns [..., F, B] without weights, in torch; arguments as for `weighted_pieces`."""
    return torch.minimum(torch.maximum(x[..., None] - edges, low), high)


def weighted_pieces(x: Tensor, weight: Tensor, matrix: Tensor, edges: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """[..., d], differentiable in the weight and the matrix; where x requires a gradient, torch's operators give it.

    Args:
        x, weight: [..., F] float.
        matrix: [d, F B] float, the same type.
        edges, low, high: [B] float, the same type, of consecutive pieces: edges ascend; low is -inf, then 0; high is
            the distance to the next edge, at last inf.

    A NaN in x or in the weight is a NaN in its row.
    """
    ours = x.device.type == "cpu" and x.dtype == weight.dtype == matrix.dtype == torch.float32 and not x.requires_grad
    if ours and not torch.compiler.is_compiling():
        out: Tensor = _Weighted.apply(x, weight, matrix, edges, low, high)
        return out
    return functional.linear((weight[..., None] * pieces(x, edges, low, high)).flatten(-2), matrix)


def _rows(values: Tensor) -> Tensor:
    return values.reshape(-1, values.shape[-1]).contiguous()


class _Weighted(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, matrix: Tensor, *bounds: Tensor) -> Tensor:
        from kernels.cpu.pieces import product

        return product(_rows(x), _rows(weight), matrix, bounds).view(*x.shape[:-1], len(matrix))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
        of_members = [
            [given if dim is None else given.select(dim, k) for given, dim in zip(inputs, in_dims, strict=True)]
            for k in range(info.batch_size)
        ]
        return torch.stack([_Weighted.apply(*of_member) for of_member in of_members]), 0

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        from kernels.cpu.pieces import gradients

        x, weight, matrix, *bounds = ctx.saved_tensors
        rows, weights = _rows(x), _rows(weight)
        of_rows = upstream.reshape(-1, upstream.shape[-1])
        by_weight, by_matrix = gradients(of_rows, rows, weights, matrix, tuple(bounds))
        return None, by_weight.view(*upstream.shape[:-1], -1), by_matrix, None, None, None
