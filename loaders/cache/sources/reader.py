"""One file, opened: a lazy frame of its columns and those that its folders name. Only its schema is read.

Types of a CSV are text: types guessed from the first rows fail in the middle of a file, and turn the code 007 into 7.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pyarrow as pa
from pyarrow import csv

from loaders.cache.sources.files import kind_of, partitions
from loaders.cache.sources.frames import Frame
from loaders.errors import InputError, check_memory

READ_ERRORS = (pl.exceptions.PolarsError, pa.ArrowException, UnicodeDecodeError, OSError)
_FILE_MAGIC = b"ARROW1"  # of an Arrow IPC file; a stream has none


@dataclass(frozen=True)
class DataFile:
    """An open file, or a frame."""

    path: Path  # of a frame, its name
    frame: pl.LazyFrame
    kinds: dict[str, pl.DataType]  # of its columns, in their order
    as_text: frozenset[str]  # columns whose numbers are text: all of a CSV, and those of the folders
    from_folders: frozenset[str]
    renamed: frozenset[str] = frozenset()  # what its renamed columns were called
    replaced: dict[str, str] = field(default_factory=dict)  # a column left out -> the renamed one that took its name

    def has_rows(self) -> bool:
        """Whether it holds a row."""
        counted = self.frame.head(1) if kind_of(self.path) == "csv" else self.frame
        with reading(str(self.path)):
            return bool(counted.select(pl.len()).collect(engine="streaming").item())


def _check_rows(path: Path) -> None:
    """Raise InputError for the first row of a CSV that lacks fields, which polars would take for missing values.

    Reads the file once more, at about 0.5 GB/s a core.
    """
    odd: list[csv.InvalidRow] = []

    def keep(row: csv.InvalidRow) -> str:
        odd.append(row)
        return "error"

    parse = csv.ParseOptions(newlines_in_values=True, invalid_row_handler=keep)
    read = csv.ReadOptions(use_threads=False)  # so that rows have numbers
    try:
        with _no_text():
            with _uncompressed(path) as stream, csv.open_csv(stream, read, parse) as file:
                first = file.schema.names[0]
            convert = csv.ConvertOptions(include_columns=[first], column_types={first: pa.binary()})
            with _uncompressed(path) as stream, csv.open_csv(stream, read, parse, convert) as file:
                for _ in file:
                    pass
    except pa.ArrowInvalid as error:
        row = odd[0] if odd else None
        if row is None or row.actual_columns > row.expected_columns:
            raise
        what = f"row {row.number:,} has {row.actual_columns} of {row.expected_columns} fields ({row.text[:80]!r})"
        raise InputError(
            str(path), what, "Mend or remove the row; at the end of a file, copy the file again"
        ) from error


@contextmanager
def _no_text() -> Iterator[None]:
    """Silence what Arrow prints, beside the error that it raises, where an odd row that it hands over is no UTF-8."""
    hook = sys.unraisablehook

    def unless_text(unraisable: "sys.UnraisableHookArgs") -> None:
        if not isinstance(unraisable.exc_value, UnicodeDecodeError):
            hook(unraisable)

    sys.unraisablehook = unless_text
    try:
        yield
    finally:
        sys.unraisablehook = hook


def _uncompressed(path: Path) -> pa.NativeFile:
    kinds = {".gz": "gzip", ".zst": "zstd"}
    return pa.input_stream(str(path), compression=kinds.get(path.suffix.lower()))


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn a reader's exception into an InputError that names `what` was read."""
    try:
        yield
    except READ_ERRORS as error:
        check_memory(error)
        line = " ".join(str(error).split("\n\n")[0].split())
        raise InputError(what, f"cannot be read ({line})", "Mend or remove the file") from error


def open_file(path: Path, renames: dict[str, str]) -> DataFile:
    """Open a file and rename its columns; a column that a renamed one replaces is left out.

    Raises InputError for a file that cannot be read, and for two columns of one name.
    """
    where = str(path)
    with reading(where):
        frame, is_csv = _scan(path), kind_of(path) == "csv"
        schema = dict(frame.collect_schema())
        if is_csv:
            _check_rows(path)
    for name in schema:
        base, doubled, _ = name.partition("_duplicated_")
        if is_csv and doubled and base in schema:
            raise InputError(where, f"two columns are named {base!r}", "Rename one in the file")
    folders = {name: value for name, value in partitions(path).items() if name not in schema}
    if folders:
        frame = frame.with_columns(pl.lit(value, pl.String).alias(name) for name, value in folders.items())
    kinds = schema | dict.fromkeys(folders, pl.String())
    as_text = set(kinds if is_csv else folders)
    return _renamed(DataFile(path, frame, kinds, frozenset(as_text), frozenset(folders)), renames)


def open_frame(frame: Frame, renames: dict[str, str]) -> DataFile:
    """A frame with its columns renamed, as `open_file`."""
    with reading(frame.name):
        kinds = dict(frame.rows.collect_schema())
    return _renamed(DataFile(Path(frame.name), frame.rows, kinds, frozenset(), frozenset()), renames)


def _renamed(file: DataFile, renames: dict[str, str]) -> DataFile:
    """The file without blanks around the names of its columns, and with these renamed."""
    own = [name for name in file.kinds if name not in file.from_folders]
    trimmed = {name: name.strip() for name in own}
    if len(set(trimmed.values())) < len(own):
        twice = next(name for name, short in trimmed.items() if name != short and short in own)
        what = f"columns {twice!r} and {trimmed[twice]!r} differ in blanks alone"
        raise InputError(str(file.path), what, "Rename one")
    return rename(rename(file, trimmed), renames)


def rename(file: DataFile, renames: dict[str, str]) -> DataFile:
    """The file with some columns renamed, where it has them. A column of the new name, in any case, is left out."""
    mine = {old: new for old, new in renames.items() if old in file.kinds and old != new}
    if not mine:
        return file
    new_names = {new.strip().casefold(): old for old, new in mine.items()}
    replaced = {n: new_names[n.strip().casefold()] for n in file.kinds if n.strip().casefold() in new_names}
    replaced = {name: old for name, old in replaced.items() if name not in mine}
    kept = {name: mine.get(name, name) for name in file.kinds if name not in replaced}
    return DataFile(
        file.path,
        file.frame.select(pl.col(old).alias(new) for old, new in kept.items()),
        {new: file.kinds[old] for old, new in kept.items()},
        frozenset(new for old, new in kept.items() if old in file.as_text),
        frozenset(new for old, new in kept.items() if old in file.from_folders),
        file.renamed | set(mine),
        file.replaced | replaced,
    )


def _scan(path: Path) -> pl.LazyFrame:
    with path.open("rb") as opened:
        magic = opened.read(len(_FILE_MAGIC))
    if not magic:
        raise InputError(str(path), "the file is empty", "Remove it")
    kind = kind_of(path)
    if kind == "parquet":
        return pl.scan_parquet(path, glob=False, hive_partitioning=False)
    if kind == "csv":
        return pl.scan_csv(path, glob=False, infer_schema=False)
    if magic == _FILE_MAGIC:
        return pl.scan_ipc(path, glob=False, hive_partitioning=False)
    with pa.ipc.open_stream(pa.memory_map(str(path))) as stream:
        return pl.from_arrow(stream.read_all()).lazy()  # type: ignore[union-attr]
