"""Qlib's `TSDataSampler`, the sampler behind its sequence models: a day's windows of `step_len` = L by their indices.

It is called for whole days, like Qlib's daily batches, and by sample number, which is much faster than by (date,
code). Its table has a row for every code on every day that a block can reach: for Qlib an absent row would be no
sample, for us it is one without a target. So its filling of missing rows never applies.

S codes, L context, F features, H horizons
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.workloads.arrays import Arrays, code_and_day, each_day, labels
from bench.workloads.loading import Loading
from loaders.plan import Block

TASK = "gather"
NEEDS = ("qlib",)
BLOCKS = 1


@dataclass(frozen=True)
class State:
    work: Loading
    sampler: Any  # of samples code by code, and day by day within a code
    first: int  # day of each code's first sample
    days: int  # samples of each code


@contextmanager
def build(work: Loading) -> Iterator[State]:
    """A sampler of every day that a block can score, where the block overlaps the part."""
    from qlib.data.dataset import TSDataSampler

    first, stop = work.part.start - work.days + 1, work.part.stop + work.days - 1
    data = table(work, first - work.context + 1, stop)
    dates = data.index.get_level_values("datetime").unique()
    sampler = TSDataSampler(
        data=data, start=dates[work.context - 1], end=dates[-1], step_len=work.context, fillna_type="none",
        dtype=np.float32,
    )  # fmt: skip
    yield State(work, sampler, first, stop - first)


def table(work: Loading, begin: int, stop: int) -> Any:
    """A data frame of the days begin..stop-1 x all codes: features, presence, labels; zeros and NaN where absent.

    Its dates are consecutive and arbitrary: the first and the last day may lie outside the calendar.
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


def run(state: State, blocks: list[Block]) -> Iterator[Arrays]:
    """Yield, for each block, a batch for each of its days: x [S, L, F], presence [S, L], y [S, 1, H]."""
    features = state.work.panel.features.shape[1]
    for day in each_day(blocks, state.work.days):
        windows = state.sampler[day.codes * state.days + day.day - state.first]  # [S, L, F + 1 + H]
        x, presence = np.ascontiguousarray(windows[:, :, :features]), windows[:, :, features].astype(np.uint8)
        y = windows[:, -1:, features + 1 :].copy()
        yield Arrays(torch.from_numpy(x), torch.from_numpy(presence), torch.from_numpy(y))
