"""Weighted piecewise-linear columns on CPUs: see kernels.pieces. All threads but the caller's are left alone.

n entries (of all features), B columns of an entry
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from kernels.cpu.compiling import compiled


def columns(x: Tensor, weight: Tensor, edges: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The columns [..., B] of x and weight [...], float32."""
    out = torch.empty(*x.shape, len(edges))
    fill, _ = _walks(len(edges))
    fill(_flat(x), _flat(weight), edges.numpy(), low.numpy(), high.numpy(), out.view(-1).numpy())
    return out


def by_weight(by_columns: Tensor, x: Tensor, edges: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The gradient [...] by the weight, from that by the columns [..., B], float32."""
    out = torch.empty(x.shape)
    _, add_up = _walks(len(edges))
    add_up(_flat(by_columns), _flat(x), edges.numpy(), low.numpy(), high.numpy(), out.view(-1).numpy())
    return out


def _flat(values: Tensor):  # type: ignore[no-untyped-def]
    return values.detach().reshape(-1).numpy()


@compiled
def _held(value, low, high):  # type: ignore[no-untyped-def]
    """The value within low..high; asked in this order, a NaN stays one."""
    value = low if value < low else value
    return high if value > high else value


@cache
def _walks(bins: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """The two loops, compiled for this number of columns, which is what makes them vectorise."""

    @compiled
    def fill(x, weight, edges, low, high, out):  # type: ignore[no-untyped-def]
        for i in range(len(x)):
            for b in range(bins):
                out[i * bins + b] = weight[i] * _held(x[i] - edges[b], low[b], high[b])

    @compiled
    def add_up(by_columns, x, edges, low, high, out):  # type: ignore[no-untyped-def]
        for i in range(len(x)):
            total = 0 * x[i]
            for b in range(bins):
                total += by_columns[i * bins + b] * _held(x[i] - edges[b], low[b], high[b])
            out[i] = total

    return fill, add_up
