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

On opening, the manifest, rows.npy and the sizes of files are checked. The checksums of panel.arrow are compared beside
its use (loaders/verify.py), or by `verify`; that reads every byte. Arrow's own metadata is parsed by `verify` alone,
once checksums agree.

F features, H horizons, S codes, N rows
"""

import hashlib
import json
import mmap
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import shorten

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import ValidationError

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
from loaders.cache.manifest.check import inconsistency
from loaders.cache.manifest.model import CHUNK_BYTES, READABLE, BuiltFrom, Manifest, manifest_id
from loaders.cache.rows import bits_of, row_bits
from loaders.cache.statistics import FeatureStats, RunningStats, moments
from loaders.disk.regular import check_plain, open_plain, read_plain, refusal
from loaders.errors import InputError
from loaders.progress import Progress, counted, part_of, quiet

ABSENT, CONTEXT, SCORED = 0, 1, 2
MANIFEST, ROWS, SOURCE = "manifest.json", "rows.npy", "source.arrow"
CURE = "Restore or rebuild the cache"


@dataclass(frozen=True)
class Mapped:
    """panel.arrow of an open cache: its mapping, the file as it was on opening, its manifest, and views on batches."""

    path: Path
    opened: os.stat_result
    mapping: mmap.mmap
    manifest: Manifest
    batches: list[Columns]
    bits: npt.NDArray[np.uint64] | None = None  # of rows.npy; None while a cache is made
    verified: threading.Event = field(default_factory=threading.Event)  # set once all rows agreed (loaders/verify.py)


def open_columns(folder: Path, manifest: Manifest) -> Mapped:
    """Map panel.arrow read-only; no value is read or copied, and no Arrow metadata is parsed.

    Raises InputError where the file is cut short or its batches do not hold the manifest's rows.
    """
    width = (len(manifest.features), len(manifest.horizons), manifest.dtype)
    mapping, opened, batches = _mapped(folder / PANEL, manifest.panel_bytes, manifest.batches, *width)
    return Mapped(folder / PANEL, opened, mapping, manifest, batches)


def open_source(folder: Path, built_from: BuiltFrom) -> NewColumns:
    """Map source.arrow read-only; its values are the `features`. `verify_source` compares them with their checksums.

    Raises InputError where the file is cut short or missing.
    """
    width = (len(built_from.columns), 0, "float32")
    _, _, batches = _mapped(folder / SOURCE, built_from.bytes, built_from.batches, *width)
    return as_columns(batches, built_from.batches)


def _mapped(
    path: Path, size: int, batches: list[BatchLayout], features: int, horizons: int, dtype: str
) -> tuple[mmap.mmap, os.stat_result, list[Columns]]:
    mapping, opened = map_file(path)
    try:
        if len(mapping) != size:
            raise ValueError(f"{len(mapping):,} bytes, not {size:,}")
        return mapping, opened, views(mapping, batches, features, horizons, dtype)
    except ValueError as error:
        raise InputError(str(path), f"does not hold what the manifest says ({error})", "Rebuild the cache") from error


def open_rows(folder: Path, manifest: Manifest) -> npt.NDArray[np.uint64]:
    """Map rows.npy: uint64 [2, W], bits of the present rows and of the samples.

    Raises InputError where the file is missing, cut short, altered or of another shape. All of it is read anyway, so
    nothing in it is looked at before it agrees with its checksums.
    """
    path = folder / ROWS
    _verify_file(path, manifest.rows_checksums, manifest.chunk_bytes)
    mapping, _ = map_file(path)
    try:
        return bits_of(mapping, manifest.rows)
    except ValueError as error:
        raise InputError(str(path), f"does not hold what the manifest says ({error})", "Rebuild the cache") from error


def checksum_of(chunk: bytes | memoryview) -> str:
    """SHA-256, first 16 hex digits."""
    return hashlib.sha256(chunk).hexdigest()[:16]


def chunk_name(number: int, chunk_bytes: int) -> str:
    """A chunk in words: its number and its bytes in the file."""
    return f"chunk {number} (bytes {number * chunk_bytes}..{(number + 1) * chunk_bytes - 1})"


def chunk_checksums(path: Path, chunk_bytes: int = CHUNK_BYTES, progress: Progress = quiet) -> list[str]:
    """SHA-256 of each `chunk_bytes` of the file, first 16 hex digits, computed by one thread per core.

    Raises InputError where it cannot be read.
    """

    def checksum(start: int) -> str:
        with open_plain(path) as file:
            file.seek(start)
            return checksum_of(file.read(chunk_bytes))

    try:
        check_plain(path)
        starts = range(0, path.stat().st_size, chunk_bytes)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(counted(pool.map(checksum, starts), len(starts), progress, "checksums"))
    except FileNotFoundError as error:
        raise InputError(str(path), "is missing", CURE) from error
    except OSError as error:
        raise refusal(path, error, CURE) from error


def write_manifest(folder: Path, manifest: Manifest, progress: Progress = quiet) -> None:
    """Measure the stored features, write rows.npy, checksum all files of rows, write the manifest; who has
    made the folder syncs them."""
    manifest.panel_bytes = (folder / PANEL).stat().st_size
    batches = open_columns(folder, manifest).batches
    manifest.stored = _measure(batches, part_of(progress, 0, 0.5))
    np.save(folder / ROWS, _bits_of_rows(batches))
    manifest.checksums = chunk_checksums(folder / PANEL, manifest.chunk_bytes, part_of(progress, 0.5, 1))
    manifest.rows_checksums = chunk_checksums(folder / ROWS, manifest.chunk_bytes)
    if manifest.built_from is not None:
        manifest.built_from.bytes = (folder / SOURCE).stat().st_size
        manifest.built_from.checksums = chunk_checksums(folder / SOURCE, manifest.chunk_bytes)
    manifest.cache_id = manifest_id(manifest)
    with (folder / MANIFEST).open("w") as file:
        json.dump(manifest.model_dump(), file)


def _bits_of_rows(batches: list[Columns]) -> npt.NDArray[np.uint64]:
    """What rows.npy holds of these rows, uint64 [2, W]."""
    present = np.concatenate([columns.presence for columns in batches])
    sample = np.concatenate([np.isfinite(columns.targets).any(1) for columns in batches]) & (present == SCORED)
    return np.stack([row_bits(present != ABSENT), row_bits(sample)])


def check_bits(mapped: Mapped) -> None:
    """Raise InputError where rows.npy does not say which rows of panel.arrow are present and which are samples."""
    if mapped.bits is not None and not np.array_equal(mapped.bits, _bits_of_rows(mapped.batches)):
        raise InputError(str(mapped.path.with_name(ROWS)), f"is not of the rows of {PANEL}", "Rebuild the cache")


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
    """Read and check the manifest of a cache folder: types and ranges of all fields, what has to hold between them, and
    that its id is that of its content.

    Raises InputError for a missing folder, a folder that is no cache, another format version or inconsistent content.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(read_plain(path))
    except FileNotFoundError as error:
        cure = "Build one with `atft-engine cache build` or `cache simulate`, or pass --arrow"
        raise InputError(str(folder), "no cache here (manifest.json is missing)", cure) from error
    except OSError as error:
        raise refusal(path, error, CURE) from error
    except RecursionError as error:
        raise InputError(str(path), "not a readable manifest (nested too deeply)", CURE) from error
    except ValueError as error:
        raise InputError(str(path), f"not a readable manifest ({error})", CURE) from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if type(version) is not int or version not in READABLE:
        what = f"format version {shorten(repr(version), 40)}, this release reads {' and '.join(map(str, READABLE))}"
        raise InputError(str(path), what, "Rebuild the cache")
    try:
        manifest = Manifest.model_validate(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = shorten(ascii(".".join(map(str, first["loc"])))[1:-1], 100)
        raise InputError(str(path), f"unexpected content in {where} ({first['msg']})", "Rebuild the cache") from error
    odd = inconsistency(manifest)
    if odd is None and manifest.cache_id != manifest_id(manifest):
        odd = "its content and its id disagree"
    if odd is not None:
        raise InputError(str(path), f"the manifest was altered: {odd}", "Rebuild the cache")
    return manifest


def verify(folder: Path, progress: Progress = quiet) -> Manifest:
    """Read every byte of a cache and compare it with the manifest; return the manifest.

    Raises InputError naming each chunk (its number and byte range) that differs.
    """
    manifest = read_manifest(folder)
    _verify_file(folder / PANEL, manifest.checksums, manifest.chunk_bytes, progress)
    mapped = open_columns(folder, manifest)
    bits = open_rows(folder, manifest)
    verify_source(folder, manifest)
    if manifest.built_from is not None:
        open_source(folder, manifest.built_from)
    expected = [(batch.features, batch.targets, batch.presence) for batch in manifest.batches]
    try:
        found = arrow_offsets(mapped.mapping)
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        AttributeError,
        LookupError,
        TypeError,
    ) as error:  # in spite of its checksums
        raise InputError(str(folder / PANEL), f"is no panel ({error})", "Rebuild the cache") from error
    if found != expected:
        what = "its record batches are not where the manifest says"
        raise InputError(str(folder / PANEL), what, "Rebuild the cache")
    check_bits(replace(mapped, bits=bits))
    return manifest


def verify_source(folder: Path, manifest: Manifest) -> None:
    """Read all of source.arrow; nothing where none is kept. Raises InputError where it differs from its checksums."""
    if manifest.built_from is not None:
        _verify_file(folder / SOURCE, manifest.built_from.checksums, manifest.chunk_bytes)


def _verify_file(path: Path, checksums: list[str], size: int, progress: Progress = quiet) -> None:
    found = chunk_checksums(path, size, progress)
    if len(found) != len(checksums):
        raise InputError(str(path), f"{len(found)} chunks, the manifest lists {len(checksums)}", "Rebuild the cache")
    bad = [i for i, (a, b) in enumerate(zip(found, checksums, strict=True)) if a != b]
    if bad:
        names = ", ".join(chunk_name(i, size) for i in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise InputError(str(path), f"checksum differs in {names}{more}", CURE)
