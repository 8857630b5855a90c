"""The valid entries of a row, compacted into an array of their own, and scattered back.

N entries, n of them valid
"""

from numba import uint32

from kernels.cpu.loops import compiled


@compiled
def compact(mask, index):  # type: ignore[no-untyped-def]
    """Fill `index` (int32 [N + 1]) with the indices of the valid entries and return their number n."""
    n = 0
    for i in range(len(mask)):
        index[n] = i
        n += 1 if mask[i] else 0
    return n


@compiled
def valid_of(row, index, n, scratch):  # type: ignore[no-untyped-def]
    """The n valid entries of a row, in `scratch`; the row itself where all are valid."""
    if n == len(row):
        return row
    for i in range(n):
        scratch[i] = row[uint32(index[i])]
    return scratch[:n]


@compiled
def scatter(values, index, row):  # type: ignore[no-untyped-def]
    """Write the values of the valid entries to their indices in a row."""
    if len(values) == len(row):
        row[:] = values
    else:
        for i in range(len(values)):
            row[uint32(index[i])] = values[i]
