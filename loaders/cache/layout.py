"""Where the rows of a table in any order lie in a cache: two streaming passes and no sort.

The first pass finds the calendar and each code's span; with them row = offset[code] + day - first[code] is known for
every row as it streams by in the second.

S codes, T days
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from kernels.jit.compile import jit
from loaders.cache.manifest.text import check_names
from loaders.cache.sources import faults
from loaders.cache.sources.calendar import held_by_few
from loaders.cache.sources.codes import two_spellings
from loaders.cache.sources.reader import READ_ERRORS, reading
from loaders.cache.sources.table import Table
from loaders.errors import InputError
from loaders.progress import Progress, quiet

Int = npt.NDArray[np.int64]
BATCH_ROWS = 100_000


@dataclass(frozen=True)
class Layout:
    """Calendar, codes and spans of a panel."""

    calendar: npt.NDArray[np.datetime64]  # [T] datetime64[D], ascending, distinct
    codes: list[str]  # [S] ascending, distinct
    first: Int  # [S] calendar index of each code's first day
    days: Int  # [S] calendar days in its span

    @cached_property
    def offset(self) -> Int:
        """[S] row of each code's first day."""
        return np.cumsum(self.days) - self.days

    @property
    def rows(self) -> int:
        """Rows of all spans, absent ones included."""
        return int(self.days.sum())

    def code_and_date(self, row: int) -> tuple[str, str]:
        """Code and ISO date of a row."""
        code = int(np.searchsorted(self.offset, row, "right")) - 1
        return self.codes[code], str(self.calendar[self.first[code] + row - self.offset[code]])

    def day_of(self, rows: Int) -> Int:
        """Calendar index of each row [n]."""
        code = np.searchsorted(self.offset, rows, "right") - 1
        return rows + (self.first - self.offset)[code]

    def days_of_ascending(self, rows: Int) -> Int:
        """`day_of` rows that ascend, by a search for each code instead of each row."""
        borders = np.searchsorted(rows, np.append(self.offset, self.rows))
        return rows + np.repeat(self.first - self.offset, np.diff(borders))

    def places(self, codes: list[str]) -> Int:
        """Numbers of some of its codes."""
        return np.searchsorted(np.array(self.codes), np.array(codes, np.str_))

    def last_rows(self, part: "Layout") -> Int:
        """Rows [part.rows] of some codes' last days, as many as a part has of each."""
        code = self.places(part.codes)
        start = (self.offset + self.days)[code] - part.days
        return np.arange(part.rows) + np.repeat(start - part.offset, part.days)

    def rows_of_date(self) -> Int:
        """[T] how many spans hold each date."""
        change = np.bincount(self.first, minlength=len(self.calendar) + 1)
        change -= np.bincount(self.first + self.days, minlength=len(self.calendar) + 1)
        return np.cumsum(change)[:-1]

    def place(self, row: int) -> str:
        """`CODE on DATE` of a row."""
        return " on ".join(self.code_and_date(row))


def keep_from(layout: Layout, present: Any, start: str | None, source: str) -> Layout:
    """The layout of the rows from `start` on: spans begin with a bar, codes that ended before are gone.

    Args:
        present: [rows], 0 where the source has no bar.
    """
    if start is None:
        return layout
    begin = int(np.searchsorted(layout.calendar, np.datetime64(start, "D")))
    first, ends = layout.first.copy(), layout.first + layout.days
    for s in np.flatnonzero((first < begin) & (ends > begin)):
        row = layout.offset[s] + begin - first[s]
        first[s] = begin + int(np.argmax(present[row : layout.offset[s] + layout.days[s]]))
    kept = ends > begin
    if not kept.any():
        raise InputError(source, f"no row from {start} on", "Move --start")
    codes = [code for code, keep in zip(layout.codes, kept, strict=True) if keep]
    return Layout(layout.calendar[begin:], codes, first[kept] - begin, (ends - first)[kept])


class Survey(NamedTuple):
    """What the first pass found."""

    table: Table  # without the dates that --min-codes leaves out
    layout: Layout
    few: npt.NDArray[np.bool_]  # [T] dates held by few codes
    left_out: dict[str, int]  # dates that `min_codes` left out, and how many codes held each


def survey(
    table: Table, min_codes: int | None = None, on_progress: Callable[[str], None] = lambda line: None
) -> Survey:
    """First pass: calendar and spans; tells of dates that few codes hold.

    Args:
        min_codes: dates with fewer codes are left out; None: all are kept.

    Raises InputError naming file and value for a row without a readable date or a code, for a code with a control
    character, for two spellings of one code, and where no row is left.
    """
    spans, dates = _spans_and_dates(table)
    if dates["date"].null_count() or any(code is None or code != code.strip() or not code for code in spans["code"]):
        table = replace(table, tidy=True)
        spans, dates = _spans_and_dates(table)
    if dates["date"].null_count():
        faults.refuse_date(table)
    if spans["code"].null_count():
        faults.refuse_missing_code(table)
    if not dates.height:
        raise InputError(table.sources.name, "no row is left", "Check the files, --start and --end")
    check_names(table.sources.name, "code", spans["code"])
    if spellings := two_spellings(spans["code"]):
        faults.refuse_spellings(table, spellings)
    left_out: dict[str, int] = {}
    if min_codes is not None:
        table, left_out = _leave_out(table, dates, min_codes, on_progress)
        spans, dates = _spans_and_dates(table)
    days = dates["date"].to_numpy().astype("datetime64[D]")
    codes = dates["codes"].to_numpy().astype(np.int64)
    few = held_by_few(codes)
    _tell_of_few(table, days[few], codes[few], on_progress)
    low = np.searchsorted(days, spans["low"].to_numpy().astype("datetime64[D]"))
    high = np.searchsorted(days, spans["high"].to_numpy().astype("datetime64[D]"))
    layout = Layout(days, spans["code"].to_list(), low.astype(np.int64), (high - low + 1).astype(np.int64))
    return Survey(table, layout, few, left_out)


def _spans_and_dates(table: Table) -> tuple[pl.DataFrame, pl.DataFrame]:
    """First and last date of each code, and the number of rows, which are codes, on each date; both ascending."""
    with reading_table(table):
        spans, dates = pl.collect_all(
            [
                table.frame.group_by("code").agg(pl.col("date").min().alias("low"), pl.col("date").max().alias("high")),
                table.frame.group_by("date").agg(pl.len().alias("codes")),
            ],
            engine="streaming",
        )
    return spans.sort("code"), dates.sort("date")


def _leave_out(
    table: Table, dates: pl.DataFrame, min_codes: int, on_progress: Callable[[str], None]
) -> tuple[Table, dict[str, int]]:
    """The table without the dates that fewer codes hold, which is told, and how many hold each."""
    few = dates.filter(pl.col("codes") < min_codes)
    rows = int(few["codes"].sum())
    if few.height == dates.height:
        what = f"no date has {min_codes} codes, the most is {int(dates['codes'].to_numpy().max())}"
        raise InputError("--min-codes", what, "Lower it")
    if few.height:
        on_progress(f"left out {few.height:,} dates of fewer than {min_codes} codes, {rows:,} rows")
    left_out = {str(day): int(codes) for day, codes in few.select("date", "codes").iter_rows()}
    return replace(table, without=tuple(few["date"])), left_out


def _tell_of_few(
    table: Table, days: npt.NDArray[np.datetime64], codes: Int, on_progress: Callable[[str], None]
) -> None:
    """One line about dates that few codes hold, where there are any."""
    if len(days):
        most, first = int(codes.max()), str(days[0])
        held = f"{most} code" if most == 1 else f"at most {most} codes"
        dates = "1 date is" if len(days) == 1 else f"{len(days):,} dates are"
        on_progress(
            f"{dates} held by {held} (first {first} by {faults.first_codes(table, first)[0]}): every label over them "
            f"counts them as days; leave them out with --min-codes {most + 1}"
        )


@contextmanager
def reading_table(table: Table) -> Iterator[None]:
    """Turn a reader's exception into an InputError that names the file, and the value where it is one."""
    try:
        yield
    except READ_ERRORS as error:
        faults.refuse_unreadable(table)
        with reading(table.sources.name):
            raise error


def stream(table: Table, layout: Layout, progress: Progress = quiet) -> Iterator[tuple[Int, npt.NDArray[np.float32]]]:
    """Second pass: batches of (rows int64 [n], numbers float32 [n, columns], null as NaN), in the order of the source.

    Raises InputError naming files, code and date where two rows share them, and file, column, code, date and value for
    a text that is no number.
    """
    epoch = layout.calendar[0].astype(np.int64)
    lookup = np.zeros(int((layout.calendar[-1] - layout.calendar[0]).astype(np.int64)) + 1, np.int64)
    lookup[layout.calendar.astype(np.int64) - epoch] = np.arange(len(layout.calendar))
    taken = np.zeros(layout.rows, np.bool_)
    start, read = layout.offset - layout.first, 0
    located = table.frame.with_columns(
        pl.col("code").cast(pl.Enum(layout.codes)).to_physical().cast(pl.Int64),
        pl.col("date").to_physical().cast(pl.Int64),
    )
    with reading_table(table):
        for batch in located.collect_batches(chunk_size=BATCH_ROWS, maintain_order=False, engine="streaming"):
            rows = start[batch["code"].to_numpy()] + lookup[batch["date"].to_numpy() - epoch]
            repeated = _take(taken, rows)
            if repeated >= 0:
                faults.refuse_twice(table, *layout.code_and_date(repeated))
            yield rows, batch.drop("code", "date").to_numpy(order="c")
            read += len(rows)
            progress(read, layout.rows, "reading rows")


@jit()
def _take(taken, rows):  # type: ignore[no-untyped-def]
    """Mark rows as taken; the first that was taken before, or -1."""
    for row in rows:
        if taken[row]:
            return row
        taken[row] = True
    return -1
