"""Files of any supported kind, as one lazy table: date (Date), code (String) and number columns (Float32).

Nothing is read here but schemas; `layout` streams the rows.
"""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import polars as pl

from loaders.errors import InputError

_PARQUET, _CSV, _ARROW = (".parquet", ".pq"), (".csv",), (".arrow", ".ipc", ".feather")
KINDS = _PARQUET + _CSV + _ARROW
DAY_NUMBER_LIMIT = 100_000  # integer dates below are days since 1970-01-01, others YYYYMMDD


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn a reader's exception into an InputError that names `what` was read."""
    try:
        yield
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split("\n\n")[0].split())
        raise InputError(what, f"cannot be read ({line})", "Mend or remove the file") from error


def find_files(sources: list[Path]) -> list[Path]:
    """The files named by `sources`, folders searched in full. Raises InputError where there is none."""
    files = []
    for source in sources:
        if not source.exists():
            raise InputError(str(source), "no such file or folder", "Check the path")
        found = sorted(p for p in source.rglob("*") if p.suffix in KINDS) if source.is_dir() else [source]
        if not found:
            raise InputError(str(source), "the folder holds no data file", f"Known kinds: {', '.join(KINDS)}")
        files += found
    for file in files:
        if file.suffix not in KINDS:
            raise InputError(str(file), f"unknown kind of file {file.suffix!r}", f"Known kinds: {', '.join(KINDS)}")
    return files


def column_names(files: list[Path]) -> list[str]:
    """The columns of the first file, in its order."""
    frame = _open(files[0])
    with reading(str(files[0])):
        return frame.collect_schema().names()


def match_columns(option: str, patterns: list[str], names: list[str], reserved: set[str]) -> list[str]:
    """Names that the patterns (`*`, `?`, `[...]`) choose, each once, in the order of the patterns and then the file.

    Columns in `reserved` are matched only where named in full. Raises InputError naming a pattern that chooses none.
    """
    chosen: dict[str, None] = {}
    for pattern in patterns:
        found = [n for n in names if n == pattern] or [
            n for n in names if n not in reserved and fnmatchcase(n, pattern)
        ]
        if not found:
            near = difflib.get_close_matches(pattern, names, 3) or names[:12]
            raise InputError(option, f"no column matches {pattern!r}", f"The file has {', '.join(near)}")
        chosen |= dict.fromkeys(found)
    return list(chosen)


def scan(
    files: list[Path], date: str, code: str, numbers: list[str], start: str | None, end: str | None
) -> pl.LazyFrame:
    """All files as one lazy table of `date`, `code` and the number columns, restricted to start..end (both included).

    Unreadable dates are null; `layout.survey` refuses them. Raises InputError naming the file and the column for a
    missing column or one of a wrong type.
    """
    frames = []
    for file in files:
        frame = _open(file)
        with reading(str(file)):
            schema = frame.collect_schema()
        for name in (date, code, *numbers):
            if name not in schema:
                near = difflib.get_close_matches(name, schema.names(), 3) or schema.names()[:12]
                raise InputError(str(file), f"no column {name!r}", f"It has {', '.join(near)}")
        is_text = file.suffix in _CSV
        columns = [
            _date(date, schema[date], file).alias("date"),
            _code(code, schema[code], file).alias("code"),
            *(_number(name, schema[name], file, is_text).alias(f"number:{i}") for i, name in enumerate(numbers)),
        ]
        frames.append(frame.select(columns))
    table = pl.concat(frames)
    for day, keep in ((start, pl.col("date").ge), (end, pl.col("date").le)):
        if day is not None:
            # Rows whose date cannot be read pass, to be refused rather than overlooked.
            table = table.filter(keep(pl.lit(day).str.to_date()) | pl.col("date").is_null())
    return table


def _open(file: Path) -> pl.LazyFrame:
    try:
        with file.open("rb") as opened:
            if not opened.read(1):
                raise InputError(str(file), "the file is empty", "Remove it")
    except OSError as error:
        raise InputError(str(file), f"cannot be read ({error.strerror})", "Check the path") from error
    if file.suffix in _PARQUET:
        return pl.scan_parquet(file, glob=False)
    if file.suffix in _ARROW:
        return pl.scan_ipc(file, glob=False)
    # As text: types guessed from the first rows fail in the middle of a file, and turn the code 007 into 7.
    return pl.scan_csv(file, glob=False, infer_schema=False)


def _date(name: str, kind: pl.DataType, file: Path) -> pl.Expr:
    column = pl.col(name)
    if kind == pl.Date:
        return column
    if kind == pl.Datetime:
        return column.dt.date()
    if kind.is_integer():
        return _date_of_integer(column.cast(pl.Int64, strict=False))
    if kind == pl.String:
        text = column.str.strip_chars()
        day = text.str.replace(r"[T ].*$", "").str.to_date("%Y-%m-%d", strict=False)
        return pl.coalesce(day, _date_of_integer(text.cast(pl.Int64, strict=False)))
    raise InputError(str(file), f"column {name!r} is {kind}, no date", "Use date, datetime, ISO text or integer")


def _date_of_integer(number: pl.Expr) -> pl.Expr:
    day = number.cast(pl.Int32, strict=False).cast(pl.Date, strict=False)
    written = number.cast(pl.String).str.to_date("%Y%m%d", strict=False)
    return pl.when(number.is_between(0, DAY_NUMBER_LIMIT - 1)).then(day).otherwise(written)


def _code(name: str, kind: pl.DataType, file: Path) -> pl.Expr:
    if kind in (pl.String, pl.Categorical, pl.Enum) or kind.is_integer():
        return pl.col(name).cast(pl.String)
    raise InputError(str(file), f"column {name!r} is {kind}, no code", "Use text or integers")


def _number(name: str, kind: pl.DataType, file: Path, is_text: bool) -> pl.Expr:
    column = pl.col(name)
    if is_text:
        return column.str.strip_chars().cast(pl.Float64).cast(pl.Float32).alias(name)
    if kind.is_numeric() or kind == pl.Boolean:
        return column.cast(pl.Float32)
    raise InputError(str(file), f"column {name!r} is {kind}, no number", "Leave it out, or convert it")
