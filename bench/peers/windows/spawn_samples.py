"""PyTorch DataLoader, 2 spawn workers, sample by sample: `inline_samples` with the work done in other processes.

The usual way to make such a loader faster. Each worker collates whole batches, the samples of a day, in shared
memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from bench.peers.blocks._dataloader import WORKERS, State
from bench.peers.windows._samples import deliver, start
from bench.workloads.arrays import Arrays
from bench.workloads.loading import Loading
from loaders.plan import Block

TASK = "gather"
NEEDS = ("torch",)
BLOCKS = 1


@contextmanager
def build(work: Loading) -> Iterator[State]:
    """Workers that collate the samples of a day."""
    yield start(work, WORKERS)


def run(state: State, blocks: list[Block]) -> Iterator[Arrays]:
    """Yield, for each block, a batch for each of its days: x [S, L, F], presence [S, L], y [S, 1, H]."""
    yield from deliver(state, blocks)
