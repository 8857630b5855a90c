"""PyTorch DataLoader, 2 spawn workers, day batches of windows: the codes of one day times their last L rows.

The usual loader of models that score window by window. It delivers the same samples as a block of ours, so the
comparison per sample is fair, but it has to move every row L times: that is the point of blocks. `spawn_blocks` is the
same loader without that work.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from bench.peers.blocks._dataloader import WORKERS, State, deliver, start
from bench.workloads.arrays import Arrays, each_day
from bench.workloads.loading import Loading
from loaders.plan import Block

TASK = "gather"
NEEDS = ("torch",)
BLOCKS = 2


@contextmanager
def build(work: Loading) -> Iterator[State]:
    """Workers that deliver blocks of a single day."""
    yield start(work, 1, WORKERS)


def run(state: State, blocks: list[Block]) -> Iterator[Arrays]:
    """Yield, for each block, a batch for each of its days: x [S, L, F], presence [S, L], y [S, 1, H]."""
    yield from deliver(state, each_day(blocks, state.work.days))
