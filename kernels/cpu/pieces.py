"""Weighted piecewise-linear columns times a matrix, on CPUs: see kernels.pieces. Uses no threads of its own.

The columns of a tile of rows are computed, multiplied and overwritten by the next tile's, so they stay in the cache.
Backward computes them again rather than keep them.

N rows, F features, B columns of a feature, d width
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kernels.cpu.compiling import compiled

TILE = 1 << 19  # columns, 2 MB: more do not fit into a core's caches, fewer make the matrix product slower


def product(x: Tensor, weight: Tensor, matrix: Tensor, bounds: tuple[Tensor, ...]) -> Tensor:
    """[N, d] of x and weight [N, F], matrix [d, F B], float32."""
    out = torch.empty(len(x), len(matrix))
    fill, _ = _loops(len(bounds[0]))
    edges = [bound.numpy() for bound in bounds]
    for rows, columns in _tiles(x, len(bounds[0])):
        fill(_flat(x[rows]), _flat(weight[rows]), *edges, _flat(columns))
        torch.mm(columns, matrix.T, out=out[rows])
    return out


def gradients(
    upstream: Tensor, x: Tensor, weight: Tensor, matrix: Tensor, bounds: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Gradients by the weight [N, F] and by the matrix [d, F B], from that by the product [N, d], float32."""
    by_weight, by_matrix = torch.empty(weight.shape), torch.zeros(matrix.shape)
    fill, accumulate = _loops(len(bounds[0]))
    edges = [bound.numpy() for bound in bounds]
    for rows, columns in _tiles(x, len(bounds[0])):
        fill(_flat(x[rows]), _flat(weight[rows]), *edges, _flat(columns))
        by_matrix.addmm_(upstream[rows].T, columns)
        torch.mm(upstream[rows], matrix, out=columns)
        accumulate(_flat(columns), _flat(x[rows]), *edges, _flat(by_weight[rows]))
    return by_weight, by_matrix


def _tiles(x: Tensor, bins: int) -> Iterator[tuple[slice, Tensor]]:
    """The rows of x tile by tile, each with an array for its columns; all tiles share its memory."""
    width = x.shape[1] * bins
    tile = max(min(TILE // width, len(x)), 1)
    columns = torch.empty(tile, width)
    for begin in range(0, len(x), tile):
        rows = slice(begin, min(begin + tile, len(x)))
        yield rows, columns[: rows.stop - rows.start]


def _flat(values: Tensor) -> Any:
    return values.view(-1).numpy()


@compiled
def _clamp(value, low, high):  # type: ignore[no-untyped-def]
    """The value clamped to low..high. The order of the comparisons keeps a NaN."""
    value = low if value < low else value
    return high if value > high else value


@cache
def _loops(bins: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """The loops of forward and backward, compiled for this number of columns so that they vectorise."""

    @compiled
    def fill(x, weight, edges, low, high, out):  # type: ignore[no-untyped-def]
        for i in range(len(x)):
            for b in range(bins):
                out[i * bins + b] = weight[i] * _clamp(x[i] - edges[b], low[b], high[b])

    @compiled
    def accumulate(by_columns, x, edges, low, high, out):  # type: ignore[no-untyped-def]
        for i in range(len(x)):
            total = 0 * x[i]
            for b in range(bins):
                total += by_columns[i * bins + b] * _clamp(x[i] - edges[b], low[b], high[b])
            out[i] = total

    return fill, accumulate
