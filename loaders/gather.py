"""From a block to arrays: S contiguous runs of rows, padded, in float32.

S codes, D scored days, L context, T = D + L - 1 days read, F features, H horizons
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

from loaders.cache.format import SCORED
from loaders.panel import Panel
from loaders.plan import Block
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


def gather(panel: Panel, part: Days, block: Block, days: int, context: int) -> Batch:
    """Copy a block out of the panel, in parallel over its codes.

    Rows before a code's first day or after its last are absent. Targets are given for scored rows on days inside
    `part` only, so a block that sticks out of its part at either end holds no sample of another part.
    """
    n, span = len(block.codes), days + context - 1
    x = np.empty((n, span, panel.features.shape[1]), np.float32)
    presence = np.empty((n, span), np.uint8)
    y = np.empty((n, days, panel.targets.shape[1]), np.float32)
    raw = panel.features.view(np.uint16) if panel.features.dtype == np.float16 else panel.features
    _gather(
        raw, panel.targets, panel.presence, panel.offset, panel.first, panel.days, block.codes,
        block.day, context, part.start, part.stop, x, presence, y,
    )  # fmt: skip
    return Batch(x, presence, y, block)


@intrinsic
def _widen(typingctx: Any, stored: Any) -> Any:
    """float32 of a stored value: float32 itself, or float16 given as uint16 bits.

    Numba has no float16 on CPUs; LLVM has, and turns the conversion of a row into vector instructions (F16C).
    """
    is_half = stored == types.uint16

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType()) if is_half else args[0]

    return types.float32(stored), codegen


@njit(parallel=True, nogil=True, cache=True)
def _gather(  # type: ignore[no-untyped-def]
    features, targets, present, offset, first, days, codes, day, context, start, stop, x, presence, y
):
    n, span, width = x.shape
    begin = day - context + 1
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
        for t in range(low, high):
            presence[s, t] = present[row + t]
            for f in range(width):
                x[s, t, f] = _widen(features[row + t, f])  # type: ignore[call-arg]
        for d in range(span - context + 1):
            t = d + context - 1
            scored = low <= t < high and start <= day + d < stop and present[row + t] == SCORED
            for h in range(y.shape[2]):
                y[s, d, h] = targets[row + t, h] if scored else np.nan
