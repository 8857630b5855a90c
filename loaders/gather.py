"""From a block, or from windows, to arrays: contiguous runs of rows, padded, in float32. One read and write a value.

A run is the rows of one code on T consecutive days, of which the last D are scored. A block has the same days for all
of its codes; windows have D = 1 and days of their own. A row lies at address[code] + (day - first[code]) * row bytes,
so neither needs an index or a search, and addresses are 64 bits: a file may be of any size.

N runs (S codes of a block), D scored days, L context, T = D + L - 1 days read, F features, H horizons
"""

import threading

import numpy as np
from numba import prange

from kernels.jit.compile import jit
from loaders.batch import Batch, Slot, new_slot
from loaders.cache.format import SCORED
from loaders.panel import Int, Panel
from loaders.plan import Block, count_samples
from loaders.runs import copy_bytes, copy_run, fence, prefetch_run, widen_run
from loaders.split import Days

RUNS = 32  # that a thread takes at a time; a fence, which waits for all stores, ends them
HEAD = 512  # bytes of a run that are loaded ahead; the processor itself finds the rest


def gather(panel: Panel, part: Days, block: Block, days: int, context: int) -> Batch:
    """Copy a block of D scored `days` out of the panel into new memory; see `fill_block`."""
    slot = new_slot(panel, len(block.codes), days, context)
    fill_block(panel, part, block, context, slot)
    return slot.batch(block, count_samples(panel, part, block, days))


def fill_block(panel: Panel, part: Days, block: Block, context: int, slot: Slot) -> None:
    """Copy a block out of the panel into the first rows of a slot, in parallel over its codes.

    Rows before a code's first day or after its last are absent: zeros with presence 0. Targets are given for scored
    rows on days inside `part` only, NaN elsewhere, so a block that sticks out of its part at either end holds no sample
    of another part.

    Args:
        context: L; the slot is of this panel, this context and the block's days.
    """
    _fill(panel, part, block.codes, block.day, block.codes, 0, context, slot)


def fill_windows(panel: Panel, part: Days, codes: Int, day: Int, context: int, slot: Slot) -> None:
    """Copy windows into a slot of one scored day, for models that score one sample at a time.

    Fills x [N, L, F], presence [N, L] and y [N, 1, H]. Copies every row up to L times; where a model allows it, blocks
    move the same samples with a fraction of the bytes. Windows of neighbouring days of one code, one after another,
    read their common rows from the processor's cache: for S codes on D days ask code by code, and take x[day::D] for a
    day.

    Args:
        codes, day: int64 [N], the code's number and the calendar index of each window's last day.
    """
    _fill(panel, part, codes, 0, day, 1, context, slot)


# Numba's thread pools run one parallel region at a time; a second thread waits here rather than crash there.
_one_at_a_time = threading.Lock()


def _fill(panel: Panel, part: Days, codes: Int, first_day: int, day: Int, each: int, context: int, slot: Slot) -> None:
    """Gather runs, of which number s begins to be scored on first_day + each * day[s]."""
    x, presence, y = slot.arrays
    if len(codes) > len(x):
        raise ValueError(f"{len(codes)} runs do not fit into a slot of {len(x)}")
    half = panel.half
    # Between two blocks the caches are cold and every call of Python counts: arrays are as few as can be.
    with _one_at_a_time:
        _gather(panel.spans, half, codes, first_day, day, each, context, part.start, part.stop, x, presence, y)


@jit(parallel=True, nogil=True)
def _gather(  # type: ignore[no-untyped-def]
    spans, half, codes, first_day, day, each, context, start, stop, x, presence, y
):
    features_at, targets_at, presence_at, first, days = spans
    n = len(codes)
    span, width = x.shape[1:]
    scored_days, horizons = y.shape[1:]
    row_bytes = width * (2 if half else 4)
    pieces = (n + RUNS - 1) // RUNS
    # Addresses and not slices: a slice counts references to its array, and threads would wait for one another's count.
    x_at, presence_to, y_at = x.ctypes.data, presence.ctypes.data, y.ctypes.data
    for piece in prange(pieces):
        labels = np.empty((scored_days, horizons), np.float32)
        labels_at = labels.ctypes.data
        for s in range(n * piece // pieces, n * (piece + 1) // pieces):
            if s + 1 < n:
                # The next run is somewhere else in memory: its first lines are on their way while this one is copied.
                coming, scored = codes[s + 1], first_day + each * day[s + 1]
                row = max(scored - context + 1 - first[coming], 0)
                prefetch_run(presence_at[coming] + row, span)
                prefetch_run(targets_at[coming] + (row + context - 1) * horizons * 4, scored_days * horizons * 4)
                prefetch_run(features_at[coming] + row * row_bytes, HEAD)
            code, scored = codes[s], first_day + each * day[s]
            begin = scored - context + 1
            # [low, high) are the positions of the run's days that lie inside the code's span.
            low = min(max(first[code] - begin, 0), span)
            high = max(min(first[code] + days[code] - begin, span), low)
            row = begin - first[code]
            if high - low < span:
                x[s, :low] = 0
                x[s, high:] = 0
                presence[s, :low] = 0
                presence[s, high:] = 0
            if high > low:
                at = presence_at[code] + row + low
                copy_bytes(presence_to + s * span + low, at, high - low)  # type: ignore[call-arg]
                to, at = x_at + (s * span + low) * width * 4, features_at[code] + (row + low) * row_bytes
                if half:
                    widen_run(to, at, (high - low) * width)
                else:
                    copy_run(to, at, (high - low) * width)
            # [label, last) are the scored days that lie inside the code's span and the part.
            last = max(min(high - context + 1, stop - scored, scored_days), 0)
            label = min(max(low - context + 1, start - scored, 0), last)
            if last - label < scored_days:
                labels[:label] = np.nan
                labels[last:] = np.nan
            if last > label:
                at = targets_at[code] + (row + context - 1 + label) * horizons * 4
                copy_bytes(labels_at + label * horizons * 4, at, (last - label) * horizons * 4)  # type: ignore[call-arg]
            for d in range(label, last):
                if presence[s, d + context - 1] != SCORED:
                    for h in range(horizons):
                        labels[d, h] = np.nan
            copy_run(y_at + s * scored_days * horizons * 4, labels_at, scored_days * horizons)
        fence()  # type: ignore[call-arg]
