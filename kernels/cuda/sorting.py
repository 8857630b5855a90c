"""Order and ranks inside one program: device functions for the operators of this folder.

The bits of a float32 order as its values do once the lower bits of negative values are inverted. Such a key and the
value's index make a word of 64 bits, so one sort of words gives both the values and their order. Every NaN has one key,
since hardware makes bits of its own for it: after infinity. Entries that are not valid sort after all others.

Only the sort holds the whole cross-section in registers. It stores the words, and later loops load them tile by tile.
A barrier separates what one thread stores from what another one loads.

N entries, n valid ones, BLOCK the power of two that holds N, TILE entries of a tile
"""

import triton
import triton.language as tl

from kernels.cuda.selects import larger, smaller

_LAST = tl.constexpr(0x7FFFFFFF)  # the key of what is not valid
_NAN = tl.constexpr(0x7FFFFFFE)  # also the bits of a NaN


@triton.jit
def _flip(bits):  # type: ignore[no-untyped-def]
    """From the bits of a float32 to its key, and back."""
    return bits ^ ((bits >> 31) & _LAST)


@triton.jit
def value_in(word):  # type: ignore[no-untyped-def]
    """The value of a word."""
    return _flip((word >> 32).to(tl.int32)).to(tl.float32, bitcast=True)


@triton.jit
def index_in(word):  # type: ignore[no-untyped-def]
    """The index that the value of a word had before sorting."""
    return (word & 0xFFFFFFFF).to(tl.int32)


@triton.jit
def sort(values_at, mask_at, words_at, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store the ascending words of a row of float32; -0 counts as 0. Ends with a barrier."""
    i = tl.arange(0, BLOCK)
    values = tl.load(values_at + i, mask=i < size, other=0.0) + 0.0
    valid = tl.load(mask_at + i, mask=i < size, other=0) != 0
    key = tl.where(values == values, _flip(values.to(tl.int32, bitcast=True)), _NAN)
    key = tl.where(valid, key, _LAST)
    words = tl.sort((key.to(tl.int64) << 32) | i.to(tl.int64))
    tl.store(words_at + i, words, mask=i < size)
    tl.debug_barrier()


@triton.jit
def _key(words_at, i, n):  # type: ignore[no-untyped-def]
    return (tl.load(words_at + i, mask=(i >= 0) & (i < n), other=0) >> 32).to(tl.int32)


@triton.jit
def average_ranks(words_at, n, ranks_at, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store ranks 1..n at the indices of the words; tied values share the mean of their ranks. Ends with a barrier.

    The first loop stores where each run of ties begins; the second goes backwards and adds where it ends. A NaN, which
    sorts to the end, makes all ranks NaN.
    """
    highest = value_in(tl.load(words_at + n - 1, mask=n > 0, other=0))
    unranked = tl.where(highest == highest, 0.0, float("nan"))
    carry = 0
    for start in range(0, n, TILE):
        i = start + tl.arange(0, TILE)
        begins = (i == 0) | (_key(words_at, i, n) != _key(words_at, i - 1, n))
        first = tl.maximum(tl.associative_scan(tl.where(begins, i, 0), 0, larger), carry)
        carry = tl.max(first)
        index = index_in(tl.load(words_at + i, mask=i < n, other=0))
        tl.store(ranks_at + index, first.to(tl.float32), mask=i < n)
    tl.debug_barrier()
    carry = n
    for back in range(0, n, TILE):
        i = (n - 1) // TILE * TILE - back + tl.arange(0, TILE)
        ends = (i >= n - 1) | (_key(words_at, i, n) != _key(words_at, i + 1, n))
        last = tl.minimum(tl.associative_scan(tl.where(ends, i, n), 0, smaller, reverse=True), carry)
        carry = tl.min(last)
        index = index_in(tl.load(words_at + i, mask=i < n, other=0))
        first = tl.load(ranks_at + index, mask=i < n, other=0.0)
        tl.store(ranks_at + index, (first + last.to(tl.float32)) * 0.5 + 1.0 + unranked, mask=i < n)
    tl.debug_barrier()
