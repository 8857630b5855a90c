"""What the rivals that deliver a day of windows at a time share.

D scored days of a block, S codes, L context, T = D + L - 1 days read, F features, H horizons
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from loaders.cache.format import SCORED
from loaders.gather import Batch
from loaders.panel import Panel
from loaders.plan import Block
from loaders.split import Days


def each_day(blocks: list[Block], days: int) -> list[Block]:
    """The blocks cut into their days, in order: each a block of a single day."""
    return [Block(block.day + d, block.codes) for block in blocks for d in range(days)]


def windows(batch: Batch, context: int) -> Iterator[Batch]:
    """The days of a block: x [S, L, F], presence [S, L], y [S, 1, H], each in memory of its own.

    That is what a model that scores window by window is fed with. Copied by torch, on its threads.
    """
    x, presence, y = torch.from_numpy(batch.x), torch.from_numpy(batch.presence), torch.from_numpy(batch.y)
    for d in range(y.shape[1]):
        span = slice(d, d + context)
        arrays = (x[:, span].contiguous(), presence[:, span].contiguous(), y[:, d : d + 1].contiguous())
        day = Block(batch.block.day + d, batch.block.codes)
        yield Batch(arrays[0].numpy(), arrays[1].numpy(), arrays[2].numpy(), day)


def code_and_day(panel: Panel) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of each of the panel's rows: its code and its calendar day."""
    code = np.repeat(np.arange(len(panel.days)), panel.days)
    return code, np.arange(len(code)) - panel.offset[code] + panel.first[code]


def labels(panel: Panel, part: Days) -> npt.NDArray[np.float32]:
    """[rows, H] the targets as a data set for one part holds them: NaN where a row is not scored in that part."""
    day = code_and_day(panel)[1]
    scored = (panel.presence == SCORED) & (day >= part.start) & (day < part.stop)
    return np.where(scored[:, None], panel.targets, np.float32(np.nan))
