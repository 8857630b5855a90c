"""What a recipe reads: number columns of the source by row of a layout, in memory or in the cache's source.arrow.

C columns, N rows
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loaders.cache.columns import BatchLayout, create_columns
from loaders.cache.format import SOURCE, BuiltFrom, open_source
from loaders.cache.layout import Int, Layout

HERE = 1  # presence of a row that the source has


@dataclass(frozen=True)
class SourceRows:
    """Values of the source; rows that it does not have are not present."""

    names: list[str]  # [C]
    layout: Layout
    values: Any  # [N, C] float32, NaN where it is missing
    present: Any  # [N] uint8, HERE or 0
    batches: list[BatchLayout]  # of the file; in memory: none

    def put(self, rows: Int, numbers: npt.NDArray[np.float32]) -> None:
        """Set rows [n] to numbers [n, C]."""
        self.values[rows] = numbers
        self.present[rows] = HERE

    def present_by_day(self) -> Int:
        """[T] rows that the source has on each date."""
        layout, found = self.layout, np.zeros(len(self.layout.calendar), np.int64)
        for first, days, row in zip(layout.first.tolist(), layout.days.tolist(), layout.offset.tolist(), strict=True):
            found[first : first + days] += self.present[row : row + days] == HERE
        return found


def new_source(folder: Path | None, names: list[str], layout: Layout) -> SourceRows:
    """An empty source: in a folder's source.arrow; without a folder in memory."""
    if folder is None:
        values = np.full((layout.rows, len(names)), np.nan, np.float32)
        return SourceRows(names, layout, values, np.zeros(layout.rows, np.uint8), [])
    columns = create_columns(folder, layout.days, len(names), 0, "float32", SOURCE)
    return SourceRows(names, layout, columns.features, columns.presence, columns.batches)


def kept_source(folder: Path, built_from: BuiltFrom) -> SourceRows:
    """The source that a cache keeps, read-only. Raises InputError where its file is missing or cut short."""
    calendar = np.array(built_from.calendar, "datetime64[D]")
    first, days = np.array(built_from.first, np.int64), np.array(built_from.days, np.int64)
    columns = open_source(folder, built_from)
    layout = Layout(calendar, built_from.codes, first, days)
    return SourceRows(built_from.columns, layout, columns.features, columns.presence, columns.batches)
