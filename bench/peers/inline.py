"""PyTorch DataLoader without workers, day batches of windows: what `spawn` does, in the process that asks.

Nothing is handed over between processes and torch's own threads collect the rows, so this is what a user gets who has
found workers to cost more than they give. Each item is the codes of one day times their last L rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from bench.peers._dataloader import State, deliver, start
from bench.peers._windows import each_day
from bench.source import Work
from loaders.gather import Batch
from loaders.plan import Block

TASK = "gather"
NEEDS = ("torch",)
BLOCKS = 2


@contextmanager
def build(work: Work) -> Iterator[State]:
    """A loader of blocks of a single day, on the panel that is open already."""
    yield start(work, 1, workers=0)


def run(state: State, blocks: list[Block]) -> Iterator[Batch]:
    """Yield, for each block, a batch for each of its days: x [S, L, F], presence [S, L], y [S, 1, H]."""
    yield from deliver(state, each_day(blocks, state.work.days))
