"""PyTorch DataLoader without workers, day batches of windows: `spawn` in the caller's process.

Nothing passes between processes, and torch's own threads collect the rows: the choice of users for whom workers cost
more than they gain. Each item is the codes of one day times their last L rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from bench.peers.blocks._dataloader import State, deliver, start
from bench.workloads.arrays import Arrays, each_day
from bench.workloads.loading import Loading
from loaders.plan import Block

TASK = "gather"
NEEDS = ("torch",)
BLOCKS = 2


@contextmanager
def build(work: Loading) -> Iterator[State]:
    """A loader of blocks of a single day, on the open panel."""
    yield start(work, 1, workers=0)


def run(state: State, blocks: list[Block]) -> Iterator[Arrays]:
    """Yield, for each block, a batch for each of its days: x [S, L, F], presence [S, L], y [S, 1, H]."""
    yield from deliver(state, each_day(blocks, state.work.days))
