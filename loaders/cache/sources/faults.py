"""Which file, row and value a table fails at. Read again file by file, and only once something is known to be wrong."""

from datetime import date
from typing import NoReturn

import polars as pl

from loaders.cache.sources import dates
from loaders.cache.sources.codes import SPELLINGS_CURE
from loaders.cache.sources.reader import reading
from loaders.cache.sources.table import MISSING, Table
from loaders.errors import InputError

_PER_DAY = {None: 1, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}  # by unit of time; none: days


def _in_words(days: int) -> str:
    """A day by its number of days from 1970-01-01 on, though no calendar may have it."""
    ordinal = date(1970, 1, 1).toordinal() + days
    if 1 <= ordinal <= date.max.toordinal():
        return date.fromordinal(ordinal).isoformat()
    return f"{abs(days):,} days {'after' if days > 0 else 'before'} 1970-01-01"


def refuse_date(table: Table) -> NoReturn:
    """Raise InputError for the first file with rows that have no date, or one that cannot be read."""
    period = table.sources.period
    for i, (file, key) in enumerate(zip(table.sources.files, table.sources.keys, strict=True)):
        kind = file.kinds[key.date]
        value = pl.col(key.date).fill_nan(None) if kind.is_float() else pl.col(key.date)
        if kind.is_temporal():  # as a number: Python has no year above 9999, and polars panics at larger ones
            value = value.to_physical().cast(pl.Int64) // _PER_DAY[getattr(kind, "time_unit", None)]
        bad = table.rows(i, [value.alias("value")]).filter(pl.col("date").is_null())
        where = str(file.path)
        unreadable = pl.col("value").is_not_null()
        with reading(where):
            empty = bad.select((~unreadable).sum()).collect(engine="streaming").item()
            wrong = bad.filter(unreadable).select(pl.len(), pl.all().first()).collect(engine="streaming")
        count, _, code, first = wrong.row(0)
        if count:
            first = _in_words(first) if kind.is_temporal() else first
            more = f" (and {count - 1:,} more rows hold such)" if count > 1 else ""
            raise InputError(where, dates.fault(key.date, first, code) + more, dates.advice(first, period))
        if empty:
            raise InputError(where, f"{empty:,} rows have no date in column {key.date!r}", "Remove or date them")
    raise InputError(table.sources.name, "rows have no readable date", dates.advice(None, period))


def refuse_missing_code(table: Table) -> NoReturn:
    """Raise InputError for the first file with rows that have no code, or only blanks."""
    for i, (file, key) in enumerate(zip(table.sources.files, table.sources.keys, strict=True)):
        where = str(file.path)
        with reading(where):
            bad = table.rows(i, []).filter(pl.col("code").is_null()).select(pl.len(), pl.col("date").first())
            count, day = bad.collect(engine="streaming").row(0)
        if count:
            what = f"{count:,} rows have no code in column {key.code!r}, the first on {day}"
            raise InputError(where, what, "Remove them, or give them codes")
    raise InputError(table.sources.name, "rows have no code", "Remove them, or give them codes")


def refuse_spellings(table: Table, codes: tuple[str, str]) -> NoReturn:
    """Raise InputError naming two spellings of one code, and a file with each."""
    first, second = (_files_with(table, pl.col("code") == code)[0] for code in codes)
    what = f"codes {codes[0]!r} (in {first}) and {codes[1]!r} (in {second}) are the same number"
    raise InputError(first, what, SPELLINGS_CURE)


def refuse_twice(table: Table, code: str, day: str) -> NoReturn:
    """Raise InputError naming the files of two rows of one code and date."""
    row = (pl.col("code") == code) & (pl.col("date") == pl.lit(day).str.to_date())
    raise InputError(
        " and ".join(_files_with(table, row)), f"two rows for {code} on {day}", "Keep one row per code and date"
    )


def refuse_number(table: Table) -> None:
    """Raise InputError for the first text that is no number, in a column of numbers; return where there is none."""
    for i, file in enumerate(table.sources.files):
        for name in table.numbers:
            if name not in file.as_text:
                continue
            text = pl.col(name).str.strip_chars()
            bad = text.is_not_null() & ~text.is_in(MISSING) & text.cast(pl.Float64, strict=False).is_null()
            rows = table.rows(i, [text.alias("value"), bad.alias("bad")]).filter("bad")
            with reading(str(file.path)):
                found = rows.head(1).collect(engine="streaming")
            if found.height:
                day, code, value, _ = found.row(0)
                what = f"column {name!r} holds {value!r} for {code} on {day}, which is no number"
                raise InputError(str(file.path), what, "Mend it, or leave the column out")


def refuse_unreadable(table: Table) -> None:
    """Raise InputError for the first file that cannot be read to its end, or for a text that is no number."""
    refuse_number(table)
    for i, file in enumerate(table.sources.files):
        with reading(str(file.path)):
            table.part(i).select(pl.all().null_count()).collect(engine="streaming")


def file_of(table: Table, code: str, day: str) -> str:
    """The path of the file that holds the row of a code and date."""
    row = (pl.col("code") == code) & (pl.col("date") == pl.lit(day).str.to_date())
    return _files_with(table, row)[0]


def first_codes(table: Table, day: str, most: int = 1) -> list[str]:
    """Some of the codes that have a row on a date, ascending."""
    on = table.frame.filter(pl.col("date") == pl.lit(day).str.to_date()).select(pl.col("code").unique())
    with reading(table.sources.name):
        return sorted(on.collect(engine="streaming")["code"])[:most]


def _files_with(table: Table, row: pl.Expr) -> list[str]:
    """The paths of up to two files that hold a row."""
    found: list[str] = []
    for i, file in enumerate(table.sources.files):
        with reading(str(file.path)):
            if len(found) < 2 and table.rows(i, []).filter(row).head(1).collect(engine="streaming").height:
                found.append(str(file.path))
    return found
