"""PyTorch's DataLoader on whole blocks: workers, or none, that form each with torch.

Workers are used as well as its users use them: they map the cache themselves (only the order is pickled), stay alive
between passes, send whole batches through shared memory, and have read every page of the cache before the clock runs.
Without workers the DataLoader calls the same code in the caller's process.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler

from bench.workloads.arrays import Arrays, form
from bench.workloads.loading import Loading, touch
from loaders.panel import Panel, open_panel
from loaders.plan import Block
from loaders.split import Days

WORKERS = 2


@dataclass
class Blocks(Dataset[Arrays]):
    """Maps a block to its arrays; a worker opens the panel at its first block."""

    folder: Path
    part: Days
    days: int
    context: int
    panel: Panel | None = None

    def __getitem__(self, block: Block) -> Arrays:
        if self.panel is None:
            self.panel = open_panel(self.folder)
            touch(self.panel)
        return form(self.panel, self.part, block, self.days, self.context)


@dataclass
class Order(Sampler[Any]):
    """The items of the next pass."""

    items: list[Any] = field(default_factory=list)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class State:
    work: Loading
    order: Order
    loader: DataLoader[Any]


def processes(workers: int) -> dict[str, Any]:
    """The DataLoader's settings for that many workers; 0: the caller's process."""
    if not workers:
        return {"num_workers": 0}
    return {"num_workers": workers, "multiprocessing_context": "spawn", "persistent_workers": True}


def start(work: Loading, days: int, workers: int) -> State:
    """A loader of blocks of `days` scored days; workers start with the first pass and end with the state."""
    order = Order()
    dataset = Blocks(work.panel.folder, work.part, days, work.context, None if workers else work.panel)
    return State(work, order, DataLoader(dataset, batch_size=None, sampler=order, **processes(workers)))


def deliver(state: State, blocks: list[Block]) -> Iterator[Arrays]:
    """The arrays of the blocks, in their order."""
    state.order.items = blocks
    yield from state.loader
