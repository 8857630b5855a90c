"""The cache format: one folder of three files, and a fourth of what they were built from.

    cache/
      manifest.json    names, calendar, codes, recipe, counts, statistics of features, layout of batches, checksums
      panel.arrow      record batches, uncompressed, every buffer 64-byte aligned in the file (see columns.py):
                         features  FixedSizeList<float16|float32>[F]
                         targets   FixedSizeList<float32>[H]      NaN = no target, never zero; only with horizons
                         presence  uint8                          ABSENT, CONTEXT or SCORED
      rows.npy         uint64 [2, W] bits per row (see rows.py): it is present; it is a sample, that is SCORED and with
                       a target for at least one horizon. A plan reads these instead of the rows
      source.arrow     the columns that the recipe read, float32, rows laid out alike (`BuiltFrom`): `append` compares
                       files with them and computes from them; nothing else reads them. Not in every cache

Rows lie code by code and, within a code, day by day over its whole span (first..last calendar day), so

    row(code s, day t) = offset[s] + t - first[s]

needs no index and no search, and a block of S codes is S contiguous runs. A day on which a code did not trade
is an ABSENT row of zeros. A CONTEXT row was there but outside the universe: it may be looked back on, and is never
scored or ranked. A code's rows lie in one record batch.

Not checked on opening: the checksums of panel.arrow (`verify` does that; it reads every byte).

F features, H horizons, S codes, N rows
"""

import hashlib
import json
import math
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loaders.cache.columns import (
    PANEL,
    BatchLayout,
    Columns,
    NewColumns,
    arrow_offsets,
    as_columns,
    map_file,
    views,
)
from loaders.cache.rows import WORD, row_bits
from loaders.cache.statistics import FeatureStats, RunningStats, moments
from loaders.errors import InputError, check_memory
from loaders.progress import Progress, counted, part_of, quiet

FORMAT_VERSION = 4
READABLE = (3, 4)  # 3 keeps no source
ABSENT, CONTEXT, SCORED = 0, 1, 2
CHUNK_BYTES = 16 << 20
MANIFEST, ROWS, SOURCE = "manifest.json", "rows.npy", "source.arrow"

Count = Annotated[int, Field(ge=0)]
Dtype = Literal["float16", "float32"]
Transform = Literal["rank", "zscore", "none"]


class Delisting(BaseModel):
    """What a holder of a code got after its last bar, as a fraction; known since a date."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    code: str
    date: str  # ISO
    value: float


class BuiltFrom(BaseModel):
    """What a cache was built from, kept so that days can be appended. Its rows, in source.arrow, lie as those of a
    cache do: code by code and day by day, days before the cache's first and codes that ended before it included.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    settings: dict[str, Any]  # of the build, fields of the recipe's options
    columns: list[str]  # of source.arrow, float32, NaN = missing
    calendar: list[str]
    codes: list[str]
    first: list[Count]
    days: list[Annotated[int, Field(ge=1)]]
    left_out: dict[str, Count]  # dates that --min-codes left out, and how many codes held each
    delistings: list[Delisting]  # all that were given, also of codes and dates that the cache does not have yet
    moments: list[list[float]]  # `RunningStats.state` of the features as the source has them
    batches: list[BatchLayout]
    bytes: Count = 0  # size of source.arrow
    checksums: list[str] = []  # as those of panel.arrow


class Manifest(BaseModel):
    """What a cache holds. Written last: a folder without a manifest is not a cache."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    features: list[str]
    horizons: list[Annotated[int, Field(ge=1)]]  # ascending, distinct
    dtype: Dtype  # of the stored features
    calendar: list[str]  # ISO dates, ascending, distinct
    codes: list[str]  # ascending, distinct
    first: list[Count]  # per code, calendar index of the first day of its span
    days: list[Annotated[int, Field(ge=1)]]  # per code, calendar days in its span
    rows: Count  # sum of days; absent rows included, padding excluded
    counts: dict[str, Count]  # rows by kind, and what the recipe did to odd input
    recipe: dict[str, Any]  # name and settings that built it
    normalisation: str  # in words
    transform: Transform = "none"  # of features, within each date
    categories: list[str] = []  # features that are ids, stored as they are
    targets: list[str] = []  # what the target of each horizon is
    known_after: Count = 0  # days after t + h when the target of day t is known; 1 where it begins at t + 1's close
    period: Literal["day", "week", "month", "era", "other"] = "day"  # what a calendar row is
    periods_per_year: Annotated[float, Field(gt=0)] | None = 252.0  # None: not known, ratios are not annualised
    source: list[FeatureStats] = []  # of each feature as the source has it
    stored: list[FeatureStats] = []  # of each feature as it is stored
    simulation: dict[str, Any] | None = None
    batches: list[BatchLayout] = []
    panel_bytes: Count = 0  # size of panel.arrow
    chunk_bytes: Annotated[int, Field(ge=1, le=1 << 30)] = CHUNK_BYTES
    checksums: list[str] = []  # sha256 per chunk of panel.arrow, first 16 hex digits
    rows_checksums: list[str] = []  # the same of rows.npy
    built_from: BuiltFrom | None = None  # None: days cannot be appended
    cache_id: str = ""
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Mapped:
    """panel.arrow of an open cache: its mapping, the file as it was on opening, its manifest, and views on batches."""

    path: Path
    opened: os.stat_result
    mapping: mmap.mmap
    manifest: Manifest
    batches: list[Columns]


def open_columns(folder: Path, manifest: Manifest) -> Mapped:
    """Map panel.arrow read-only; no value is read or copied, and no Arrow metadata is parsed.

    Raises InputError where the file is cut short or its batches do not hold the manifest's rows.
    """
    path = folder / PANEL
    mapping = map_file(path)
    try:
        if manifest.panel_bytes and len(mapping) != manifest.panel_bytes:
            raise ValueError(f"{len(mapping):,} bytes, not {manifest.panel_bytes:,}")
        width = (len(manifest.features), len(manifest.horizons), manifest.dtype)
        batches = views(mapping, manifest.batches, *width)
    except ValueError as error:
        raise InputError(str(path), f"does not hold what the manifest says ({error})", "Rebuild the cache") from error
    return Mapped(path, os.stat(path), mapping, manifest, batches)


def open_source(folder: Path, built_from: BuiltFrom) -> NewColumns:
    """Map source.arrow read-only; its values are the `features`.

    Raises InputError where the file is cut short or missing.
    """
    path = folder / SOURCE
    mapping = map_file(path)
    try:
        if len(mapping) != built_from.bytes:
            raise ValueError(f"{len(mapping):,} bytes, not {built_from.bytes:,}")
        batches = views(mapping, built_from.batches, len(built_from.columns), 0, "float32")
    except ValueError as error:
        raise InputError(str(path), f"does not hold what the manifest says ({error})", "Rebuild the cache") from error
    return as_columns(batches, built_from.batches)


def open_rows(folder: Path, manifest: Manifest) -> npt.NDArray[np.uint64]:
    """Map rows.npy: uint64 [2, W], bits of the present rows and of the samples.

    Raises InputError where the file is missing, cut short, altered or of another shape.
    """
    path = folder / ROWS
    _verify_file(path, manifest.rows_checksums, manifest.chunk_bytes)  # all of it is read anyway
    try:
        bits = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        check_memory(error)
        raise InputError(str(path), f"not readable ({error})", "Rebuild the cache") from error
    words = math.ceil(manifest.rows / WORD) + 1
    if bits.dtype != np.uint64 or bits.shape != (2, words):
        what = f"{bits.dtype} of shape {bits.shape}, {manifest.rows} rows need uint64 (2, {words})"
        raise InputError(str(path), what, "Rebuild the cache")
    return bits


def checksum_of(chunk: bytes | memoryview) -> str:
    """SHA-256, first 16 hex digits."""
    return hashlib.sha256(chunk).hexdigest()[:16]


def chunk_name(number: int, chunk_bytes: int) -> str:
    """A chunk in words: its number and its bytes in the file."""
    return f"chunk {number} (bytes {number * chunk_bytes}..{(number + 1) * chunk_bytes - 1})"


def chunk_checksums(path: Path, chunk_bytes: int = CHUNK_BYTES, progress: Progress = quiet) -> list[str]:
    """SHA-256 of each `chunk_bytes` of the file, first 16 hex digits, computed by one thread per core."""

    def checksum(start: int) -> str:
        with path.open("rb") as file:
            file.seek(start)
            return checksum_of(file.read(chunk_bytes))

    starts = range(0, path.stat().st_size, chunk_bytes)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(counted(pool.map(checksum, starts), len(starts), progress, "checksums"))


def manifest_id(manifest: Manifest) -> str:
    """Identity of a cache: a hash of everything the manifest says, checksums of the values included."""
    content = manifest.model_dump(exclude={"cache_id"} if manifest.format_version > 3 else {"cache_id", "built_from"})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def write_manifest(folder: Path, manifest: Manifest, progress: Progress = quiet) -> None:
    """Measure the stored features, write rows.npy, checksum all files of rows, write the manifest, flush all."""
    manifest.panel_bytes = (folder / PANEL).stat().st_size
    batches = open_columns(folder, manifest).batches
    manifest.stored = _measure(batches, part_of(progress, 0, 0.5))
    present = np.concatenate([columns.presence for columns in batches])
    sample = np.concatenate([np.isfinite(columns.targets).any(1) for columns in batches]) & (present == SCORED)
    np.save(folder / ROWS, np.stack([row_bits(present != ABSENT), row_bits(sample)]))
    manifest.checksums = chunk_checksums(folder / PANEL, manifest.chunk_bytes, part_of(progress, 0.5, 1))
    manifest.rows_checksums = chunk_checksums(folder / ROWS, manifest.chunk_bytes)
    files = [PANEL, ROWS]
    if manifest.built_from is not None:
        files.append(SOURCE)
        manifest.built_from.bytes = (folder / SOURCE).stat().st_size
        manifest.built_from.checksums = chunk_checksums(folder / SOURCE, manifest.chunk_bytes)
    manifest.cache_id = manifest_id(manifest)
    with (folder / MANIFEST).open("w") as file:
        json.dump(manifest.model_dump(), file)
        file.flush()
        os.fsync(file.fileno())
    for name in files:
        with (folder / name).open("rb") as rows:
            os.fsync(rows.fileno())


def _measure(batches: list[Columns], progress: Progress, rows: int = 1 << 14) -> list[FeatureStats]:
    """Statistics of the stored values of the scored rows."""
    stats = RunningStats(batches[0].features.shape[1])

    def one(piece: tuple[Columns, int]) -> tuple[npt.NDArray[np.float64], int]:
        columns, start = piece
        scored = columns.presence[start : start + rows] == SCORED
        return moments(columns.features[start : start + rows], scored), int(scored.sum())

    pieces = [(columns, start) for columns in batches for start in range(0, len(columns.presence), rows)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for found, count in counted(pool.map(one, pieces), len(pieces), progress, "statistics"):
            stats.add(found, count)
    return stats.result()


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
    if version not in READABLE:
        what = f"format version {version}, this release reads {' and '.join(map(str, READABLE))}"
        raise InputError(str(path), what, "Rebuild the cache")
    try:
        manifest = Manifest.model_validate(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(str(path), f"unexpected content in {where} ({first['msg']})", "Rebuild the cache") from error
    odd = _inconsistency(manifest)
    if odd is None and manifest.cache_id != manifest_id(manifest):
        odd = "its content and its id disagree"
    if odd is not None:
        raise InputError(str(path), f"the manifest was altered: {odd}", "Rebuild the cache")
    return manifest


def _inconsistency(m: Manifest) -> str | None:
    """What in a manifest cannot be, in words."""
    for name in ("calendar", "codes", "horizons"):
        values = getattr(m, name)
        if any(a >= b for a, b in pairwise(values)):
            return f"{name} is not ascending and distinct"
    if len(set(m.features)) < len(m.features):
        return "features are not distinct"
    if not len(m.codes) == len(m.first) == len(m.days):
        return "codes, first and days differ in length"
    if any(first + days > len(m.calendar) for first, days in zip(m.first, m.days, strict=True)):
        return "a code's span ends after the calendar"
    if sum(m.days) != m.rows or (m.batches and sum(batch.rows for batch in m.batches) != m.rows):
        return "its rows are not those of its codes"
    return None


def verify(folder: Path, progress: Progress = quiet) -> Manifest:
    """Read every byte of a cache and compare it with the manifest; return the manifest.

    Raises InputError naming each chunk (its number and byte range) that differs.
    """
    manifest = read_manifest(folder)
    _verify_file(folder / PANEL, manifest.checksums, manifest.chunk_bytes, progress)
    mapped = open_columns(folder, manifest)
    open_rows(folder, manifest)
    if manifest.built_from is not None:
        _verify_file(folder / SOURCE, manifest.built_from.checksums, manifest.chunk_bytes)
        open_source(folder, manifest.built_from)
    expected = [(batch.features, batch.targets, batch.presence) for batch in manifest.batches]
    if arrow_offsets(mapped.mapping) != expected:
        what = "its record batches are not where the manifest says"
        raise InputError(str(folder / PANEL), what, "Rebuild the cache")
    return manifest


def _verify_file(path: Path, checksums: list[str], size: int, progress: Progress = quiet) -> None:
    if not path.is_file():
        raise InputError(str(path), "is missing", "Restore or rebuild the cache")
    found = chunk_checksums(path, size, progress)
    if len(found) != len(checksums):
        raise InputError(str(path), f"{len(found)} chunks, the manifest lists {len(checksums)}", "Rebuild the cache")
    bad = [i for i, (a, b) in enumerate(zip(found, checksums, strict=True)) if a != b]
    if bad:
        names = ", ".join(chunk_name(i, size) for i in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise InputError(str(path), f"checksum differs in {names}{more}", "Restore or rebuild the cache")
