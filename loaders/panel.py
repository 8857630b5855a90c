"""An opened cache: the manifest and views on its rows, nothing copied.

T days, S codes, F features, H horizons
"""

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from loaders.cache.format import SCORED, Manifest, open_columns, read_manifest


@dataclass(frozen=True)
class Panel:
    """The rows of a cache, code by code and day by day: row(code s, day t) = offset[s] + t - first[s]."""

    folder: Path
    manifest: Manifest
    features: npt.NDArray[Any]  # [rows, F] float16 or float32, a read-only view on the file
    targets: npt.NDArray[np.float32]  # [rows, H], NaN = no target
    presence: npt.NDArray[np.uint8]  # [rows], ABSENT, CONTEXT or SCORED
    offset: npt.NDArray[np.int64]  # [S] row of each code's first day
    first: npt.NDArray[np.int64]  # [S] calendar index of that day
    days: npt.NDArray[np.int64]  # [S] days in the code's span
    calendar: npt.NDArray[np.datetime64]  # [T] datetime64[D]

    @cached_property
    def samples_before(self) -> npt.NDArray[np.int64]:
        """int64 [rows + 1]: samples (scored rows with a valid target) among the first r rows."""
        valid = (self.presence == SCORED) & np.isfinite(self.targets).any(1)
        return np.concatenate([[0], np.cumsum(valid)])

    @cached_property
    def present_before(self) -> npt.NDArray[np.int64]:
        """int64 [rows + 1]: rows that are not absent among the first r rows."""
        return np.concatenate([[0], np.cumsum(self.presence != 0)])

    def rows_of(self, code: int, start: int, stop: int) -> slice:
        """The rows of one code on the calendar days start..stop-1, clipped to its span."""
        low = min(max(start - self.first[code], 0), self.days[code])
        high = min(max(stop - self.first[code], 0), self.days[code])
        return slice(int(self.offset[code] + low), int(self.offset[code] + high))

    def codes_with(self, before: npt.NDArray[np.int64], start: int, stop: int) -> npt.NDArray[np.int64]:
        """Codes, ascending, with a row counted by `before`, one of the running counts, on the days start..stop-1."""
        low = self.offset + np.clip(start - self.first, 0, self.days)
        high = self.offset + np.clip(stop - self.first, 0, self.days)
        return np.flatnonzero(before[high] > before[low])

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features, targets and presence as torch tensors on the same, read-only memory: never write to them."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable.*")
            return torch.from_numpy(self.features), torch.from_numpy(self.targets), torch.from_numpy(self.presence)


def open_panel(folder: Path) -> Panel:
    """Open a cache folder; costs milliseconds at any size.

    Raises InputError where the folder is no cache, is of another format version, or was altered or cut short.
    """
    manifest = read_manifest(folder)
    columns = open_columns(folder, manifest)
    days = np.array(manifest.days, np.int64)
    return Panel(
        folder=folder,
        manifest=manifest,
        features=columns.features,
        targets=columns.targets,
        presence=columns.presence,
        offset=np.concatenate([[0], np.cumsum(days)[:-1]]).astype(np.int64),
        first=np.array(manifest.first, np.int64),
        days=days,
        calendar=np.array(manifest.calendar, "datetime64[D]"),
    )
