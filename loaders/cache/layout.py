"""Where the rows of a table in any order lie in a cache: two streaming passes and no sort.

The first pass finds the calendar and each code's span; with them row = offset[code] + day - first[code] is known for
every row as it streams by in the second.

S codes, T days
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl
from numba import njit

from loaders.cache.sources import DAY_NUMBER_LIMIT, reading
from loaders.errors import InputError

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

    def day_of(self, rows: Int) -> Int:
        """Calendar index of each row [n]."""
        code = np.searchsorted(self.offset, rows, "right") - 1
        return rows - self.offset[code] + self.first[code]

    def rows_of_date(self) -> Int:
        """[T] how many spans hold each date."""
        change = np.bincount(self.first, minlength=len(self.calendar) + 1)
        change -= np.bincount(self.first + self.days, minlength=len(self.calendar) + 1)
        return np.cumsum(change)[:-1]

    def place(self, row: int) -> str:
        """`CODE on DATE` of a row."""
        code = int(np.searchsorted(self.offset, row, "right")) - 1
        return f"{self.codes[code]} on {self.calendar[self.first[code] + row - self.offset[code]]}"


def survey(table: pl.LazyFrame, source: str, date: str, code: str) -> Layout:
    """First pass: calendar and spans. Raises InputError for rows without a date or a code, and for no rows at all."""
    bad = pl.col("date").is_null() | pl.col("code").is_null()
    with reading(source):
        spans, calendar, bad_rows = pl.collect_all(
            [
                table.group_by("code").agg(pl.col("date").min().alias("low"), pl.col("date").max().alias("high")),
                table.select(pl.col("date").unique()),
                table.select(bad.sum()),
            ],
            engine="streaming",
        )
    if bad_rows.item():
        what = f"{bad_rows.item():,} rows have no code in {code!r} or no readable date in {date!r}"
        forms = f"YYYY-MM-DD, YYYYMMDD or days since 1970-01-01 (below {DAY_NUMBER_LIMIT:,})"
        raise InputError(source, what, f"Remove them, or write dates as {forms}")
    if not calendar.height:
        raise InputError(source, "no row is left", "Check the files, --start and --end")
    days = calendar["date"].sort().to_numpy().astype("datetime64[D]")
    spans = spans.sort("code")
    low = np.searchsorted(days, spans["low"].to_numpy().astype("datetime64[D]"))
    high = np.searchsorted(days, spans["high"].to_numpy().astype("datetime64[D]"))
    return Layout(days, spans["code"].to_list(), low.astype(np.int64), (high - low + 1).astype(np.int64))


def stream(table: pl.LazyFrame, layout: Layout, source: str) -> Iterator[tuple[Int, npt.NDArray[np.float32]]]:
    """Second pass: batches of (rows int64 [n], numbers float32 [n, columns], null as NaN), in the order of the source.

    Raises InputError naming code and date where two rows share them.
    """
    epoch = layout.calendar[0].astype(np.int64)
    lookup = np.zeros(int((layout.calendar[-1] - layout.calendar[0]).astype(np.int64)) + 1, np.int64)
    lookup[layout.calendar.astype(np.int64) - epoch] = np.arange(len(layout.calendar))
    taken = np.zeros(layout.rows, np.bool_)
    start = layout.offset - layout.first
    located = table.with_columns(
        pl.col("code").cast(pl.Enum(layout.codes)).to_physical().cast(pl.Int64),
        pl.col("date").to_physical().cast(pl.Int64),
    )
    with reading(source):
        for batch in located.collect_batches(chunk_size=BATCH_ROWS, maintain_order=False, engine="streaming"):
            rows = start[batch["code"].to_numpy()] + lookup[batch["date"].to_numpy() - epoch]
            repeated = _take(taken, rows)
            if repeated >= 0:
                what = f"two rows for {layout.place(repeated)}"
                raise InputError(source, what, "Keep one row per code and date")
            yield rows, batch.drop("code", "date").to_numpy(order="c")


@njit(cache=True)
def _take(taken, rows):  # type: ignore[no-untyped-def]
    """Mark rows as taken; the first that was taken before, or -1."""
    for row in rows:
        if taken[row]:
            return row
        taken[row] = True
    return -1
