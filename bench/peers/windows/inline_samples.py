"""PyTorch DataLoader without workers, sample by sample: the Dataset maps one (code, day), the loader collates.

Most tutorials and most panel projects begin like this. A batch is one day's samples, so it equals a batch of `inline`
value for value; see `_samples` for its optimisations.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from bench.peers.blocks._dataloader import State
from bench.peers.windows._samples import deliver, start
from bench.workloads.arrays import Arrays
from bench.workloads.loading import Loading
from loaders.plan import Block

TASK = "gather"
NEEDS = ("torch",)
BLOCKS = 1


@contextmanager
def build(work: Loading) -> Iterator[State]:
    """A loader of samples, on the open panel."""
    yield start(work, workers=0)


def run(state: State, blocks: list[Block]) -> Iterator[Arrays]:
    """Yield, for each block, a batch for each of its days: x [S, L, F], presence [S, L], y [S, 1, H]."""
    yield from deliver(state, blocks)
