"""Sets of rows with constant-time range counts (rank over a bitmap): one bit a row, one count per 64 rows.

A plan asks, for every code and range of days, whether there is a sample. A running count per row would answer from 8
bytes a row in memory; these take an eighth of a byte on disk (`rows.npy`, mapped) and an eighth in memory.

N rows, W = ceil(N / 64) + 1 words
"""

import math
import mmap
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.jit.compile import jit

WORD = 64
HEADER = 128  # bytes before the array in rows.npy, as NumPy writes it


def words_of(rows: int) -> int:
    """W of so many rows."""
    return math.ceil(rows / WORD) + 1


def rows_bytes(rows: int) -> int:
    """Size of rows.npy of so many rows."""
    return HEADER + 16 * words_of(rows)


def bits_of(content: mmap.mmap, rows: int) -> npt.NDArray[np.uint64]:
    """The array [2, W] of a mapped rows.npy, nothing copied; its header is compared and not parsed.

    Raises ValueError for another size, type or shape.
    """
    words = words_of(rows)
    if len(content) != rows_bytes(rows):
        raise ValueError(f"{len(content):,} bytes, {rows:,} rows need {rows_bytes(rows):,}")
    text = f"{{'descr': '<u8', 'fortran_order': False, 'shape': (2, {words}), }}"
    if content[:HEADER].rstrip() != b"\x93NUMPY\x01\x00\x76\x00" + text.encode():
        raise ValueError(f"its header is not that of uint64 (2, {words})")
    return np.frombuffer(content, "<u8", 2 * words, HEADER).reshape(2, words)


def row_bits(rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Bits, uint64 [W], of a bool mask [N]: row r is bit r % 64 of word r // 64. The last word is always 0."""
    words = words_of(len(rows))
    packed = np.zeros(words * 8, np.uint8)
    packed[: (len(rows) + 7) // 8] = np.packbits(rows, bitorder="little")
    return packed.view("<u8")


@dataclass(frozen=True)
class RowSet:
    """A set of rows, as `row_bits` gives it, with the number of rows in the words before each."""

    bits: npt.NDArray[np.uint64]  # [W]
    before: npt.NDArray[np.int64]  # [W]

    def between(self, low: npt.NDArray[np.int64], high: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How many rows of the set are in low..high-1 (0 <= low <= high <= N), int64 of the same shape [n]."""
        counts: npt.NDArray[np.int64] = _between(self.bits, self.before, low, high)
        return counts


@jit(nogil=True)
def _between(bits, before, low, high):  # type: ignore[no-untyped-def]
    counts = np.empty(len(low), np.int64)
    for i in range(len(low)):
        counts[i] = _below(bits, before, high[i]) - _below(bits, before, low[i])
    return counts


@jit(nogil=True)
def _below(bits, before, row):  # type: ignore[no-untyped-def]
    word = row // WORD
    return before[word] + _ones(bits[word] & ((np.uint64(1) << np.uint64(row % WORD)) - np.uint64(1)))


@jit(nogil=True)
def _ones(word):  # type: ignore[no-untyped-def]
    """Bits that are set (numba has no popcount; LLVM recognises this one)."""
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


def row_set(bits: npt.NDArray[np.uint64]) -> RowSet:
    """The set with those bits."""
    counts = np.bitwise_count(bits).astype(np.int64)
    return RowSet(bits, np.cumsum(counts) - counts)
