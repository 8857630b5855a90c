"""The rows of a cache: panel.arrow, an Arrow IPC file of record batches, mapped and viewed as NumPy arrays.

A batch holds whole codes and at most BATCH_ELEMENTS feature values, Arrow's limit for one array. Its buffers lie
64-byte aligned in the file, and the manifest keeps where (`BatchLayout`), so opening parses no Arrow metadata. Rows are
numbered through all batches; each batch is padded with absent rows to a multiple of 64, which have no number.

F features, H horizons, N rows
"""

import math
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from loaders.disk.regular import map_plain, refusal
from loaders.errors import InputError

PANEL = "panel.arrow"
ALIGNMENT = 64
BATCH_ELEMENTS = 2**31 - 1
DTYPES = {"float16": pa.float16(), "float32": pa.float32()}  # of stored features

Int = npt.NDArray[np.int64]


class BatchLayout(BaseModel):
    """Where a record batch lies in panel.arrow: its rows, padding excluded, and the byte offset of each buffer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rows: int = Field(ge=1)
    features: int = Field(ge=0)
    targets: int = Field(ge=0)  # 0: there are none
    presence: int = Field(ge=0)


@dataclass(frozen=True)
class Columns:
    """Views on the rows of one batch: features [N, F], targets [N, H], presence [N]."""

    features: npt.NDArray[Any]
    targets: npt.NDArray[np.float32]
    presence: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class RowColumn:
    """A column of several batches, used like an array by rows (an index array or a slice), then anything NumPy takes.

    Reading copies what is asked for. Rows between two parts, which belong to none, are never asked for.
    """

    parts: tuple[npt.NDArray[Any], ...]
    starts: Int  # number of each part's first row
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.parts[0].dtype

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        rows, *rest = key if isinstance(key, tuple) else (key,)
        if isinstance(rows, slice) and (only := self._slice(rows)) is not None:
            return np.asarray(only[(slice(None), *rest)])
        rows = self._numbers(rows)
        pieces = self._pieces(rows)
        found = [array[(local, *rest)] for _, array, local in pieces]
        out = np.empty((*rows.shape, *found[0].shape[1:]), self.dtype)
        for (here, _, _), values in zip(pieces, found, strict=True):
            out[here] = values
        return out

    def __setitem__(self, rows: Any, values: Any) -> None:
        if isinstance(rows, slice) and (only := self._slice(rows)) is not None:
            only[:] = values
            return
        rows = self._numbers(rows)
        values = np.broadcast_to(np.asarray(values), (*rows.shape, *self.shape[1:]))
        for here, array, local in self._pieces(rows):
            array[local] = values[here]

    def _numbers(self, rows: Any) -> Int:
        return np.arange(*rows.indices(self.shape[0])) if isinstance(rows, slice) else np.asarray(rows)

    def _slice(self, rows: slice) -> npt.NDArray[Any] | None:
        """A view on the rows of a slice that lies in one part."""
        start, stop, step = rows.indices(self.shape[0])
        part = int(np.searchsorted(self.starts, start, "right")) - 1
        first = int(self.starts[part])
        inside = step == 1 and stop - first <= len(self.parts[part])
        return self.parts[part][start - first : stop - first] if inside else None

    def _pieces(self, rows: Int) -> Sequence[tuple[Any, npt.NDArray[Any], Int]]:
        """For each part with any of the rows: which of them, its array, and their places in it."""
        part = np.searchsorted(self.starts, rows, "right") - 1
        used = np.unique(part) if rows.size else np.zeros(1, np.int64)
        return [(part == i, self.parts[i], rows[part == i] - self.starts[i]) for i in used]


def one_column(parts: Sequence[npt.NDArray[Any]], starts: Int) -> Any:
    """The parts as one column: the array itself where there is one."""
    rows = int(starts[-1]) + len(parts[-1])
    return parts[0] if len(parts) == 1 else RowColumn(tuple(parts), starts, (rows, *parts[0].shape[1:]))


@dataclass(frozen=True)
class NewColumns:
    """The columns of a cache that is being filled, by row number; absent rows without targets at first."""

    features: Any  # [N, F]
    targets: Any  # [N, H]
    presence: Any  # [N]
    parts: list[Columns]  # of each batch
    batches: list[BatchLayout]


def joined(several: Sequence[NewColumns]) -> NewColumns:
    """Columns of several files as one, rows numbered through."""
    return as_columns([part for new in several for part in new.parts], [b for new in several for b in new.batches])


def as_columns(parts: list[Columns], batches: list[BatchLayout]) -> NewColumns:
    """The batches of a file as columns, rows numbered through."""
    starts = np.cumsum([0, *(batch.rows for batch in batches[:-1])])
    return NewColumns(
        one_column([part.features for part in parts], starts),
        one_column([part.targets for part in parts], starts),
        one_column([part.presence for part in parts], starts),
        parts,
        batches,
    )


def create_columns(
    folder: Path, days: Sequence[int] | Int, n_features: int, n_horizons: int, dtype: str, name: str = PANEL
) -> NewColumns:
    """Write panel.arrow, or a file of another name, with absent rows and return writable views on its mapping.

    The file is written in place, without an array of its size, and its blocks are allocated before any view is handed
    out: a full disk is an OSError here and never a bus error later.

    Args:
        days: rows of each code, in order; a code's rows lie in one batch.

    Raises InputError for a code with more feature values than a batch holds.
    """
    rows = _batch_rows(np.asarray(days, np.int64), max(n_features, n_horizons))
    path = folder / name
    with path.open("wb") as file:
        _write(file, rows, n_features, n_horizons, dtype)
        os.posix_fallocate(file.fileno(), 0, file.tell())
    with path.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_WRITE)
    batches = [
        BatchLayout(rows=n, features=offsets[0], targets=offsets[1], presence=offsets[2])
        for n, offsets in zip(rows, arrow_offsets(mapping), strict=True)
    ]
    parts = views(mapping, batches, n_features, n_horizons, dtype)
    for part in parts:
        part.targets[:] = np.nan
    return as_columns(parts, batches)


def _batch_rows(days: Int, width: int) -> list[int]:
    """Rows of each batch: as many whole codes as fit."""
    most = BATCH_ELEMENTS // max(width, 1) // ALIGNMENT * ALIGNMENT
    if len(days) and days.max() > most:
        what = f"a code has {days.max():,} rows of {width:,} values, a batch holds {BATCH_ELEMENTS:,} values"
        raise InputError(PANEL, what, "Split the code's history, or store fewer features")
    rows: list[int] = []
    filled = most
    for n in days.tolist():
        if filled + n > most:
            rows.append(0)
            filled = 0
        rows[-1] += n
        filled += n
    return rows


def _schema(n_features: int, n_horizons: int, dtype: str, padding: int) -> pa.Schema:
    value = DTYPES[dtype]
    targets = pa.list_(pa.field("item", pa.float32(), nullable=False), n_horizons)
    return pa.schema(
        [
            pa.field("features", pa.list_(pa.field("item", value, nullable=False), n_features), nullable=False),
            *([pa.field("targets", targets, nullable=False)] if n_horizons else []),  # Arrow fails at lists of length 0
            pa.field("presence", pa.uint8(), nullable=False),
        ],
        metadata={"padding": " " * padding},
    )


def _batch(schema: pa.Schema, rows: int) -> pa.RecordBatch:
    """A record batch of zeros whose pages are never touched in memory."""
    arrays = []
    for column in schema:
        fixed = pa.types.is_fixed_size_list(column.type)
        value, width = (column.type.value_type, column.type.list_size) if fixed else (column.type, 1)
        zeros = pa.py_buffer(np.zeros(rows * width * value.bit_width // 8, np.uint8))
        flat = pa.Array.from_buffers(value, rows * width, [None, zeros])
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=column.type) if fixed else flat)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class _Holes:
    """A file for Arrow's writer in which the buffers of batches, which are zeros, become holes."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def write(self, data: Any) -> int:
        if isinstance(data, pa.Buffer):
            self.file.seek(data.size, os.SEEK_CUR)
            return int(data.size)
        return self.file.write(data)

    def tell(self) -> int:
        return self.file.tell()

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None: ...

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


def _write(file: BinaryIO, rows: list[int], n_features: int, n_horizons: int, dtype: str) -> None:
    """The Arrow file, every buffer at a multiple of ALIGNMENT: headers are padded by metadata that says nothing."""
    width = (n_features, n_horizons, dtype)
    pad = next(p for p in range(ALIGNMENT) if _header_bytes(_schema(*width, 0), p)[1] % ALIGNMENT == 0)
    lead = next(p for p in range(ALIGNMENT) if _header_bytes(_schema(*width, p), pad)[0] % ALIGNMENT == 0)
    schema = _schema(*width, lead)
    with pa.ipc.new_file(pa.PythonFile(_Holes(file), "w"), schema) as writer:
        for n in rows:
            writer.write_batch(_batch(schema, math.ceil(n / ALIGNMENT) * ALIGNMENT), {"padding": " " * pad})


def _header_bytes(schema: pa.Schema, padding: int) -> tuple[int, int]:
    """Bytes before the buffers of the first batch and of any later one: the same for any number of rows."""
    sink, batch = pa.BufferOutputStream(), _batch(schema, ALIGNMENT)
    ends = [0]
    with pa.ipc.new_file(sink, schema) as writer:
        for _ in range(2):
            writer.write_batch(batch, {"padding": " " * padding})
            ends.append(sink.tell())
    return ends[1] - batch.nbytes, ends[2] - ends[1] - batch.nbytes


def arrow_offsets(mapping: mmap.mmap) -> list[tuple[int, int, int]]:
    """Where Arrow finds the buffers of each batch: features, targets (0: none), presence. Reads Arrow's metadata.

    The values of lists are taken as they lie: `flatten` computes on what damaged metadata say, and ends the process.
    """
    start = np.frombuffer(mapping, np.uint8).ctypes.data
    reader = pa.ipc.open_file(pa.py_buffer(mapping))
    found = []
    for i in range(reader.num_record_batches):
        features, *targets, presence = reader.get_batch(i).columns
        flat = (features.values, *(column.values for column in targets), presence)
        first, *middle, last = (int(array.buffers()[1].address - start) for array in flat)
        found.append((first, middle[0] if middle else 0, last))
    return found


def views(
    mapping: mmap.mmap, batches: list[BatchLayout], n_features: int, n_horizons: int, dtype: str
) -> list[Columns]:
    """Arrays on the mapping itself, writable where it is. Raises ValueError for a batch that does not lie inside it."""
    value = np.dtype(dtype)

    def view(offset: int, kind: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        if offset % ALIGNMENT:
            raise ValueError(f"a buffer lies at byte {offset}, not {ALIGNMENT}-byte aligned")
        return np.frombuffer(mapping, kind, math.prod(shape), offset).reshape(shape)

    return [
        Columns(
            view(batch.features, value, (batch.rows, n_features)),
            view(batch.targets, np.float32, (batch.rows, n_horizons)) if n_horizons else _no_targets(batch.rows),
            view(batch.presence, np.uint8, (batch.rows,)),
        )
        for batch in batches
    ]


def _no_targets(rows: int) -> npt.NDArray[np.float32]:
    return np.empty((rows, 0), np.float32)


def map_file(path: Path) -> tuple[mmap.mmap, os.stat_result]:
    """Map a file read-only; gives it and what it was on opening. Raises InputError where that cannot be done."""
    cure = "Restore or rebuild the cache"
    try:
        return map_plain(path)
    except OSError as error:
        raise refusal(path, error, cure) from error
    except ValueError as error:
        raise InputError(str(path), f"not a readable file of rows ({error})", cure) from error
