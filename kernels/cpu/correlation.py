"""Exact ranks and correlations on CPUs, see kernels.correlation.

R cross-sections, N entries, n of them valid
"""

import numpy as np
import torch
from numba import uint32
from torch import Tensor

from kernels.cpu import sorting
from kernels.cpu.compaction import compact, valid_of
from kernels.cpu.loops import compiled, for_rows


@compiled
def _rank_rows(begin, end, values, mask, ranks):  # type: ignore[no-untyped-def]
    size = values.shape[1]
    index, scratch, found = np.empty(size + 1, np.int32), np.empty(size, np.float32), np.empty(size, np.float32)
    words, spare, counts = sorting.sort_scratch(size)
    for r in range(begin, end):
        n = compact(mask[r], index)
        if n < size:
            ranks[r] = 0
        if n == 0:
            continue
        sorting.sort(valid_of(values[r], index, n, scratch), words, spare, counts)
        sorting.average_ranks(words, found[:n])
        for i in range(n):
            ranks[r, uint32(index[i])] = found[i]


@compiled
def _correlate_rows(begin, end, a, b, mask, correlation):  # type: ignore[no-untyped-def]
    size = a.shape[1]
    index, scratch = np.empty(size + 1, np.int32), np.empty((2, size), np.float32)
    for r in range(begin, end):
        n = compact(mask[r], index)
        correlation[r] = np.nan
        if n < 2:
            continue
        x, y = valid_of(a[r], index, n, scratch[0]), valid_of(b[r], index, n, scratch[1])
        mean_x, mean_y, same_x, same_y = 0.0, 0.0, True, True
        for i in range(n):
            mean_x += x[i]
            mean_y += y[i]
            same_x &= x[i] == x[0]
            same_y &= y[i] == y[0]
        if same_x or same_y:
            continue
        mean_x, mean_y = mean_x / n, mean_y / n
        xx, yy, xy = 0.0, 0.0, 0.0
        for i in range(n):
            centred_x, centred_y = x[i] - mean_x, y[i] - mean_y
            xx += centred_x * centred_x
            yy += centred_y * centred_y
            xy += centred_x * centred_y
        found = xy / np.sqrt(xx) / np.sqrt(yy)
        correlation[r] = found if found != found else min(max(found, -1.0), 1.0)


def average_ranks(values: Tensor, mask: Tensor) -> Tensor:
    """Ranks of the valid entries [R, N], 0 elsewhere."""
    ranks = torch.empty_like(values)
    for_rows(_rank_rows, len(values), values.numpy(), mask.numpy(), ranks.numpy())
    return ranks


def pearson(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Correlations [R], float64."""
    correlation = torch.empty(len(a), dtype=torch.float64)
    for_rows(_correlate_rows, len(a), a.numpy(), b.numpy(), mask.numpy(), correlation.numpy())
    return correlation
