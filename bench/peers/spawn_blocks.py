"""PyTorch DataLoader, 2 spawn workers, fed with our own blocks: the same arrays, so the machinery alone is compared.

Stricter than what its users run (`spawn`): the idea of blocks is lent to the rival, and what remains is forming a
block with torch in another process and handing it over through shared memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from bench.peers._dataloader import WORKERS, State, deliver, start
from bench.source import Work
from loaders.gather import Batch
from loaders.plan import Block

TASK = "gather"
NEEDS = ("torch",)
BLOCKS = 24


@contextmanager
def build(work: Work) -> Iterator[State]:
    """Workers that deliver whole blocks."""
    yield start(work, work.days, WORKERS)


def run(state: State, blocks: list[Block]) -> Iterator[Batch]:
    """Yield, for each block, x [S, T, F], presence [S, T], y [S, D, H]."""
    yield from deliver(state, blocks)
