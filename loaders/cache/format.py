"""The cache format: one folder, one Arrow IPC file of rows, one JSON manifest.

    cache/
      manifest.json    names, calendar, codes, recipe, row counts, checksums
      panel.arrow      one record batch, uncompressed, every buffer 64-byte aligned in the file:
                         features  FixedSizeList<float16|float32>[F]
                         targets   FixedSizeList<float32>[H]      NaN = no target, never zero
                         presence  uint8                          ABSENT, CONTEXT or SCORED
      rows.npy         uint64 [2, W] bits per row (see rows.py): it is present; it is a sample, that is SCORED and with
                       a target for at least one horizon. A plan reads these instead of the rows

Rows lie code by code and, within a code, day by day over its whole span (first..last calendar day), so

    row(code s, day t) = offset[s] + t - first[s]

needs no index and no search, and a block of S codes is S contiguous runs. A day on which a code did not trade
is an ABSENT row of zeros. A CONTEXT row was there but outside the universe: it may be looked back on, and is never
scored or ranked. The file is padded with absent rows to a multiple of 64 rows, which keeps every buffer aligned.

Not checked on opening: the checksums of panel.arrow (`verify` does that; it reads every byte).

F features, H horizons, S codes
"""

import hashlib
import json
import math
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from loaders.cache.rows import WORD, row_bits
from loaders.errors import InputError

FORMAT_VERSION = 2
ABSENT, CONTEXT, SCORED = 0, 1, 2
ALIGNMENT = 64
CHUNK_BYTES = 16 << 20
MANIFEST, PANEL, ROWS = "manifest.json", "panel.arrow", "rows.npy"
DTYPES = {"float16": pa.float16(), "float32": pa.float32()}  # of stored features


@dataclass
class Manifest:
    """What a cache holds. Written last: a folder without a manifest is not a cache."""

    features: list[str]
    horizons: list[int]
    dtype: str  # of the stored features: "float16" or "float32"
    calendar: list[str]  # ISO dates, ascending, distinct
    codes: list[str]  # ascending, distinct
    first: list[int]  # per code, calendar index of the first day of its span
    days: list[int]  # per code, calendar days in its span
    rows: int  # sum of days; absent rows included, padding excluded
    counts: dict[str, int]  # rows by kind, and what the recipe did to odd input
    recipe: dict[str, Any]  # name and settings that built it
    normalisation: str
    period: Literal["day", "week", "month", "era", "other"] = "day"  # what a date of the calendar stands for
    periods_per_year: float | None = 252.0  # None: not known
    known_after: int = 0  # periods after t + h when the target of day t is known: 1 where it begins at a later entry
    simulation: dict[str, Any] | None = None
    chunk_bytes: int = CHUNK_BYTES
    checksums: list[str] = field(default_factory=list)  # sha256 per chunk of panel.arrow, first 16 hex digits
    rows_checksums: list[str] = field(default_factory=list)  # the same of rows.npy
    cache_id: str = ""
    format_version: int = FORMAT_VERSION


def _schema(n_features: int, n_horizons: int, dtype: str, padding: int) -> pa.Schema:
    value = DTYPES[dtype]
    return pa.schema(
        [
            pa.field("features", pa.list_(pa.field("item", value, nullable=False), n_features), nullable=False),
            pa.field("targets", pa.list_(pa.field("item", pa.float32(), nullable=False), n_horizons), nullable=False),
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


def _write_ipc(sink: Any, n_features: int, n_horizons: int, dtype: str, rows: int, padding: int) -> None:
    schema = _schema(n_features, n_horizons, dtype, padding)
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(_batch(schema, rows))


def _body_offset(n_features: int, n_horizons: int, dtype: str, padding: int) -> int:
    """Where the first buffer would lie in the file: the headers' size does not depend on the number of rows."""
    sink = pa.BufferOutputStream()
    _write_ipc(sink, n_features, n_horizons, dtype, ALIGNMENT, padding)
    buffer = sink.getvalue()
    batch = pa.ipc.open_file(buffer).get_batch(0)
    return int(batch.column(0).flatten().buffers()[1].address - buffer.address)


@dataclass
class Columns:
    """NumPy views on the rows of a cache, padding excluded: features [rows, F], targets [rows, H], presence [rows]."""

    features: npt.NDArray[Any]
    targets: npt.NDArray[np.float32]
    presence: npt.NDArray[np.uint8]
    mapping: mmap.mmap  # of the whole file


def create_columns(folder: Path, rows: int, n_features: int, n_horizons: int, dtype: str) -> Columns:
    """Write panel.arrow with `rows` absent rows and return writable views on its mapping.

    The file's blocks are allocated before any view is handed out, so a full disk is an OSError here and never a
    bus error later.
    """
    padded = math.ceil(max(rows, 1) / ALIGNMENT) * ALIGNMENT
    padding = next(p for p in range(8 * ALIGNMENT) if _body_offset(n_features, n_horizons, dtype, p) % ALIGNMENT == 0)
    path = folder / PANEL
    with pa.OSFile(str(path), "wb") as sink:
        _write_ipc(sink, n_features, n_horizons, dtype, padded, padding)
    columns = _views(path, rows, n_features, n_horizons, writable=True)
    columns.targets[:] = np.nan
    return columns


def open_columns(folder: Path, manifest: Manifest) -> Columns:
    """Map panel.arrow read-only; no value is read or copied.

    Raises InputError where the file's columns disagree with the manifest or the file is cut short.
    """
    return _views(
        folder / PANEL, manifest.rows, len(manifest.features), len(manifest.horizons), False, expected=manifest.dtype
    )


def open_rows(folder: Path, manifest: Manifest) -> npt.NDArray[np.uint64]:
    """Map rows.npy: uint64 [2, W], bits of the present rows and of the samples.

    Raises InputError where the file is missing, cut short, altered or of another shape.
    """
    path = folder / ROWS
    _verify_file(path, manifest.rows_checksums, manifest.chunk_bytes)  # all of it is read anyway
    try:
        bits = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(str(path), f"not readable ({error})", "Rebuild the cache") from error
    words = math.ceil(manifest.rows / WORD) + 1
    if bits.dtype != np.uint64 or bits.shape != (2, words):
        what = f"{bits.dtype} of shape {bits.shape}, {manifest.rows} rows need uint64 (2, {words})"
        raise InputError(str(path), what, "Rebuild the cache")
    return bits


def _views(
    path: Path, rows: int, n_features: int, n_horizons: int, writable: bool, expected: str | None = None
) -> Columns:
    try:
        with path.open("r+b" if writable else "rb") as file:
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            mapping = mmap.mmap(file.fileno(), 0, access=access)
        buffer = pa.py_buffer(mapping)
        batch = pa.ipc.open_file(buffer).get_batch(0)
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise InputError(str(path), f"not a readable panel file ({error})", "Rebuild the cache") from error
    value = DTYPES.get(expected or "")
    for name, width in (("features", n_features), ("targets", n_horizons)):
        kind = batch.schema.field(name).type if name in batch.schema.names else None
        if kind is None or not pa.types.is_fixed_size_list(kind) or kind.list_size != width:
            raise InputError(str(path), f"column {name} is {kind}, the manifest says {width} wide", "Rebuild the cache")
    stored = batch.schema.field("features").type.value_type
    if (value is not None and stored != value) or batch.num_rows < rows:
        raise InputError(
            str(path), f"{batch.num_rows} rows of {stored}, the manifest says {rows} of {expected}", "Rebuild the cache"
        )

    start = np.frombuffer(mapping, np.uint8).ctypes.data

    def view(array: pa.Array, dtype: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        # Views are taken on the mapping itself: unlike Arrow's buffers they are writable where the mapping is.
        offset = array.buffers()[1].address - start
        if offset % ALIGNMENT:
            raise InputError(str(path), f"a buffer lies at byte {offset}, not {ALIGNMENT}-byte aligned", "Rebuild it")
        return np.frombuffer(mapping, dtype, math.prod(shape), offset).reshape(shape)

    return Columns(
        view(batch.column("features").flatten(), stored.to_pandas_dtype(), (rows, n_features)),
        view(batch.column("targets").flatten(), np.float32, (rows, n_horizons)),
        view(batch.column("presence"), np.uint8, (rows,)),
        mapping,
    )


def checksum_of(chunk: bytes | memoryview) -> str:
    """SHA-256, first 16 hex digits."""
    return hashlib.sha256(chunk).hexdigest()[:16]


def chunk_name(number: int, chunk_bytes: int) -> str:
    """A chunk in words: its number and its bytes in the file."""
    return f"chunk {number} (bytes {number * chunk_bytes}..{(number + 1) * chunk_bytes - 1})"


def chunk_checksums(path: Path, chunk_bytes: int = CHUNK_BYTES) -> list[str]:
    """SHA-256 of each `chunk_bytes` of the file, first 16 hex digits, computed by one thread per core."""

    def checksum(start: int) -> str:
        with path.open("rb") as file:
            file.seek(start)
            return checksum_of(file.read(chunk_bytes))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(checksum, range(0, path.stat().st_size, chunk_bytes)))


def manifest_id(manifest: Manifest) -> str:
    """Identity of a cache: a hash of everything the manifest says, checksums of the values included."""
    content = {k: v for k, v in asdict(manifest).items() if k != "cache_id"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write rows.npy, checksum both files of rows, then write the manifest and flush all to disk."""
    columns = open_columns(folder, manifest)
    sample = (columns.presence == SCORED) & np.isfinite(columns.targets).any(1)
    np.save(folder / ROWS, np.stack([row_bits(columns.presence != ABSENT), row_bits(sample)]))
    manifest.checksums = chunk_checksums(folder / PANEL, manifest.chunk_bytes)
    manifest.rows_checksums = chunk_checksums(folder / ROWS, manifest.chunk_bytes)
    manifest.cache_id = manifest_id(manifest)
    with (folder / MANIFEST).open("w") as file:
        json.dump(asdict(manifest), file)
        file.flush()
        os.fsync(file.fileno())
    for name in (PANEL, ROWS):
        with (folder / name).open("rb") as rows:
            os.fsync(rows.fileno())


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a cache folder.

    Raises InputError for a missing folder, a folder that is no cache, another format version or inconsistent content.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        cure = "Build one with `atft-engine cache build` or `cache simulate`, or pass --arrow"
        raise InputError(str(folder), "no cache here (manifest.json is missing)", cure) from error
    except (OSError, ValueError) as error:
        raise InputError(str(path), f"not a readable manifest ({error})", "Rebuild the cache") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(
            str(path), f"format version {version}, this release reads {FORMAT_VERSION}", "Rebuild the cache"
        )
    try:
        manifest = Manifest(**content)
        spans = list(zip(manifest.first, manifest.days, strict=False))
        consistent = (
            sum(manifest.days) == manifest.rows
            and len(manifest.codes) == len(manifest.first) == len(manifest.days)
            and all(f >= 0 and n >= 1 and f + n <= len(manifest.calendar) for f, n in spans)
        )
    except TypeError as error:
        raise InputError(str(path), f"unexpected content ({error})", "Rebuild the cache") from error
    if not consistent or manifest.cache_id != manifest_id(manifest):
        raise InputError(str(path), "the manifest was altered: its content and its id disagree", "Rebuild the cache")
    return manifest


def verify(folder: Path) -> Manifest:
    """Read every byte of a cache and compare it with the manifest; return the manifest.

    Raises InputError naming each chunk (its number and byte range) that differs.
    """
    manifest = read_manifest(folder)
    _verify_file(folder / PANEL, manifest.checksums, manifest.chunk_bytes)
    open_columns(folder, manifest)
    open_rows(folder, manifest)
    return manifest


def _verify_file(path: Path, checksums: list[str], size: int) -> None:
    if not path.is_file():
        raise InputError(str(path), "is missing", "Restore or rebuild the cache")
    found = chunk_checksums(path, size)
    if len(found) != len(checksums):
        raise InputError(str(path), f"{len(found)} chunks, the manifest lists {len(checksums)}", "Rebuild the cache")
    bad = [i for i, (a, b) in enumerate(zip(found, checksums, strict=True)) if a != b]
    if bad:
        names = ", ".join(chunk_name(i, size) for i in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise InputError(str(path), f"checksum differs in {names}{more}", "Restore or rebuild the cache")
