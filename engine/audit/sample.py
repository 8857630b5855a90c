"""A cache as the checks see it: some of its codes, whole lives, as arrays by day and code.

A row of the file is one code's day, so some codes are cheap to read and some days are not. Codes are drawn evenly from
the sorted list, so that the same cache gives the same sample. Cells without a row are NaN.

T days, S codes of the sample, F features
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.score.cross_section import ranks_within_day
from loaders.cache.format import ABSENT, SCORED, open_source, verify_source
from loaders.panel import Int, Panel

Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

MOST_CELLS = 4_000_000  # T x S: 16 MB an array
BARS = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True)
class KeptSource:
    """What a cache was built from, mapped: row(code s, day t) = offset[s] + t - first[s], on its own calendar."""

    columns: list[str]
    calendar: npt.NDArray[np.datetime64]
    codes: list[str]
    first: Int
    days: Int
    values: Any  # [rows, columns] float32, NaN where the source has no value

    @cached_property
    def offset(self) -> Int:
        """Row of each code's first day."""
        return np.cumsum(self.days) - self.days


@dataclass(frozen=True, eq=False)
class CacheSample:
    """Some codes of a panel over all days; arrays are computed when they are first asked for."""

    panel: Panel
    codes: Int  # [S] their numbers in the panel, ascending

    @property
    def names(self) -> list[str]:
        """The codes' names [S]."""
        return [self.panel.manifest.codes[s] for s in self.codes]

    @property
    def days(self) -> int:
        """T."""
        return len(self.panel.calendar)

    @property
    def horizons(self) -> list[int]:
        return self.panel.manifest.horizons

    @cached_property
    def presence(self) -> npt.NDArray[np.uint8]:
        """[T, S] ABSENT, CONTEXT or SCORED."""
        return self._dense(self.panel.presence, ABSENT)

    @cached_property
    def present(self) -> Bool:
        """[T, S] whether there is a row."""
        return self.presence != ABSENT

    @cached_property
    def scored(self) -> Bool:
        """[T, S] whether the row is in the universe."""
        return self.presence == SCORED

    @cached_property
    def targets(self) -> dict[int, Float32]:
        """[T, S] of each horizon, as stored: what follows on day t. NaN where there is none."""
        return {h: self._dense(self.panel.targets, np.nan, i) for i, h in enumerate(self.horizons)}

    def of_code(self, s: int) -> npt.NDArray[Any]:
        """Features [days of its span, F] of the code at place s of the sample, as stored; absent rows are zero."""
        return self.panel.features[self.panel.rows_of(int(self.codes[s]), 0, self.days)]

    def on_days(self, days: Int) -> Iterator[Float32]:
        """Features [S, F] of each of the days, NaN without a row."""
        for t in days.tolist():
            place = t - self.panel.first[self.codes]
            here = np.flatnonzero(self.present[t])
            found = np.full((len(self.codes), len(self.panel.manifest.features)), np.nan, np.float32)
            found[here] = self.panel.features[(self.panel.offset[self.codes] + place)[here]]
            yield found

    @cached_property
    def bars(self) -> dict[str, Float32]:
        """[T, S] of those of BARS that the cache's source has, as the source has them; {} where it keeps none."""
        source = self.source
        if source is None:
            return {}
        place = {code: s for s, code in enumerate(source.codes)}
        names = {name.lower(): i for i, name in reversed(list(enumerate(source.columns)))}
        shift = int(np.searchsorted(source.calendar, self.panel.calendar[0]))
        found = {name: np.full((self.days, len(self.codes)), np.nan, np.float32) for name in BARS if name in names}
        for s, code in enumerate(self.names):
            own = place.get(code)
            if own is None:
                continue
            first, days, row = (int(each[own]) for each in (source.first, source.days, source.offset))
            skip = max(shift - first, 0)
            start = first + skip - shift
            stop = min(start + days - skip, self.days)
            if stop <= start:
                continue
            values = source.values[row + skip : row + skip + stop - start]
            for name, column in found.items():
                column[start:stop, s] = values[:, names[name]]
        return found

    @cached_property
    def source(self) -> KeptSource | None:
        """What the cache was built from; None where it was not kept, and of shards."""
        built = self.panel.manifest.built_from
        if built is None:
            return None
        calendar = np.array(built.calendar, "datetime64[D]")
        first, days = np.array(built.first, np.int64), np.array(built.days, np.int64)
        verify_source(self.panel.folder, self.panel.manifest)
        values = open_source(self.panel.folder, built).features
        return KeptSource(built.columns, calendar, built.codes, first, days, values)

    @cached_property
    def returns(self) -> Float32 | None:
        """[T, S] simple returns from day t - 1 to t: of closes where the source has them, else of the 1-day label.

        None where there is neither. Returns of closes do not come from the labels, so labels can be held against them.
        """
        return self.close_returns if self.close_returns is not None else self.label_returns

    @cached_property
    def close_returns(self) -> Float32 | None:
        """[T, S] from the closes of the source; NaN beside a close that is missing, or not positive."""
        close = self.bars.get("close")
        if close is None:
            return None
        usable = np.where(close > 0, close, np.nan)
        found = np.full_like(usable, np.nan)
        found[1:] = usable[1:] / usable[:-1] - 1
        return found

    @cached_property
    def label_returns(self) -> Float32 | None:
        """[T, S] the 1-day label, on the day on which it is known; None without horizon 1."""
        if 1 not in self.horizons:
            return None
        return shifted(self.targets[1], 1 + self.panel.manifest.known_after)

    def _dense(self, column: Any, missing: float, place: int | None = None) -> Any:
        """A column as [T, S], or one of its places; by code, as shards have rows between theirs that no one has."""
        found = np.full((self.days, len(self.codes)), missing, column.dtype)
        for s, code in enumerate(self.codes):
            first = int(self.panel.first[code])
            rows = self.panel.rows_of(int(code), 0, self.days)
            found[first : first + rows.stop - rows.start, s] = column[rows] if place is None else column[rows, place]
        return found


def sample_of(panel: Panel, most_cells: int = MOST_CELLS) -> CacheSample:
    """Codes of a panel, evenly from all, so many that an array has at most `most_cells`."""
    n = len(panel.manifest.codes)
    most = max(min(most_cells // len(panel.calendar), n), min(n, 50))
    return CacheSample(panel, np.unique(np.linspace(0, n - 1, most).round().astype(np.int64)))


def shifted(values: Float32, days: int) -> Float32:
    """[T, S] the value of `days` days before (of later days where negative), NaN where there is no such day."""
    found = np.full_like(values, np.nan)
    if days >= 0:
        found[days:] = values[: len(values) - days]
    else:
        found[:days] = values[-days:]
    return found


def ranks(values: Float32) -> Float32:
    """[T, S] normalised ranks within each day: mean 0 and deviation 1 over the cells that have a value, else NaN.

    Ties share their mean rank. So a rank correlation is the mean of a product. A day without two values is NaN.
    """
    found = np.full(values.shape, np.nan, np.float32)
    here = np.isfinite(values)
    day = np.nonzero(here)[0]
    order = ranks_within_day(values[here], day).astype(np.float64)
    count = np.bincount(day, minlength=len(values))
    with np.errstate(invalid="ignore", divide="ignore"):
        order -= (np.bincount(day, order, len(values)) / count)[day]
        order /= np.sqrt(np.bincount(day, order**2, len(values)) / count)[day]
    found[here] = order
    return found
