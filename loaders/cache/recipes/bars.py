"""Daily bars, cleaned: float32 columns by row of a layout.

What happens to odd bars (each counted in the manifest):

    no usable close (0, negative, infinite, missing)   the row is context; features see the close before, no label it
    no usable open                                     the open's features are missing that day
    no usable high or low                              both are taken to be the close
    high below low or above open or close              the range is widened to hold both
    no usable volume (0, negative, infinite, missing)  the row stays, with volume 0

S codes
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.jit.compile import jit
from loaders.cache.recipes.common import PerCode, per_code
from loaders.cache.recipes.source_rows import HERE, SourceRows

Float = npt.NDArray[np.float32]

BARS = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True)
class Bars:
    """Cleaned bars on a layout's rows, float32 [rows] each; a day without a bar repeats the close before."""

    open: Float  # NaN: unknown
    high: Float
    low: Float
    close: Float
    volume: Float
    present: npt.NDArray[np.bool_]  # the source has a bar
    usable: npt.NDArray[np.bool_]  # and a close in it


def clean_bars(source: SourceRows) -> tuple[Bars, dict[str, PerCode]]:
    """Clean the columns `BARS` of a source; also gives counts of what was odd, of each code."""
    layout, present = source.layout, source.present[:] == HERE
    raw = np.array(source.values[:].T, order="C")
    raw[~(np.isfinite(raw) & (raw > 0))] = np.nan
    open_, high, low, close, volume = raw
    usable = ~np.isnan(close)
    has_range = ~(np.isnan(high) | np.isnan(low))
    odd = {
        "bars": present,
        "bars_without_close": present & ~usable,
        "bars_without_open": usable & np.isnan(open_),
        "bars_without_range": usable & ~has_range,
        "bars_without_volume": usable & np.isnan(volume),
    }
    counts = {name: per_code(rows, layout) for name, rows in odd.items()}
    _carry(close, layout.offset, layout.days)
    known_range = has_range & usable
    high[~known_range] = close[~known_range]
    low[~known_range] = close[~known_range]
    widened = (np.fmax(open_, close) > high) | (np.fmin(open_, close) < low)
    counts["ranges_widened"] = per_code(known_range & widened, layout)
    np.fmax(high, np.fmax(open_, close), out=high)
    np.fmin(low, np.fmin(open_, close), out=low)
    volume[~usable | np.isnan(volume)] = 0
    open_[~usable] = np.nan
    return Bars(open_, high, low, close, volume, present, usable), counts


@jit()
def _carry(close, offset, days):  # type: ignore[no-untyped-def]
    """Repeat the last known close over days without one."""
    for s in range(len(offset)):
        for row in range(offset[s] + 1, offset[s] + days[s]):
            if np.isnan(close[row]):
                close[row] = close[row - 1]
