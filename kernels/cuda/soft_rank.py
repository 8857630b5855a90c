"""Soft ranks of cross-sections on CUDA: see kernels.soft_rank for the mathematics.

A program sorts its cross-section in registers and stores it in ascending order. The recurrences then go over it tile by
tile, each a scan of x -> decay x + add that starts from the last value of the tile before. So they need few registers
at any length, and a neighbour is a load from the next address. A barrier separates what one thread stores from what
another one loads.

R cross-sections, N entries, n valid ones, BLOCK the power of two that holds N, TILE entries of a tile
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.cuda.sorting import index_in, sort, value_in
from kernels.limits import sort_options, tile_options
from kernels.ranks import EPSILON

_FLOOR = tl.constexpr(EPSILON**2)


@triton.jit
def moments(values_at, mask_at, size, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Number, mean and 1 / standard deviation of the valid entries of a row, see kernels.ranks.standardise."""
    counts, totals = tl.zeros([TILE], tl.int32), tl.zeros([TILE], tl.float32)
    for start in range(0, size, TILE):
        i = start + tl.arange(0, TILE)
        valid = tl.load(mask_at + i, mask=i < size, other=0) != 0
        counts += valid.to(tl.int32)
        totals += tl.load(values_at + i, mask=valid, other=0.0)
    n = tl.sum(counts)
    count = tl.maximum(n, 1).to(tl.float32)
    mean = tl.sum(totals) / count
    squares = tl.zeros([TILE], tl.float32)
    for start in range(0, size, TILE):
        i = start + tl.arange(0, TILE)
        valid = tl.load(mask_at + i, mask=i < size, other=0) != 0
        centred = tl.where(valid, tl.load(values_at + i, mask=valid, other=0.0) - mean, 0.0)
        squares += centred * centred
    square = tl.sum(squares)
    return n, mean, 1.0 / tl.sqrt_rn(square / count + _FLOOR)


@triton.jit
def unpack(words_at, n, mean, inverse, z_at, order_at, size, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store the standardised values of sorted words and their indices, 0 after the n valid; ends with a barrier."""
    for start in range(0, size, TILE):
        i = start + tl.arange(0, TILE)
        word = tl.load(words_at + i, mask=i < n, other=0)
        tl.store(z_at + i, tl.where(i < n, (value_in(word) - mean) * inverse, 0.0), mask=i < size)
        tl.store(order_at + i, tl.where(i < n, index_in(word), 0), mask=i < size)
    tl.debug_barrier()


@triton.jit
def _then(decay_a, add_a, decay_b, add_b):  # type: ignore[no-untyped-def]
    """x -> decay_b (decay_a x + add_a) + add_b."""
    return decay_a * decay_b, add_a * decay_b + add_b


@triton.jit
def _up(decay, add, carry, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """x_i = decay_i x_{i-1} + add_i over a tile, where x = carry comes before it; also returns its last x."""
    product, total = tl.associative_scan((decay, add), 0, _then)
    x = product * carry + total
    return x, tl.sum(tl.where(tl.arange(0, TILE) == TILE - 1, x, 0.0))


@triton.jit
def _down(decay, add, carry, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """x_i = decay_i x_{i+1} + add_i over a tile, where x = carry comes after it; also returns its first x."""
    product, total = tl.associative_scan((decay, add), 0, _then, reverse=True)
    x = product * carry + total
    return x, tl.sum(tl.where(tl.arange(0, TILE) == 0, x, 0.0))


@triton.jit
def _decay(z_at, i, n, scale):  # type: ignore[no-untyped-def]
    """exp(-distance scale) between the entries i and i + 1; 0 where one of them is outside 0..n-1."""
    inside = (i >= 0) & (i + 1 < n)
    distance = tl.load(z_at + i, mask=inside, other=0.0) - tl.load(z_at + i + 1, mask=inside, other=0.0)
    return tl.where(inside, tl.exp(distance * scale), 0.0)


@triton.jit
def recurrences(z_at, n, scale, sums_at, soft_at, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """From ascending z, with scale = 1 / tau: store below + above, and the soft ranks minus their mean (n + 1) / 2."""
    carry = 0.0
    for start in range(0, n, TILE):
        i = start + tl.arange(0, TILE)
        decay = _decay(z_at, i - 1, n, scale)
        below, carry = _up(decay, decay, carry, TILE)
        tl.store(sums_at + i, below, mask=i < n)
    tl.debug_barrier()
    carry = 0.0
    for back in range(0, n, TILE):
        i = (n - 1) // TILE * TILE - back + tl.arange(0, TILE)
        decay = _decay(z_at, i, n, scale)
        above, carry = _down(decay, decay, carry, TILE)
        below = tl.load(sums_at + i, mask=i < n, other=0.0)
        tl.store(sums_at + i, below + above, mask=i < n)
        centred = (2 * i + 1 - n).to(tl.float32) * 0.5  # i counts from 0
        tl.store(soft_at + i, centred + (above - below) * 0.5, mask=i < n)
    tl.debug_barrier()


@triton.jit
def recurrences_backward(z_at, n, scale, g_at, sums_at, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Replace `sums` by the gradient by z of sum(g * soft), all in ascending order."""
    carry = 0.0
    for start in range(0, n, TILE):
        i = start + tl.arange(0, TILE)
        decay = _decay(z_at, i - 1, n, scale)
        below, carry = _up(decay, decay * tl.load(g_at + i - 1, mask=(i > 0) & (i < n), other=0.0), carry, TILE)
        own = tl.load(g_at + i, mask=i < n, other=0.0) * tl.load(sums_at + i, mask=i < n, other=0.0)
        tl.store(sums_at + i, own - below, mask=i < n)
    tl.debug_barrier()
    carry = 0.0
    for back in range(0, n, TILE):
        i = (n - 1) // TILE * TILE - back + tl.arange(0, TILE)
        decay = _decay(z_at, i, n, scale)
        above, carry = _down(decay, decay * tl.load(g_at + i + 1, mask=i + 1 < n, other=0.0), carry, TILE)
        tl.store(sums_at + i, (tl.load(sums_at + i, mask=i < n, other=0.0) - above) * (scale * 0.5), mask=i < n)
    tl.debug_barrier()


@triton.jit
def means(z_at, dz_at, n, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """mean(dz) and mean(dz z), which turn a gradient by z into one by scores: (dz - mean - z along) / std."""
    totals, alongs = tl.zeros([TILE], tl.float32), tl.zeros([TILE], tl.float32)
    for start in range(0, n, TILE):
        k = start + tl.arange(0, TILE)
        dz = tl.load(dz_at + k, mask=k < n, other=0.0)
        totals += dz
        alongs += dz * tl.load(z_at + k, mask=k < n, other=0.0)
    count = tl.maximum(n, 1).to(tl.float32)
    return tl.sum(totals) / count, tl.sum(alongs) / count


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    scores, mask, tau_at, ranks, order, z_sorted, sums, inverse_at, words, scratch, size, BLOCK: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * size
    sort(scores + row, mask + row, words + row, size, BLOCK)
    n, mean, inverse = moments(scores + row, mask + row, size, TILE)
    tl.store(inverse_at + tl.program_id(0), inverse)
    unpack(words + row, n, mean, inverse, z_sorted + row, order + row, size, TILE)
    recurrences(z_sorted + row, n, 1.0 / tl.load(tau_at), sums + row, scratch + row, TILE)
    for start in range(0, size, TILE):
        k = start + tl.arange(0, TILE)
        soft = tl.load(scratch + row + k, mask=k < n, other=0.0) + (n + 1).to(tl.float32) * 0.5
        index = tl.load(order + row + k, mask=k < n, other=0)
        tl.store(ranks + row + index, soft, mask=k < n)
        tl.store(sums + row + k, 0.0, mask=(k >= n) & (k < size))
        valid = tl.load(mask + row + k, mask=k < size, other=1) != 0
        tl.store(ranks + row + k, 0.0, mask=valid == 0)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    upstream, mask, tau_at, order, z_sorted, sums, inverse_at, gradient, scratch, dz, size, TILE: tl.constexpr
):
    row = tl.program_id(0) * size
    n = 0
    for start in range(0, size, TILE):
        k = start + tl.arange(0, TILE)
        valid = tl.load(mask + row + k, mask=k < size, other=0) != 0
        n += tl.sum(valid.to(tl.int32))
        tl.store(gradient + row + k, 0.0, mask=(k < size) & (valid == 0))
    for start in range(0, n, TILE):
        k = start + tl.arange(0, TILE)
        index = tl.load(order + row + k, mask=k < n, other=0)
        tl.store(scratch + row + k, tl.load(upstream + row + index, mask=k < n, other=0.0), mask=k < n)
        tl.store(dz + row + k, tl.load(sums + row + k, mask=k < n, other=0.0), mask=k < n)
    tl.debug_barrier()

    recurrences_backward(z_sorted + row, n, 1.0 / tl.load(tau_at), scratch + row, dz + row, TILE)
    mean, along = means(z_sorted + row, dz + row, n, TILE)
    inverse = tl.load(inverse_at + tl.program_id(0))
    for start in range(0, n, TILE):
        k = start + tl.arange(0, TILE)
        z = tl.load(z_sorted + row + k, mask=k < n, other=0.0)
        ds = (tl.load(dz + row + k, mask=k < n, other=0.0) - mean - z * along) * inverse
        tl.store(gradient + row + tl.load(order + row + k, mask=k < n, other=0), ds, mask=k < n)


def forward(scores: Tensor, mask: Tensor, tau: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Soft ranks, and for `backward`: order, ascending z, below + above, 1 / std. [R, N] and [R]."""
    rows, size = scores.shape
    ranks, z_sorted, sums, scratch = (torch.empty_like(scores) for _ in range(4))
    order, inverse = torch.empty_like(scores, dtype=torch.int32), scores.new_empty(rows)
    words = torch.empty_like(scores, dtype=torch.int64)
    _forward[(rows,)](
        scores, mask, tau, ranks, order, z_sorted, sums, inverse, words, scratch, size, **sort_options(size)
    )
    return ranks, order, z_sorted, sums, inverse


def backward(
    upstream: Tensor, mask: Tensor, tau: Tensor, order: Tensor, z_sorted: Tensor, sums: Tensor, inverse: Tensor
) -> Tensor:
    """Gradient by the scores [R, N] of sum(upstream * ranks)."""
    rows, size = upstream.shape
    gradient, scratch, dz = (torch.empty_like(upstream) for _ in range(3))
    _backward[(rows,)](
        upstream, mask, tau, order, z_sorted, sums, inverse, gradient, scratch, dz, size, **tile_options(size)
    )
    return gradient
