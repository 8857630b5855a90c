"""From a block to arrays: S contiguous runs of rows, padded, in float32.

S codes, D scored days, L context, T = D + L - 1 days read, F features, H horizons
"""

import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit, prange

from loaders.cache.format import SCORED
from loaders.panel import Panel
from loaders.plan import Block
from loaders.runs import copy_bytes, copy_run, fence, widen_run
from loaders.split import Days


@dataclass(frozen=True)
class Batch:
    """One block's arrays. Absent rows are zeros with presence 0; a missing target is NaN."""

    x: npt.NDArray[np.float32]  # [S, T, F]
    presence: npt.NDArray[np.uint8]  # [S, T]
    y: npt.NDArray[np.float32]  # [S, D, H]
    block: Block

    @property
    def samples(self) -> int:
        """Entries with a target for at least one horizon."""
        return int(np.isfinite(self.y).any(2).sum())


@dataclass(frozen=True)
class Slot:
    """Memory for one block of at most S codes, used again and again: arrays as in `Batch`."""

    x: npt.NDArray[np.float32]
    presence: npt.NDArray[np.uint8]
    y: npt.NDArray[np.float32]


def new_slot(panel: Panel, codes: int, days: int, context: int) -> Slot:
    """Memory for blocks of up to `codes` codes, uninitialised."""
    span = days + context - 1
    return Slot(
        np.empty((codes, span, panel.features.shape[1]), np.float32),
        np.empty((codes, span), np.uint8),
        np.empty((codes, days, panel.targets.shape[1]), np.float32),
    )


# Numba's thread pools run one parallel region at a time; a second thread waits here rather than crash there.
_one_at_a_time = threading.Lock()


def gather(panel: Panel, part: Days, block: Block, days: int, context: int, slot: Slot | None = None) -> Batch:
    """Copy a block out of the panel, in parallel over its codes.

    Rows before a code's first day or after its last are absent. Targets are given for scored rows on days inside
    `part` only, so a block that sticks out of its part at either end holds no sample of another part.

    Args:
        slot: memory to fill, of this panel, `days` and `context`; the batch is a view on it. None: new memory.
    """
    n = len(block.codes)
    slot = new_slot(panel, n, days, context) if slot is None else slot
    batch = Batch(slot.x[:n], slot.presence[:n], slot.y[:n], block)
    with _one_at_a_time:
        _gather(
            panel.features.view(np.uint8), panel.features.dtype == np.float16, panel.targets, panel.presence,
            panel.offset, panel.first, panel.days, block.codes, block.day, context, part.start, part.stop,
            batch.x, batch.presence, batch.y,
        )  # fmt: skip
    return batch


@njit(parallel=True, nogil=True, cache=True)
def _gather(  # type: ignore[no-untyped-def]
    features, half, targets, present, offset, first, days, codes, day, context, start, stop, x, presence, y
):
    n, span, width = x.shape
    begin = day - context + 1
    stored = features.ctypes.data
    for s in prange(n):
        code = codes[s]
        # [low, high) are the positions of the block's days that lie inside the code's span.
        low = min(max(first[code] - begin, 0), span)
        high = max(min(first[code] + days[code] - begin, span), low)
        row = offset[code] + begin - first[code]
        x[s, :low] = 0
        x[s, high:] = 0
        presence[s, :low] = 0
        presence[s, high:] = 0
        if high > low:
            to, at = presence[s, low:].ctypes.data, present[row + low :].ctypes.data
            copy_bytes(to, at, high - low)  # type: ignore[call-arg]
            to, values = x[s, low:].ctypes.data, (high - low) * width
            if half:
                widen_run(to, stored + (row + low) * width * 2, values)
            else:
                copy_run(to, stored + (row + low) * width * 4, values)
        for d in range(span - context + 1):
            t = d + context - 1
            scored = low <= t < high and start <= day + d < stop and present[row + t] == SCORED
            for h in range(y.shape[2]):
                y[s, d, h] = targets[row + t, h] if scored else np.nan
        fence()  # type: ignore[call-arg]
