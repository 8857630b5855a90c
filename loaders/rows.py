"""Sets of rows that tell in constant time how many of them lie below a row: one bit a row, one count per 64 rows.

A plan asks, for every code and stretch of days, whether there is a sample. A running count per row would answer from 8
bytes a row in memory; these take an eighth of a byte on disk (`rows.npy`, mapped) and an eighth in memory.

N rows, W = ceil(N / 64) + 1 words
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

WORD = 64


def row_bits(rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Bits, uint64 [W], of a bool mask [N]: row r is bit r % 64 of word r // 64. The last word is always 0."""
    words = len(rows) // WORD + 1 + (len(rows) % WORD > 0)
    packed = np.zeros(words * 8, np.uint8)
    packed[: (len(rows) + 7) // 8] = np.packbits(rows, bitorder="little")
    return packed.view("<u8")


@dataclass(frozen=True)
class RowSet:
    """A set of rows, as `row_bits` gives it, with the number of rows in the words before each."""

    bits: npt.NDArray[np.uint64]  # [W]
    before: npt.NDArray[np.int64]  # [W]

    def below(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How many rows of the set lie below each of the given rows (0..N), int64 of the same shape."""
        word = rows >> 6
        lower = (np.uint64(1) << (rows & 63).astype(np.uint64)) - np.uint64(1)
        return self.before[word] + np.bitwise_count(self.bits[word] & lower)


def row_set(bits: npt.NDArray[np.uint64]) -> RowSet:
    """The set with those bits."""
    counts = np.bitwise_count(bits).astype(np.int64)
    return RowSet(bits, np.cumsum(counts) - counts)
