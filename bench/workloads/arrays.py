"""The arrays of a block and of its windows, by the definition of the cache format, in torch.

Benchmarks and tests check the gather against `form`; peers build what they deliver from these functions.

S codes, D scored days, L context, T = D + L - 1 days read, F features, H horizons
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from loaders.cache.format import SCORED
from loaders.panel import Int, Panel
from loaders.plan import Block
from loaders.split import Days


class Arrays(NamedTuple):
    """A block, or a day of windows, where T = L and D = 1."""

    x: Tensor  # [S, T, F] float32, 0 where a row is absent
    presence: Tensor  # [S, T] uint8
    y: Tensor  # [S, D, H] float32, NaN where there is no target


def form(panel: Panel, part: Days, block: Block, days: int, context: int) -> Arrays:
    """The arrays of a block of D scored `days`, by an index of rows and torch's `index_select`.

    That is the fastest way to collect rows without a kernel of one's own: twice as fast as NumPy's indexing or a slice
    per code for float32, and five times for float16.
    """
    codes = block.codes[:, None]
    day = block.day - context + 1 + np.arange(days + context - 1)  # [T]
    position = day - panel.first[codes]  # [S, T] within the code's span
    inside = (position >= 0) & (position < panel.days[codes])
    rows = torch.from_numpy(np.where(inside, panel.offset[codes] + position, 0))

    def take(column: Tensor, rows: Tensor) -> Tensor:
        return column.index_select(0, rows.flatten()).unflatten(0, rows.shape)

    features, targets, presences = panel.tensors()
    arrays = Arrays(take(features, rows).float(), take(presences, rows), take(targets, rows[:, context - 1 :]))
    x, presence, y = (array.numpy() for array in arrays)
    x[~inside] = 0
    presence[~inside] = 0
    scored_day = (day >= part.start) & (day < part.stop)
    y[~(scored_day & (presence == SCORED))[:, context - 1 :]] = np.nan
    return arrays


def each_day(blocks: list[Block], days: int) -> list[Block]:
    """The blocks cut into their days, in order: each a block of a single day."""
    return [Block(block.day + d, block.codes) for block in blocks for d in range(days)]


def windows(block: Arrays, context: int) -> Iterator[Arrays]:
    """The days of a block as windows, each in memory of its own: x [S, L, F], presence [S, L], y [S, 1, H].

    A model that scores window by window takes these as input. Copied by torch, on its threads.
    """
    for d in range(block.y.shape[1]):
        span = slice(d, d + context)
        x, presence, y = block.x[:, span], block.presence[:, span], block.y[:, d : d + 1]
        yield Arrays(x.contiguous(), presence.contiguous(), y.contiguous())


def code_and_day(panel: Panel) -> tuple[Int, Int]:
    """The code and the calendar day of each of the panel's rows, int64 [rows]."""
    code = np.repeat(np.arange(len(panel.days)), panel.days)
    return code, np.arange(len(code)) - panel.offset[code] + panel.first[code]


def labels(panel: Panel, part: Days) -> npt.NDArray[np.float32]:
    """Targets [rows, H] as a data set for one part holds them: NaN where a row is not scored in that part."""
    day = code_and_day(panel)[1]
    scored = (panel.presence == SCORED) & (day >= part.start) & (day < part.stop)
    return np.where(scored[:, None], panel.targets, np.float32(np.nan))
