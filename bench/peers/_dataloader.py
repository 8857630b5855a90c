"""What both DataLoader rivals share: two spawned workers that form a block's arrays with NumPy.

Made as well as its users make it: workers map the cache themselves (nothing is pickled but the order), stay alive
between passes, send whole batches through shared memory, and have read every page of the source before the clock runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from bench.source import Work, touch
from loaders.cache.format import SCORED
from loaders.gather import Batch
from loaders.panel import Panel, open_panel
from loaders.plan import Block
from loaders.split import Days

WORKERS = 2
Arrays = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def form(panel: Panel, part: Days, block: Block, days: int, context: int) -> Batch:
    """The arrays of a block, from the definition of the cache format and in plain NumPy: a slice per code."""
    span, begin = days + context - 1, block.day - context + 1
    x = np.zeros((len(block.codes), span, panel.features.shape[1]), np.float32)
    presence = np.zeros((len(block.codes), span), np.uint8)
    y = np.full((len(block.codes), span, panel.targets.shape[1]), np.nan, np.float32)
    for s, code in enumerate(block.codes):
        rows = panel.rows_of(code, begin, begin + span)
        if rows.start == rows.stop:
            continue
        low = panel.first[code] + rows.start - panel.offset[code] - begin
        high = low + rows.stop - rows.start
        x[s, low:high] = panel.features[rows]
        presence[s, low:high] = panel.presence[rows]
        y[s, low:high] = panel.targets[rows]
    y[presence != SCORED] = np.nan
    y[:, : max(part.start - begin, 0)] = np.nan
    y[:, max(part.stop - begin, 0) :] = np.nan
    return Batch(x, presence, y[:, context - 1 :], block)


@dataclass
class Blocks(Dataset[Arrays]):
    """Maps a block to its arrays; the panel is opened by the worker that is asked first."""

    folder: Path
    part: Days
    days: int
    context: int
    panel: Panel | None = None

    def __getitem__(self, block: Block) -> Arrays:
        if self.panel is None:
            self.panel = open_panel(self.folder)
            touch(self.panel)
        batch = form(self.panel, self.part, block, self.days, self.context)
        return torch.from_numpy(batch.x), torch.from_numpy(batch.presence), torch.from_numpy(batch.y)


@dataclass
class Order(Sampler[Block]):
    """The blocks of the next pass."""

    blocks: list[Block] = field(default_factory=list)

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks)

    def __len__(self) -> int:
        return len(self.blocks)


@dataclass(frozen=True)
class State:
    work: Work
    order: Order
    loader: DataLoader[Arrays]


def start(work: Work, days: int) -> State:
    """Workers that deliver blocks of `days` scored days; they start with the first pass, end with the state."""
    order = Order()
    dataset = Blocks(work.panel.folder, work.part, days, work.context)
    loader = DataLoader(
        dataset, batch_size=None, sampler=order, num_workers=WORKERS, multiprocessing_context="spawn",
        persistent_workers=True,
    )  # fmt: skip
    return State(work, order, loader)


def deliver(state: State, blocks: list[Block]) -> Iterator[Batch]:
    """The arrays of the blocks, in their order."""
    state.order.blocks = blocks
    for block, (x, presence, y) in zip(blocks, state.loader, strict=True):
        yield Batch(x.numpy(), presence.numpy(), y.numpy(), block)
