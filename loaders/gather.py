"""From a block, or from windows, to arrays: contiguous runs of rows, padded, in float32. One read and write a value.

A run is the rows of one code on T consecutive days, of which the last D are scored. A block has the same days for all
of its codes; windows have D = 1 and days of their own. A row lies at address[code] + (day - first[code]) * row bytes,
so neither needs an index or a search, and addresses are 64 bits: a file may be of any size.

N runs (S codes of a block), D scored days, L context, T = D + L - 1 days read, F features, H horizons
"""

import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit, prange

from loaders.cache.format import SCORED
from loaders.panel import Panel
from loaders.plan import Block
from loaders.runs import copy_bytes, copy_run, fence, load_byte, load_float, widen_run
from loaders.split import Days

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Slot:
    """Memory for the arrays of at most N runs, used again and again."""

    x: npt.NDArray[np.float32]  # [N, T, F]
    presence: npt.NDArray[np.uint8]  # [N, T]
    y: npt.NDArray[np.float32]  # [N, D, H]


@dataclass(frozen=True)
class Batch(Slot):
    """One block's arrays. Absent rows are zeros with presence 0; a missing target is NaN."""

    block: Block

    @property
    def samples(self) -> int:
        """Entries with a target for at least one horizon."""
        return int(np.isfinite(self.y).any(2).sum())


def new_slot(panel: Panel, runs: int, days: int, context: int) -> Slot:
    """Memory for up to that many runs, uninitialised."""
    features, horizons = len(panel.manifest.features), len(panel.manifest.horizons)
    span = days + context - 1
    return Slot(
        np.empty((runs, span, features), np.float32),
        np.empty((runs, span), np.uint8),
        np.empty((runs, days, horizons), np.float32),
    )


def gather(panel: Panel, part: Days, block: Block, days: int, context: int, slot: Slot | None = None) -> Batch:
    """Copy a block out of the panel, in parallel over its codes.

    Rows before a code's first day or after its last are absent. Targets are given for scored rows on days inside
    `part` only, so a block that sticks out of its part at either end holds no sample of another part.

    Args:
        slot: memory to fill, of this panel, `days` and `context`; the batch is a view on it. None: new memory.
    """
    n = len(block.codes)
    filled = _fill(panel, part, block.codes, np.full(n, block.day), days, context, slot)
    return Batch(filled.x, filled.presence, filled.y, block)


def gather_windows(panel: Panel, part: Days, codes: Int, day: Int, context: int, slot: Slot | None = None) -> Slot:
    """Copy windows out of the panel, for models that score one sample at a time, in parallel over the windows.

    Gives x [N, L, F], presence [N, L] and y [N, 1, H]. Copies every row up to L times; where a model allows it, blocks
    move the same samples with a fraction of the bytes.

    Args:
        codes, day: int64 [N], the code's number and the calendar index of each window's last day.
        slot: memory to fill, of this panel, one scored day and `context`. None: new memory.
    """
    return _fill(panel, part, codes, day, 1, context, slot)


# Numba's thread pools run one parallel region at a time; a second thread waits here rather than crash there.
_one_at_a_time = threading.Lock()


def _fill(panel: Panel, part: Days, codes: Int, day: Int, days: int, context: int, slot: Slot | None) -> Slot:
    n = len(codes)
    slot = new_slot(panel, n, days, context) if slot is None else slot
    filled = Slot(slot.x[:n], slot.presence[:n], slot.y[:n])
    with _one_at_a_time:
        _gather(
            panel.address, panel.manifest.dtype == "float16", panel.first, panel.days, codes, day, context,
            part.start, part.stop, filled.x, filled.presence, filled.y,
        )  # fmt: skip
    return filled


@njit(parallel=True, nogil=True, cache=True)
def _gather(  # type: ignore[no-untyped-def]
    address, half, first, days, codes, day, context, start, stop, x, presence, y
):
    n, span, width = x.shape
    horizons = y.shape[2]
    for s in prange(n):
        code = codes[s]
        begin = day[s] - context + 1
        # [low, high) are the positions of the run's days that lie inside the code's span.
        low = min(max(first[code] - begin, 0), span)
        high = max(min(first[code] + days[code] - begin, span), low)
        row = begin - first[code]
        x[s, :low] = 0
        x[s, high:] = 0
        presence[s, :low] = 0
        presence[s, high:] = 0
        present = address[2, code] + row
        if high > low:
            copy_bytes(presence[s, low:].ctypes.data, present + low, high - low)  # type: ignore[call-arg]
            to, values = x[s, low:].ctypes.data, (high - low) * width
            if half:
                widen_run(to, address[0, code] + (row + low) * width * 2, values)
            else:
                copy_run(to, address[0, code] + (row + low) * width * 4, values)
        for d in range(span - context + 1):
            t = d + context - 1
            scored = low <= t < high and start <= day[s] + d < stop
            scored = scored and load_byte(present + t) == SCORED  # type: ignore[call-arg]
            for h in range(horizons):
                at = address[1, code] + ((row + t) * horizons + h) * 4
                y[s, d, h] = load_float(at) if scored else np.nan  # type: ignore[call-arg]
        fence()  # type: ignore[call-arg]
