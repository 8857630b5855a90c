"""An opened cache, or several as one: the manifest and views on the rows, nothing copied.

T days, S codes, F features, H horizons
"""

import math
import os
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from loaders.cache.columns import ALIGNMENT, Columns, one_column
from loaders.cache.format import Manifest, Mapped, open_columns, open_rows
from loaders.cache.remote import is_url, local_copy
from loaders.cache.rows import RowSet, row_set
from loaders.cache.shards import read_manifests
from loaders.errors import InputError, check_path
from loaders.progress import Progress, quiet

STORE = "~/.cache/atft-engine"

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Panel:
    """The rows of a cache, code by code and day by day: row(code s, day t) = offset[s] + t - first[s]."""

    folder: Path
    manifest: Manifest
    files: tuple[Mapped, ...]  # of each shard
    starts: Int  # first row of each batch of each file
    offset: Int  # [S] row of each code's first day
    first: Int  # [S] calendar index of that day
    days: Int  # [S] days in the code's span
    address: Int  # [3, S] where the row of that day lies in memory: its features, targets and presence
    calendar: npt.NDArray[np.datetime64]  # [T] datetime64[D]
    present: RowSet  # rows that are not absent
    samples: RowSet  # scored rows with a target for at least one horizon

    @cached_property
    def features(self) -> npt.NDArray[Any]:
        """[rows, F] float16 or float32, a read-only view on the file (of several batches or shards: a `RowColumn`)."""
        return self._column("features")

    @cached_property
    def targets(self) -> npt.NDArray[np.float32]:
        """[rows, H], NaN = no target."""
        return self._column("targets")

    @cached_property
    def presence(self) -> npt.NDArray[np.uint8]:
        """[rows], ABSENT, CONTEXT or SCORED."""
        return self._column("presence")

    def _column(self, name: str) -> Any:
        return one_column([getattr(columns, name) for columns in self.batches], self.starts)

    @property
    def batches(self) -> list[Columns]:
        """The record batches of all files."""
        return [columns for file in self.files for columns in file.batches]

    @cached_property
    def spans(self) -> Int:
        """[5, S]: `address`, `first` and `days` of each code in one array."""
        return np.concatenate([self.address, self.first[None], self.days[None]])

    def moved(self, pieces: Iterable[tuple[int, int, int]]) -> Int:
        """`address` once memory has moved: pieces (old address, bytes, new address) that hold rows."""
        address = self.address.copy()
        for old, nbytes, new in pieces:
            here = (self.address >= old) & (self.address < old + nbytes)
            address[here] += new - old
        return address

    @property
    def half(self) -> bool:
        """Whether features are stored as float16, and widened when they are gathered."""
        return self.manifest.dtype == "float16"

    @property
    def nbytes(self) -> int:
        """Bytes of features, targets and presence."""
        return sum(c.features.nbytes + c.targets.nbytes + c.presence.nbytes for c in self.batches)

    def rows_of(self, code: int, start: int, stop: int) -> slice:
        """The rows of one code on the calendar days start..stop-1, clipped to its span."""
        low = min(max(start - self.first[code], 0), self.days[code])
        high = min(max(stop - self.first[code], 0), self.days[code])
        return slice(int(self.offset[code] + low), int(self.offset[code] + high))

    def code_of(self, rows: Int) -> Int:
        """The code's number of each row, int64 [N]."""
        return self._by_offset[np.searchsorted(self.offset[self._by_offset], rows, "right") - 1]

    @cached_property
    def _by_offset(self) -> Int:
        return np.argsort(self.offset)

    def count(self, rows: RowSet, codes: Int | slice, start: int, stop: int) -> Int:
        """How many rows of a set each of the codes has on the days start..stop-1, int64 [codes]."""
        offset, first, days = self.offset[codes], self.first[codes], self.days[codes]
        low = offset + np.clip(start - first, 0, days)
        high = offset + np.clip(stop - first, 0, days)
        return rows.between(low, high)

    def codes_with(self, rows: RowSet, start: int, stop: int) -> Int:
        """Codes, ascending, with a row of a set on the days start..stop-1."""
        return np.flatnonzero(self.count(rows, slice(None), start, stop))

    def check_unchanged(self) -> None:
        """Raise InputError where a file of rows was replaced, cut or written to since the panel was opened.

        Asks the file system for each file's size and time of change, a few microseconds; reads no row.
        """
        for file in self.files:
            path, opened = file.path, file.opened
            try:
                now = os.stat(path)
            except OSError:
                continue  # unlinked or renamed: the mapping keeps the rows as they were
            same_file = (now.st_dev, now.st_ino) == (opened.st_dev, opened.st_ino)
            if same_file and (now.st_size, now.st_mtime_ns) != (opened.st_size, opened.st_mtime_ns):
                what = f"changed while in use ({opened.st_size:,} bytes on opening, {now.st_size:,} now)"
                raise InputError(str(path), what, "Check it with `atft-engine cache verify`, then resume")

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features, targets and presence of a single cache as torch tensors on the same memory: never write to them."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable.*")
            return torch.from_numpy(self.features), torch.from_numpy(self.targets), torch.from_numpy(self.presence)


def open_panel(where: str | Path, store: str | Path = STORE, progress: Progress = quiet) -> Panel:
    """Open a cache folder, or a folder of caches as one panel; costs milliseconds at any size.

    Args:
        where: a folder, or a URL (see `loaders.cache.remote`), of which a local copy is opened.
        store: folder of such copies.
        progress: of copying.

    Raises InputError where the folder is no cache, is of another format version, or was altered or cut short, and
    where shards do not fit together.
    """
    folder = Path(where)
    if is_url(str(where)):
        folder = local_copy(str(where), _store(store), partial(print, file=sys.stderr), progress)
    else:
        check_path(where, "data.arrow")
    folders, manifests, manifest = read_manifests(folder)
    bits = [open_rows(path, each) for path, each in zip(folders, manifests, strict=True)]
    files = tuple(
        replace(open_columns(path, each), bits=own) for path, each, own in zip(folders, manifests, bits, strict=True)
    )

    # A shard begins at a multiple of 64 rows, so that the bits of several are theirs one after the other.
    padded = [math.ceil(each.rows / ALIGNMENT) * ALIGNMENT for each in manifests]
    shards = np.cumsum([0, *padded[:-1]]).astype(np.int64)
    joint = bits[0] if len(bits) == 1 else np.concatenate([*(b[:, :-1] for b in bits), np.zeros((2, 1), np.uint64)], 1)
    offset, address, starts = [], [], []
    for shard, file, each in zip(shards, files, manifests, strict=True):
        days = np.array(each.days, np.int64)
        local = np.cumsum(days) - days  # row of each code's first day, in its shard
        of_batch = np.cumsum([0, *(batch.rows for batch in each.batches)])
        for columns, first, stop in zip(file.batches, of_batch, of_batch[1:], strict=False):
            address.append(_addresses(columns, local[(local >= first) & (local < stop)] - first))
        starts += [shard + first for first in of_batch[:-1]]
        offset.append(shard + local)
    rows, addresses = np.concatenate(offset), np.concatenate(address, 1)
    if len(folders) > 1:
        order = np.argsort(np.concatenate([each.codes for each in manifests]))
        rows, addresses = rows[order], np.ascontiguousarray(addresses[:, order])
    return Panel(
        folder=folder,
        manifest=manifest,
        files=files,
        starts=np.array(starts, np.int64),
        offset=rows,
        first=np.array(manifest.first, np.int64),
        days=np.array(manifest.days, np.int64),
        address=addresses,
        calendar=np.array(manifest.calendar, "datetime64[D]"),
        present=row_set(joint[0]),
        samples=row_set(joint[1]),
    )


def _store(folder: str | Path) -> Path:
    """The folder of copies, ~ for a home. Raises InputError where there is no such home, or no such path."""
    try:
        path = Path(folder).expanduser()
    except RuntimeError as error:
        raise InputError(
            "data.store", f"{str(folder)!r} begins with a home that is not known", "Write a path"
        ) from error
    check_path(path, "data.store")
    return path


def _addresses(columns: Columns, rows: Int) -> Int:
    return np.stack(
        [a.ctypes.data + rows * a.strides[0] for a in (columns.features, columns.targets, columns.presence)]
    )
