"""A data frame as the source of a build: anything with the Arrow C stream, or a lazy frame of Polars.

Its rows are read where they are wherever Arrow can, and copied once where not: what pandas holds as objects, and what
DuckDB computes. A pandas index becomes columns, as pandas writes it to Parquet; a plain range is none.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from loaders.errors import InputError


@dataclass(frozen=True)
class Frame:
    """A frame in memory, and what messages call it."""

    name: str
    rows: pl.LazyFrame

    def __str__(self) -> str:
        return self.name


Source = Path | Frame  # a file, a folder of files, or a frame


def is_frame(value: Any) -> bool:
    """Whether `as_frame` takes it."""
    return isinstance(value, pl.LazyFrame) or hasattr(value, "__arrow_c_stream__")


def as_frame(value: Any, number: int | None = None) -> Frame:
    """A Polars frame, or anything with the Arrow C stream: pandas, pyarrow, DuckDB. Its rows are not changed.

    Args:
        number: of the frame among several, from 1 on.

    Raises InputError for a frame that Arrow cannot hold, such as one with several kinds of values in a column.
    """
    kind = type(value)
    name = f"{kind.__module__.partition('.')[0].lstrip('_')} {kind.__name__}" + ("" if number is None else f" {number}")
    if isinstance(value, pl.LazyFrame):
        return Frame(name, value)
    if isinstance(value, pl.DataFrame):
        return Frame(name, value.lazy())
    try:
        # By pyarrow: Polars itself would leave the index of pandas out.
        table = pa.RecordBatchReader.from_stream(value).read_all()
        frame = pl.DataFrame(table)
    except (pa.ArrowException, pl.exceptions.PolarsError, TypeError, ValueError) as error:
        line = " ".join(str(error).split())
        raise InputError(name, f"cannot be read ({line})", "Give each column one type and a name of its own") from error
    return Frame(name, frame.lazy())
