"""Files and frames as one lazy table: `date` (Date), `code` (String), and number columns (Float32).

Columns are matched over all files: one that a file lacks, or holds nothing in, is missing in its rows. Every row can be
traced to its file (`faults`), so a message about a value names file, column, code or date, and the value.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import polars as pl

from loaders.cache.sources import dates
from loaders.cache.sources.files import find_files
from loaders.cache.sources.frames import Frame, Source
from loaders.cache.sources.names import PANDAS_INDEX, listed, parse_renames, resolve
from loaders.cache.sources.reader import DataFile, open_file, open_frame, rename
from loaders.errors import InputError

MISSING = ("", "NA", "N/A", "#N/A", "null", "NULL", "None")  # texts of no number; `nan` is one by itself
_TEXT = (pl.String, pl.Categorical, pl.Enum)


@dataclass(frozen=True)
class Key:
    """The columns of a file that hold its dates and codes."""

    date: str
    code: str


@dataclass(frozen=True)
class Sources:
    """Open files of a build, and where their dates and codes are."""

    name: str  # what messages call the files together
    files: list[DataFile]
    keys: list[Key]  # of each file
    period: str | None  # as --period

    @cached_property
    def names(self) -> list[str]:
        """The columns of all files, each once, in the order in which they come."""
        return list(dict.fromkeys(name for file in self.files for name in file.kinds))

    @cached_property
    def key_columns(self) -> set[str]:
        """The columns of dates and codes."""
        return {name for key in self.keys for name in (key.date, key.code)}

    @cached_property
    def reserved(self) -> set[str]:
        """Columns that no pattern may take: dates, codes and what the folders name."""
        return self.key_columns.union(*(file.from_folders for file in self.files))


def open_sources(
    paths: Sequence[Source],
    date: str,
    code: str,
    renaming: list[str],
    period: str | None,
    on_progress: Callable[[str], None],
) -> Sources:
    """Find and open files, then frames; tells what was left out, and which columns go by another name.

    Raises InputError for a path without data files, a file that cannot be read or has no dates or codes, and a rename
    of no column.
    """
    renames = parse_renames(renaming)
    found = find_files([path for path in paths if not isinstance(path, Frame)])
    opened = [open_file(path, renames) for path in found.files]
    opened += [open_frame(frame, renames) for frame in paths if isinstance(frame, Frame)]
    files = []
    for file in opened:
        if file.has_rows():
            files.append(file)
        else:
            found.left_out["without rows"].append(file.path)
    if line := found.told():
        on_progress(line)
    name = str(paths[0]) if len(paths) == 1 else f"{len(opened):,} files"
    if not files:
        raise InputError(name, "no row is left", "No file holds one: check the files")
    for old in renames:
        if not any(old in file.renamed for file in files):
            names = dict.fromkeys(name for file in files for name in file.kinds)
            raise InputError("--rename", f"no file has a column {old!r}", f"They have {listed(old, names)}")
    keys = [Key(_key(file, date, "date"), _key(file, code, "code")) for file in files]
    sources = Sources(name, files, keys, period)
    _tell(
        [f"column {key.date!r} is read as the date" for key in keys if key.date != date]
        + [f"column {key.code!r} is read as the code" for key in keys if key.code != code]
        + [f"column {name!r} gives way to {old!r}" for file in files for name, old in file.replaced.items()],
        sources,
        on_progress,
    )
    return sources


def in_any_case(sources: Sources, names: list[str], on_progress: Callable[[str], None]) -> Sources:
    """The sources with columns of these names, which each file has in some case; tells which were written otherwise.

    Raises InputError naming a file without one.
    """
    files, lines = [], []
    for file in sources.files:
        renames = {}
        for name in names:
            found = resolve(name, file.kinds, str(file.path))
            if found is None:
                cure = f"It has {listed(name, file.kinds)}; --rename old=new names a column"
                raise InputError(str(file.path), f"no column {name!r}", cure)
            renames[found] = name
        lines += [f"column {old!r} is read as {new!r}" for old, new in renames.items() if old != new]
        files.append(rename(file, renames))
    _tell(lines, sources, on_progress)
    return replace(sources, files=files)


def _tell(lines: list[str], sources: Sources, on_progress: Callable[[str], None]) -> None:
    """Each line once, with the number of files that it is about."""
    for line, count in Counter(lines).items():
        on_progress(line if len(sources.files) == 1 else f"{line} ({count:,} of {len(sources.files):,} files)")


def _key(file: DataFile, name: str, what: str) -> str:
    """The file's column of dates or codes: by name, else the level of a pandas index that has the type for it."""
    found = resolve(name, file.kinds, str(file.path))
    if found is None:
        kinds = (pl.Date, pl.Datetime) if what == "date" else _TEXT
        levels = [n for n, kind in file.kinds.items() if n.startswith(PANDAS_INDEX) and isinstance(kind, kinds)]
        found = levels[0] if len(levels) == 1 else None
    if found is None:
        has = f"It has {listed(name, file.kinds)}"
        cure = f"{has}. Name it by --{what}, or put the file into a folder {name}=VALUE"
        raise InputError(str(file.path), f"no column {name!r}", cure)
    return found


@dataclass(frozen=True)
class Table:
    """The rows of sources, restricted to dates from `start` to `end` (ISO, both included)."""

    sources: Sources
    numbers: list[str]  # columns, in this order after date and code
    start: str | None = None
    end: str | None = None
    without: tuple[Any, ...] = ()  # dates left out
    tidy: bool = False  # whether to cut blanks around codes, and to skip the blank lines of a CSV

    @cached_property
    def frame(self) -> pl.LazyFrame:
        """`date`, `code` and the numbers, as `number:0`, `number:1` and so on. A date that cannot be read is null."""
        return pl.concat([self.part(i) for i in range(len(self.sources.files))])

    def part(self, i: int) -> pl.LazyFrame:
        """The rows of the i-th file."""
        file = self.sources.files[i]
        return self.rows(i, [self._number(file, name).alias(f"number:{k}") for k, name in enumerate(self.numbers)])

    def rows(self, i: int, columns: list[pl.Expr]) -> pl.LazyFrame:
        """`date`, `code` and expressions over the i-th file's own columns."""
        file, key, period = self.sources.files[i], self.sources.keys[i], self.sources.period
        code = _code(key.code, file)
        frame = file.frame
        if self.tidy:
            code = code.str.strip_chars().replace("", None)
            written = [n for n in (key.date, key.code, *self.numbers) if n in file.as_text - file.from_folders]
            frame = frame.filter(pl.any_horizontal(pl.col(written).is_not_null())) if written else frame
        table = frame.select(_date(key.date, file, period).alias("date"), code.alias("code"), *columns)
        for day, keep in ((self.start, pl.col("date").ge), (self.end, pl.col("date").le)):
            if day is not None:
                # Rows whose date cannot be read pass, to be refused rather than overlooked.
                table = table.filter(keep(pl.lit(day).str.to_date()) | pl.col("date").is_null())
        return table.filter(~pl.col("date").is_in(list(self.without))) if self.without else table

    def _number(self, file: DataFile, name: str) -> pl.Expr:
        kind = file.kinds.get(name, pl.Null())
        if kind == pl.Null:
            return pl.lit(None, pl.Float32)
        column = pl.col(name)
        if name in file.as_text:
            text = column.str.strip_chars()
            return pl.when(~text.is_in(MISSING)).then(text).cast(pl.Float64).cast(pl.Float32)
        if kind.is_numeric() or kind == pl.Boolean:
            return column.cast(pl.Float32)
        what = f"column {name!r} is {kind}, no number"
        for other in self.sources.files:
            if name in other.kinds and other.kinds[name].is_numeric():
                what += f"; in {other.path} it is {other.kinds[name]}"
                break
        raise InputError(str(file.path), what, "Leave it out, or convert it")


def open_table(
    sources: Sources,
    numbers: list[str],
    start: str | None,
    end: str | None,
    on_progress: Callable[[str], None],
) -> Table:
    """The table of some number columns; tells which are not in all files.

    Raises InputError naming file and column for a column of a wrong type.
    """
    absent = [(n, [f.path for f in sources.files if n not in f.kinds]) for n in numbers]
    some = [(name, paths) for name, paths in absent if paths]
    if some:
        name, paths = some[0]
        which = f"{name!r} is not in {paths[0]}" + (f" and {len(paths) - 1:,} more" if len(paths) > 1 else "")
        on_progress(f"{len(some):,} of {len(numbers):,} columns are not in all files, and are missing there: {which}")
    return Table(sources, numbers, start, end)


def _date(name: str, file: DataFile, period: str | None) -> pl.Expr:
    column, kind = pl.col(name), file.kinds[name]
    if isinstance(kind, pl.Date | pl.Datetime) and period != "era":
        day = column if kind == pl.Date else column.dt.date()
        return pl.when(day.is_between(dates.FIRST_DAY, dates.LAST_DAY)).then(day)
    if isinstance(kind, pl.Categorical | pl.Enum):
        column = column.cast(pl.String)
    elif kind.is_decimal() or kind.is_float():
        column = column.cast(pl.Float64).fill_nan(None)
    elif not (kind == pl.String or kind.is_numeric() or kind == pl.Null):
        what = f"column {name!r} is {kind}, no {'era' if period == 'era' else 'date'}"
        raise InputError(str(file.path), what, dates.advice(None, period))
    return column.map_batches(lambda values: _parse(values, period), return_dtype=pl.Date, is_elementwise=True)


def _parse(values: pl.Series, period: str | None) -> pl.Series:
    """Dates of texts or numbers; each distinct value is read once."""
    distinct = values.unique().drop_nulls()
    days = pl.Series([dates.parse(value, period) for value in distinct], dtype=pl.Date)
    return values.replace_strict(distinct, days, default=None, return_dtype=pl.Date)


def _code(name: str, file: DataFile) -> pl.Expr:
    kind = file.kinds[name]
    if isinstance(kind, _TEXT) or kind.is_integer() or kind == pl.Null:
        return pl.col(name).cast(pl.String)
    raise InputError(str(file.path), f"column {name!r} is {kind}, no code", "Use text or integers")
