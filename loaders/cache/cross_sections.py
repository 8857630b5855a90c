"""Transform the features of each date as a whole: by rank, by z-score, or as they are. Memory stays bounded.

Sources come in any order, and a transform needs all rows of a date. So rows are collected by date first
(`Collected`): in one array where that fits into MEMORY, else in files, one for each stretch of dates, whose rows fit.
Then every date is transformed over its universe and stored.

    rank     share of the universe's rows that lie below, ties by half, as a uniform value of mean 0 and deviation 1
    zscore   (x - mean) / deviation, both of the universe
    none     as it is

A missing value becomes the middle: 0 after rank and zscore, the universe's median of the date with none. A row outside
the universe gets the value of the place where it would stand. On a date whose universe has fewer than FEWEST rows, all
rows count as the universe.

F features, N rows, n rows of a date
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from kernels.jit.compile import jit
from loaders.cache.columns import Columns, NewColumns
from loaders.cache.format import ABSENT, SCORED
from loaders.cache.layout import Layout
from loaders.cache.statistics import RunningStats, moments
from loaders.progress import Progress, counted, part_of, quiet

MEMORY = 2 << 30  # bytes of collected rows above which they go to files
FEWEST = 20  # rows of a universe that a date needs
DESCRIPTION = {
    "rank": "rank within the date among scored rows, uniform with mean 0 and deviation 1; missing is 0",
    "zscore": "z-score within the date over scored rows; missing is 0",
    "none": "as in the source; missing is the date's median",
}

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int64]


@dataclass
class Collected:
    """Rows [N] by date, each with its F raw values; NaN is missing."""

    layout: Layout
    values: Float | None  # [N, F] by row number, where they are in memory
    bounds: Int  # [files + 1] first date of each file, the last one past the end
    files: Sequence[BinaryIO] = field(default_factory=list)
    rows: Sequence[BinaryIO] = field(default_factory=list)  # row numbers, beside `files`
    writing: Lock = field(default_factory=Lock)  # to the files

    def put(self, rows: Int, values: Float) -> None:
        """Add rows int64 [n] with their values [n, F], in any order and from any thread; each row once."""
        if self.values is not None:
            self.values[rows] = values
            return
        place = np.searchsorted(self.bounds, self.layout.day_of(rows), "right") - 1
        order = np.argsort(place, kind="stable")
        cuts = np.searchsorted(place[order], np.arange(len(self.files) + 1))
        with self.writing:
            for i in np.unique(place):
                mine = order[cuts[i] : cuts[i + 1]]
                self.rows[i].write(np.ascontiguousarray(rows[mine]))
                self.files[i].write(np.ascontiguousarray(values[mine]))

    def stretches(self, present: npt.NDArray[np.bool_]) -> Iterator[tuple[range, Int, Float]]:
        """Stretches of dates, each with its `present` rows [n] and their values.

        In memory, values are those of all rows and not of the present ones alone: rows are places in them as well.
        """
        if self.values is not None:
            yield range(len(self.layout.calendar)), np.flatnonzero(present), self.values
            return
        for i, (values, rows) in enumerate(zip(self.files, self.rows, strict=True)):
            for file in (values, rows):
                file.flush()
            numbers = np.fromfile(rows.name, np.int64)
            raw = np.fromfile(values.name, np.float32).reshape(len(numbers), -1)
            here = present[numbers]
            if not here.all():
                numbers, raw = numbers[here], raw[here]
            yield range(int(self.bounds[i]), int(self.bounds[i + 1])), numbers, raw


@contextmanager
def collecting(folder: Path, layout: Layout, features: int) -> Iterator[Collected]:
    """A place for the raw values of a layout's rows; files, in `folder`, are gone when the `with` ends."""
    rows_of_date = layout.rows_of_date()
    size = layout.rows * features * 4
    if size <= MEMORY:
        values = np.empty((layout.rows, features), np.float32)  # of rows that nobody puts, none is read
        yield Collected(layout, values, np.array([0, len(layout.calendar)]))
        return
    files = -(-4 * size // MEMORY)  # the rows of one, their order and the transformed ones are in memory together
    ends = np.searchsorted(np.cumsum(rows_of_date), np.arange(1, files) * (rows_of_date.sum() / files)) + 1
    bounds = np.unique([0, *ends, len(layout.calendar)])
    with TemporaryDirectory(dir=folder) as place:
        count = len(bounds) - 1
        values_of = [(Path(place) / f"values-{i}").open("wb") for i in range(count)]
        rows_of = [(Path(place) / f"rows-{i}").open("wb") for i in range(count)]
        try:
            yield Collected(layout, None, bounds, values_of, rows_of)
        finally:
            for file in (*values_of, *rows_of):
                file.close()


def store(
    collected: Collected,
    transform: str,
    columns: NewColumns | Columns,
    as_is: Sequence[int] = (),
    before: RunningStats | None = None,
    progress: Progress = quiet,
) -> RunningStats:
    """Transform every date and write it to the columns; gives statistics of the raw values of scored rows.

    Args:
        transform: a key of TRANSFORMS.
        columns: whose presence is known already.
        as_is: features that are stored as they are, without missing values.
        before: statistics of the dates before, which are added to.
        progress: in dates.
    """
    apply, presence = TRANSFORMS[transform], columns.presence[:]
    stats = RunningStats(columns.features.shape[1]) if before is None else before
    whole = collected.values is not None
    find = collected.layout.days_of_ascending if whole else collected.layout.day_of
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for dates, rows, values in collected.stretches(presence != ABSENT):
            day = find(rows).astype(np.uint16 if dates.stop < 1 << 16 else np.int64)  # sorts by radix
            # Ascending rows within a date, whatever order they came in: sums are the same to the last bit.
            order = np.argsort(day, kind="stable") if whole else np.lexsort((rows, day))
            cuts = np.searchsorted(day[order], np.arange(dates.start, dates.stop + 1))

            def one(
                i: int, rows: Int = rows, values: Float = values, order: Int = order, cuts: Int = cuts
            ) -> tuple[npt.NDArray[np.float64], int]:
                mine = order[cuts[i] : cuts[i + 1]]
                of_date = rows[mine]
                raw = values[of_date if whole else mine]
                universe = presence[of_date] == SCORED
                counted = universe if universe.sum() >= FEWEST else np.ones(len(mine), np.bool_)
                if len(mine):
                    transformed = apply(raw, counted)
                    if as_is:
                        transformed[:, as_is] = raw[:, as_is]
                    columns.features[of_date] = transformed
                return moments(raw, universe), int(universe.sum())

            all_dates = len(collected.layout.calendar)
            of_stretch = part_of(progress, dates.start / all_dates, dates.stop / all_dates)
            results = pool.map(one, range(len(dates)))
            for found, count in counted(results, len(dates), of_stretch, "transforming dates"):
                stats.add(found, count)
    return stats


def _rank(raw: Float, counted: npt.NDArray[np.bool_]) -> Float:
    keys = np.empty((raw.shape[1], len(raw)), np.uint64)
    _sort_keys(raw, keys)
    keys.sort(1)
    ranked = np.empty(raw.shape, np.float32)
    _place(keys, counted, ranked)
    return ranked


def _zscore(raw: Float, counted: npt.NDArray[np.bool_]) -> Float:
    x = raw.astype(np.float64)
    known = np.isfinite(x[counted])
    n = np.maximum(known.sum(0), 1)
    mean = np.where(known, x[counted], 0).sum(0) / n
    deviation = np.sqrt(np.where(known, x[counted] - mean, 0).__pow__(2).sum(0) / n)
    varied = deviation > 1e-6 * np.abs(mean)  # a constant deviates by rounding alone
    z = (x - mean) / np.where(varied & (deviation > 0), deviation, np.inf)
    return np.nan_to_num(z, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)


def _as_is(raw: Float, counted: npt.NDArray[np.bool_]) -> Float:
    missing = ~np.isfinite(raw)
    if not missing.any():
        return raw
    known = counted[:, None] & ~missing
    masked = np.where(known, raw, np.nan)
    middle = np.zeros(raw.shape[1], np.float32)
    some = known.any(0)
    middle[some] = np.nanmedian(masked[:, some], 0)
    return np.where(missing, middle, raw)


TRANSFORMS: dict[str, Callable[[Float, npt.NDArray[np.bool_]], Float]] = {
    "rank": _rank, "zscore": _zscore, "none": _as_is,
}  # fmt: skip


@jit(nogil=True)
def _sort_keys(raw, keys):  # type: ignore[no-untyped-def]
    """keys [F, n]: the value's bits, ordered like the value, above its position; missing values last."""
    last = np.uint32(0xFFFFFFFF)
    sign = np.uint32(0x80000000)
    for i in range(len(raw)):
        bits = raw[i].view(np.uint32)
        for f in range(len(bits)):
            value = raw[i, f]
            if np.isnan(value):
                key = last
            elif value == 0:
                key = sign
            else:
                key = ~bits[f] if bits[f] & sign else bits[f] | sign
            keys[f, i] = (np.uint64(key) << np.uint64(32)) | np.uint64(i)


@jit(nogil=True)
def _place(keys, counted, ranked):  # type: ignore[no-untyped-def]
    """ranked [n, F] from sorted keys [F, n]: where each value stands among the counted ones."""
    n = keys.shape[1]
    for f in range(keys.shape[0]):
        known = 0
        total = 0
        while known < n and keys[f, known] >> np.uint64(32) != np.uint64(0xFFFFFFFF):
            total += counted[keys[f, known] & np.uint64(0xFFFFFFFF)]
            known += 1
        below = 0
        i = 0
        while i < n:
            value = keys[f, i] >> np.uint64(32)
            stop = i
            equal = 0
            while stop < n and keys[f, stop] >> np.uint64(32) == value:
                equal += counted[keys[f, stop] & np.uint64(0xFFFFFFFF)]
                stop += 1
            place = 0.0
            if i < known and total > 0:
                place = ((below + 0.5 * equal) / total - 0.5) * np.sqrt(12.0)
            for j in range(i, stop):
                ranked[keys[f, j] & np.uint64(0xFFFFFFFF), f] = place
            below += equal
            i = stop
