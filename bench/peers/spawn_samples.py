"""PyTorch DataLoader, 2 spawn workers, sample by sample: `inline_samples` with the work done in other processes.

The most usual way to make such a loader faster. Each worker collates whole batches, the samples of a day, in shared
memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from bench.peers._dataloader import WORKERS, State
from bench.peers._samples import deliver, start
from bench.source import Work
from loaders.gather import Batch
from loaders.plan import Block

TASK = "gather"
NEEDS = ("torch",)
BLOCKS = 1


@contextmanager
def build(work: Work) -> Iterator[State]:
    """Workers that collate the samples of a day."""
    yield start(work, WORKERS)


def run(state: State, blocks: list[Block]) -> Iterator[Batch]:
    """Yield, for each block, a batch for each of its days: x [S, L, F], presence [S, L], y [S, 1, H]."""
    yield from deliver(state, blocks)
