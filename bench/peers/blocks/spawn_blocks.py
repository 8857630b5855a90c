"""PyTorch DataLoader, 2 spawn workers, with our own blocks: the same arrays, so the machinery alone is compared.

A stricter comparison than with its usual form (`spawn`): the peer uses blocks too. It differs from ours in that torch
forms a block in another process and passes it through shared memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from bench.peers.blocks._dataloader import WORKERS, State, deliver, start
from bench.workloads.arrays import Arrays
from bench.workloads.loading import Loading
from loaders.plan import Block

TASK = "gather"
NEEDS = ("torch",)
BLOCKS = 24


@contextmanager
def build(work: Loading) -> Iterator[State]:
    """Workers that deliver whole blocks."""
    yield start(work, work.days, WORKERS)


def run(state: State, blocks: list[Block]) -> Iterator[Arrays]:
    """Yield, for each block, x [S, T, F], presence [S, T], y [S, D, H]."""
    yield from deliver(state, blocks)
