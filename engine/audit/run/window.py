"""Some days of a panel as a panel in memory, as it is or with everything changed that was not known on a day.

N rows, F features, H horizons
"""

import mmap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loaders.cache.columns import Columns
from loaders.cache.format import ABSENT, CONTEXT, SCORED, Mapped
from loaders.cache.rows import row_bits, row_set
from loaders.panel import Int, Panel

CHANGED = 0.1  # share of later rows that are there where they were not, or the other way round


@dataclass(frozen=True)
class Window:
    """Rows of consecutive days of a panel, some of its codes."""

    panel: Panel
    start: int  # calendar index of its first day
    codes: Int  # [S]
    first: Int  # [S] day of the window on which each code begins
    days: Int  # [S]
    day: Int  # [N] day of the window of each row
    features: npt.NDArray[Any]  # [N, F]
    targets: npt.NDArray[np.float32]  # [N, H]
    presence: npt.NDArray[np.uint8]  # [N]

    def in_memory(self) -> Panel:
        """The window as a panel: its calendar begins with its first day."""
        old = self.panel.manifest
        stop = self.start + int((self.first + self.days).max())
        manifest = old.model_copy(
            update={
                "calendar": old.calendar[self.start : stop],
                "codes": [old.codes[s] for s in self.codes],
                "first": self.first.tolist(),
                "days": self.days.tolist(),
                "rows": len(self.day),
            }
        )
        offset = np.cumsum(self.days) - self.days
        arrays = tuple(np.ascontiguousarray(each) for each in (self.features, self.targets, self.presence))
        sample = np.isfinite(self.targets).any(1) & (self.presence == SCORED)
        nowhere = Path("/nonexistent") / self.panel.folder.name  # no file, so none that can change
        file = Mapped(nowhere, self.panel.files[0].opened, mmap.mmap(-1, 1), manifest, [Columns(*arrays)])
        return Panel(
            folder=self.panel.folder,
            manifest=manifest,
            files=(file,),
            starts=np.zeros(1, np.int64),
            offset=offset,
            first=self.first,
            days=self.days,
            address=np.stack([each.ctypes.data + offset * each.strides[0] for each in arrays]),
            calendar=self.panel.calendar[self.start : stop],
            present=row_set(row_bits(self.presence != ABSENT)),
            samples=row_set(row_bits(sample)),
        )

    def unknown_changed(self, day: int, rng: np.random.Generator) -> "Window":
        """The same with everything changed that was not known at the close of a day of the calendar.

        Features of later days change places, a tenth of the later rows of codes that are there on the day come or go,
        the universe of later days changes, and so do labels that end later. Codes that are not there on the day stay as
        they are in number and days, so that scores are computed in arrays of the same shape.
        """
        here = day - self.start
        later = np.flatnonzero((self.day > here) & (self.presence != ABSENT))
        features, targets, presence = self.features.copy(), self.targets.copy(), self.presence.copy()
        features[later] = features[rng.permutation(later)]
        for i, h in enumerate(self.panel.manifest.horizons):
            ends_later = np.flatnonzero(self.day + h + self.panel.manifest.known_after > here)
            targets[ends_later, i] = -3 * targets[rng.permutation(ends_later), i] + 0.01
        presence[later] = np.where(rng.random(len(later)) < 0.5, SCORED, CONTEXT)
        code = np.repeat(np.arange(len(self.codes)), self.days)
        there = np.isin(code, code[(self.day == here) & (self.presence != ABSENT)])
        moved = np.flatnonzero(there & (self.day > here) & (rng.random(len(code)) < CHANGED))
        presence[moved] = np.where(self.presence[moved] == ABSENT, SCORED, ABSENT)
        features[presence == ABSENT] = 0
        return replace(self, features=features, targets=targets, presence=presence)


def window_of(panel: Panel, start: int, stop: int, most_values: int) -> Window:
    """The days start..stop-1 of a panel, of codes with a row then, evenly so many that they have `most_values`."""
    codes = panel.codes_with(panel.present, start, stop)
    most = max(most_values // ((stop - start) * max(len(panel.manifest.features), 1)), 50)
    codes = codes[np.unique(np.linspace(0, len(codes) - 1, min(most, len(codes))).round().astype(np.int64))]
    low = np.maximum(panel.first[codes], start)
    days = np.minimum(panel.first[codes] + panel.days[codes], stop) - low
    offset = np.cumsum(days) - days
    day = np.arange(int(days.sum())) - np.repeat(offset, days) + np.repeat(low, days)
    rows = np.repeat(panel.offset[codes] - panel.first[codes], days) + day
    return Window(
        panel, start, codes, low - start, days, day - start,
        np.array(panel.features[rows]), np.array(panel.targets[rows]), np.array(panel.presence[rows]),
    )  # fmt: skip
