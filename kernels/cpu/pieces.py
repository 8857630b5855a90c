"""Weighted piecewise-linear columns times a matrix, on CPUs: see kernels.pieces. Uses no threads of its own.

A value has passed through all pieces before its own, so its columns times the matrix are a sum over those, looked up in
a table, and the way along its own piece times that piece's row. That is two rows of d for each feature instead of B,
and no column is ever written. Rows go by tiles, whose sums stay in the first-level cache.

N rows, F features, B columns (pieces) of a feature, d width
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numba import float32, int32, njit
from torch import Tensor

from kernels.cpu.loops import compiled

TILE = 32  # rows


def product(x: Tensor, weight: Tensor, matrix: Tensor, bounds: tuple[Tensor, ...]) -> Tensor:
    """[N, d] of x and weight [N, F], matrix [d, F B], float32."""
    edges, _, high = bounds
    forward, _ = _loops(len(edges), len(matrix))
    out = torch.empty(len(x), len(matrix))
    table = _table(matrix, high)
    forward(x.numpy(), weight.numpy(), edges.numpy(), table.numpy(), out.numpy())
    return out


def gradients(
    upstream: Tensor, x: Tensor, weight: Tensor, matrix: Tensor, bounds: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Gradients by the weight [N, F] and by the matrix [d, F B], from that by the product [N, d], float32."""
    edges, _, high = bounds
    _, backward = _loops(len(edges), len(matrix))
    table = _table(matrix, high)
    by_weight, by_table = torch.empty(weight.shape), torch.zeros(table.shape)
    arrays = (upstream.contiguous(), x, weight, edges, table, by_weight, by_table)
    backward(*(array.numpy() for array in arrays))
    # A row of the matrix is in the sums of all later pieces, as often as the piece before them is long.
    sums, own = by_table.view(-1, len(edges), 2, len(matrix)).unbind(2)
    later = sums.flip(1).cumsum(1).flip(1) - sums
    own[:, :-1].addcmul_(later[:, :-1], high[:-1, None])
    return by_weight, own.permute(2, 0, 1).reshape(matrix.shape)


def _table(matrix: Tensor, high: Tensor) -> Tensor:
    """[F B, 2 d]: of each piece, what all pieces before it add up to, and its own row of the matrix."""
    own = matrix.view(len(matrix), -1, len(high)).permute(1, 2, 0)  # [F, B, d]
    before = torch.zeros(own.shape)
    torch.cumsum(own[:, :-1] * high[:-1, None], 1, out=before[:, 1:])
    return torch.cat([before, own], 2).view(-1, 2 * len(matrix))


@njit(inline="always")
def _find(x, edges, bins, piece, along):  # type: ignore[no-untyped-def]
    """Fill the piece that each value lies in, and how far it lies from that piece's edge; a NaN stays one."""
    for i in range(len(x)):
        passed = int32(0)
        for b in range(1, bins):
            passed += int32(x[i] >= edges[b])
        piece[i] = passed
    for i in range(len(x)):
        along[i] = x[i] - edges[piece[i]]


@cache
def _loops(bins: int, width: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """The loops of forward and backward, compiled for B and d so that they vectorise.

    They may hold nothing but numbers: numba looks compiled code up on disk by them, and never finds it again by a
    function.
    """

    @compiled
    def forward(x, weight, edges, table, out):  # type: ignore[no-untyped-def]
        rows, features = x.shape
        piece, along = np.empty((TILE, features), np.int32), np.empty((TILE, features), np.float32)
        for begin in range(0, rows, TILE):
            end = min(begin + TILE, rows)
            _find(x[begin:end].ravel(), edges, bins, piece.ravel(), along.ravel())
            for n in range(begin, end):
                total = out[n]
                total[:] = 0
                # Two features at a time, so that the sums are read and written half as often.
                for f in range(0, features - 1, 2):
                    w, v = weight[n, f], weight[n, f + 1]
                    p, q = w * along[n - begin, f], v * along[n - begin, f + 1]
                    one, other = table[f * bins + piece[n - begin, f]], table[(f + 1) * bins + piece[n - begin, f + 1]]
                    for j in range(width):
                        total[j] += w * one[j] + p * one[width + j] + v * other[j] + q * other[width + j]
                if features % 2:
                    f = features - 1
                    w = weight[n, f]
                    p, one = w * along[n - begin, f], table[f * bins + piece[n - begin, f]]
                    for j in range(width):
                        total[j] += w * one[j] + p * one[width + j]

    @compiled
    def backward(upstream, x, weight, edges, table, by_weight, by_table):  # type: ignore[no-untyped-def]
        rows, features = x.shape
        piece, along = np.empty((TILE, features), np.int32), np.empty((TILE, features), np.float32)
        for begin in range(0, rows, TILE):
            end = min(begin + TILE, rows)
            _find(x[begin:end].ravel(), edges, bins, piece.ravel(), along.ravel())
            for f in range(features):  # the rows of one feature stay in the cache for a tile
                for n in range(begin, end):
                    w, q = weight[n, f], along[n - begin, f]
                    at = f * bins + piece[n - begin, f]
                    own, given, slope = table[at], upstream[n], by_table[at]
                    total = float32(0)
                    for j in range(width):
                        total += given[j] * (own[j] + q * own[width + j])
                    by_weight[n, f] = total
                    for j in range(width):
                        slope[j] += w * given[j]
                        slope[width + j] += w * q * given[j]

    return forward, backward
