"""Features of many rows, a day's after another, as regressions over days and risk factors read them.

Rows lie code by code, so a day's rows are spread over the whole file. Read as they come, a panel that memory does not
hold would be read anew for almost every day: the kernel reads megabytes around each row. So some days are read at a
time, in the order of the file, after the kernel was advised of exactly their runs.

F features, N rows, D days
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from loaders.panel import Int, Panel
from loaders.tiers.readahead import advise_rows, read_ahead

MOST_BYTES = 256 << 20  # that are read at a time


def features_by_day(panel: Panel, rows: Int, borders: Int, most_bytes: int = MOST_BYTES) -> Iterator[npt.NDArray[Any]]:
    """Features [n, F] of each day's rows, as stored.

    Args:
        rows: [N] ordered by day.
        borders: [D + 1] place of each day's first row among them.
        most_bytes: of features that are in memory at a time, a day's at least.
    """
    row_bytes = len(panel.manifest.features) * np.dtype(panel.manifest.dtype).itemsize
    day, days = 0, len(borders) - 1
    if not read_ahead(panel)[0]:
        for start, end in pairwise(borders):
            yield panel.features[rows[start:end]]  # a day's rows stay in the processor's caches until they are used
        return
    while day < days:
        stop = int(np.searchsorted(borders, borders[day] + most_bytes // row_bytes, "right")) - 1
        stop = min(max(stop, day + 1), days)
        mine = rows[borders[day] : borders[stop]]
        order = np.argsort(mine)
        in_order = mine[order]
        advise_rows(panel, in_order)
        features = np.empty((len(mine), len(panel.manifest.features)), panel.manifest.dtype)
        features[order] = panel.features[in_order]
        for start, end in zip(borders[day:stop], borders[day + 1 : stop + 1], strict=True):
            yield features[start - borders[day] : end - borders[day]]
        day = stop
