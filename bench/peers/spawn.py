"""PyTorch DataLoader, 2 spawn workers, day batches of windows: the codes of one day times their last L rows.

This is how a model that scores window by window is fed. It delivers the same samples as a block of ours, so time for
time the comparison is fair, but it has to move every row L times: that is the point of blocks. `spawn_blocks` is the
same loader relieved of that work.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from bench.peers._dataloader import WORKERS, State, deliver, start
from bench.peers._windows import each_day
from bench.source import Work
from loaders.gather import Batch
from loaders.plan import Block

TASK = "gather"
NEEDS = ("torch",)
BLOCKS = 2


@contextmanager
def build(work: Work) -> Iterator[State]:
    """Workers that deliver blocks of a single day."""
    yield start(work, 1, WORKERS)


def run(state: State, blocks: list[Block]) -> Iterator[Batch]:
    """Yield, for each block, a batch for each of its days: x [S, L, F], presence [S, L], y [S, 1, H]."""
    yield from deliver(state, each_day(blocks, state.work.days))
