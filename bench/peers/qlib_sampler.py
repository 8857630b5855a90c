"""Qlib's `TSDataSampler`, the sampler behind its sequence models: a day's windows of `step_len` = L by their indices.

Asked for whole days, as Qlib's daily batches do, and by number, which it answers much faster than by (date, code). The
table that it is given has a row for every code on every day that a block can touch: a code that is absent on a day
would be no sample to Qlib, and is one, without a target, to us. So none of its ways to fill missing rows comes to act.

S codes, L context, F features, H horizons
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.peers._windows import code_and_day, each_day, labels
from bench.source import Work
from loaders.gather import Batch
from loaders.plan import Block

TASK = "gather"
NEEDS = ("qlib",)
BLOCKS = 1


@dataclass(frozen=True)
class State:
    work: Work
    sampler: Any  # of samples code by code, and day by day within a code
    first: int  # day of each code's first sample
    days: int  # samples of each code


@contextmanager
def build(work: Work) -> Iterator[State]:
    """A sampler of every day that a block which overlaps the part can score."""
    from qlib.data.dataset import TSDataSampler

    first, stop = work.part.start - work.days + 1, work.part.stop + work.days - 1
    data = table(work, first - work.context + 1, stop)
    dates = data.index.get_level_values("datetime").unique()
    sampler = TSDataSampler(
        data=data, start=dates[work.context - 1], end=dates[-1], step_len=work.context, fillna_type="none",
        dtype=np.float32,
    )  # fmt: skip
    yield State(work, sampler, first, stop - first)


def table(work: Work, begin: int, stop: int) -> Any:
    """A data frame of the days begin..stop-1 x all codes: features, presence, labels; zeros and NaN where absent.

    Days are dates only in name, consecutive ones: the first and the last may lie outside the calendar.
    """
    import pandas as pd

    panel = work.panel
    code, day = code_and_day(panel)
    features, horizons = panel.features.shape[1], panel.targets.shape[1]
    grid = np.zeros((stop - begin, len(panel.days), features + 1 + horizons), np.float32)
    grid[:, :, features + 1 :] = np.nan
    held = (day >= begin) & (day < stop)
    place = day[held] - begin, code[held]
    grid[(*place, slice(features))] = panel.features[held]
    grid[(*place, features)] = panel.presence[held]
    grid[(*place, slice(features + 1, None))] = labels(panel, work.part)[held]
    dates = pd.date_range("2000-01-01", periods=stop - begin)
    index = pd.MultiIndex.from_product([dates, panel.manifest.codes], names=["datetime", "instrument"])
    return pd.DataFrame(grid.reshape(len(index), -1), index=index)


def run(state: State, blocks: list[Block]) -> Iterator[Batch]:
    """Yield, for each block, a batch for each of its days: x [S, L, F], presence [S, L], y [S, 1, H]."""
    features = state.work.panel.features.shape[1]
    for day in each_day(blocks, state.work.days):
        windows = state.sampler[day.codes * state.days + day.day - state.first]  # [S, L, F + 1 + H]
        x = np.ascontiguousarray(windows[:, :, :features])
        yield Batch(x, windows[:, :, features].astype(np.uint8), windows[:, -1:, features + 1 :].copy(), day)
