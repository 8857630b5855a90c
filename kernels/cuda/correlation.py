"""Exact ranks and correlations on CUDA, see kernels.correlation.

R cross-sections, N entries, n of them valid, BLOCK the power of two that holds N, TILE entries of a tile
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.cuda.selects import larger, largest, smaller, smallest
from kernels.cuda.sorting import average_ranks as rank_words
from kernels.cuda.sorting import sort
from kernels.limits import sort_options, tile_options


@triton.jit
def _ranks(  # type: ignore[no-untyped-def]
    values, mask, words, ranks, size, BLOCK: tl.constexpr, TILE: tl.constexpr
):
    row = tl.program_id(0) * size
    sort(values + row, mask + row, words + row, size, BLOCK)
    counts = tl.zeros([TILE], tl.int32)
    for start in range(0, size, TILE):
        i = start + tl.arange(0, TILE)
        valid = tl.load(mask + row + i, mask=i < size, other=0) != 0
        counts += valid.to(tl.int32)
        tl.store(ranks + row + i, 0.0, mask=(i < size) & (valid == 0))
    rank_words(words + row, tl.sum(counts), ranks + row, TILE)


@triton.jit
def _correlate(  # type: ignore[no-untyped-def]
    a, b, mask, correlation, size, TILE: tl.constexpr
):
    row = tl.program_id(0) * size
    none = tl.zeros([TILE], tl.float64)
    counts, sum_a, sum_b = none, none, none
    low_a = tl.full([TILE], float("inf"), tl.float32)
    low_b, high_a, high_b = low_a, -low_a, -low_a
    for start in range(0, size, TILE):
        i = start + tl.arange(0, TILE)
        valid = tl.load(mask + row + i, mask=i < size, other=0) != 0
        x, y = tl.load(a + row + i, mask=valid, other=0.0), tl.load(b + row + i, mask=valid, other=0.0)
        counts += valid.to(tl.float64)
        sum_a += x.to(tl.float64)
        sum_b += y.to(tl.float64)
        low_a, high_a = smaller(low_a, tl.where(valid, x, low_a)), larger(high_a, tl.where(valid, x, high_a))
        low_b, high_b = smaller(low_b, tl.where(valid, y, low_b)), larger(high_b, tl.where(valid, y, high_b))
    n = tl.sum(counts)
    mean_a, mean_b = tl.sum(sum_a) / larger(n, 1.0), tl.sum(sum_b) / larger(n, 1.0)
    # Constant values are recognised by their range: rounding may leave them a variance above zero.
    varied = (largest(high_a) > smallest(low_a)) & (largest(high_b) > smallest(low_b))
    aa, bb, ab = none, none, none
    for start in range(0, size, TILE):
        i = start + tl.arange(0, TILE)
        valid = tl.load(mask + row + i, mask=i < size, other=0) != 0
        x = tl.where(valid, tl.load(a + row + i, mask=valid, other=0.0).to(tl.float64) - mean_a, 0.0)
        y = tl.where(valid, tl.load(b + row + i, mask=valid, other=0.0).to(tl.float64) - mean_b, 0.0)
        aa += x * x
        bb += y * y
        ab += x * y
    scale = tl.sqrt(tl.where(varied, tl.sum(aa), 1.0)) * tl.sqrt(tl.where(varied, tl.sum(bb), 1.0))
    found = tl.sum(ab) / scale
    # A comparison with NaN is false, so that NaN stays.
    found = tl.where(found > 1.0, 1.0, tl.where(found < -1.0, -1.0, found))
    tl.store(correlation + tl.program_id(0), tl.where(varied, found, float("nan")))


def average_ranks(values: Tensor, mask: Tensor) -> Tensor:
    """Ranks of the valid entries [R, N], 0 elsewhere; N at most LONGEST."""
    rows, size = values.shape
    ranks, words = torch.empty_like(values), torch.empty_like(values, dtype=torch.int64)
    _ranks[(rows,)](values, mask, words, ranks, size, **sort_options(size))
    return ranks


def pearson(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Correlations [R], float64; any N."""
    rows, size = a.shape
    correlation = torch.empty(rows, dtype=torch.float64, device=a.device)
    _correlate[(rows,)](a, b, mask, correlation, size, **tile_options(size))
    return correlation
