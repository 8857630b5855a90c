"""Returns of closes over the days that a label may cover, on days spread over the calendar.

D days, S codes
"""

import numpy as np
import numpy.typing as npt

from engine.audit.sample import CacheSample, Float32, ranks
from engine.score.standard_error import mean_test
from loaders.panel import Int

MOST_CELLS = 300_000  # D x S
LEAST = 20  # codes of a day that counts
NEXT_OPEN = "next open"
ENTRIES = ("close", "next_open", "next_close")  # of recipe ohlcv, whose module needs the packages of a build
EXACT, EXACT_SHARE = 1e-5, 1e-3  # a label is the return itself: within EXACT + EXACT_SHARE |return|

Float = npt.NDArray[np.float64]
Start = int | str  # days from the label's own day to the close at which it begins, or NEXT_OPEN


def window_days(sample: CacheSample) -> Int:
    """Places of the days [D] in the calendar: all, or as many as have MOST_CELLS cells, and no fewer than 60."""
    most = max(MOST_CELLS // max(len(sample.codes), 1), min(sample.days, 60))
    return np.unique(np.linspace(0, sample.days - 1, min(most, sample.days)).round().astype(np.int64))


def window_return(sample: CacheSample, days: Int, start: Start, h: int) -> Float32 | None:
    """[D, S] from the close `start` days after each day to the close h days later; or from the next open to close h.

    NaN where a price is missing. None where the cache does not keep what it needs.
    """
    close = sample.bars.get("close")
    first = sample.bars.get("open") if isinstance(start, str) else close
    if close is None or first is None:
        return None
    begin = days + (1 if isinstance(start, str) else start)
    end = days + h if isinstance(start, str) else begin + h
    known = (begin >= 0) & (end < sample.days) & (end >= 0)
    found = np.full((len(days), len(sample.codes)), np.nan, np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = close[end[known]] / first[begin[known]] - 1
    found[known] = np.where((close[end[known]] > 0) & (first[begin[known]] > 0), value, np.nan)
    return found


def likeness(label: Float32, window: Float32) -> Float:
    """Spearman's correlation within each day [D], NaN on days with too few codes."""
    both = np.isfinite(label) & np.isfinite(window)
    a, b = ranks(np.where(both, label, np.nan)), ranks(np.where(both, window, np.nan))
    usable = np.isfinite(a) & np.isfinite(b)
    count = usable.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where(usable, a * b, 0).sum(1, dtype=np.float64) / count
    return np.where(count >= LEAST, found, np.nan)


def exactly(label: Float32, window: Float32) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """[D, S] where both are there, and where they are equal."""
    both = np.isfinite(label) & np.isfinite(window)
    with np.errstate(invalid="ignore"):
        return both, both & (np.abs(label - window) <= EXACT + EXACT_SHARE * np.abs(window))


def beats(better: Float, than: Float, h: int, least: float, size: float) -> bool:
    """Whether one daily likeness [D] is above another, by `least` in the mean and by a test of the daily difference."""
    difference = (better - than)[np.isfinite(better) & np.isfinite(than)]
    if len(difference) < LEAST or difference.mean() < least:
        return False
    p = mean_test(difference, min(h, max(len(difference) // 12, 1))).p
    return bool(p < size or difference.std() < 1e-9)


def stated_start(sample: CacheSample, i: int) -> Start | None:
    """What the manifest says of where the label of the i-th horizon begins; None where it says nothing.

    Recipe `ohlcv` states its entry, and so do descriptions that end in `from the close`, `next open` or `next close`.
    """
    manifest = sample.panel.manifest
    entry = manifest.recipe.get("entry")
    text = manifest.targets[i].lower() if i < len(manifest.targets) else ""
    starts: tuple[Start, ...] = (0, NEXT_OPEN, 1)
    for name, start in zip(ENTRIES, starts, strict=True):
        if entry == name or f"from the {name.replace('_', ' ')}" in text:
            return start
    return None
