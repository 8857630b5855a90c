"""PyTorch DataLoader without workers, sample by sample: the Dataset is asked for one (code, day), the loader collates.

What most tutorials and most panel projects begin with. A batch is one day's samples, so that it equals a batch of
`inline` value for value; how well it is made, `_samples` says.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from bench.peers._dataloader import State
from bench.peers._samples import deliver, start
from bench.source import Work
from loaders.gather import Batch
from loaders.plan import Block

TASK = "gather"
NEEDS = ("torch",)
BLOCKS = 1


@contextmanager
def build(work: Work) -> Iterator[State]:
    """A loader of samples, on the panel that is open already."""
    yield start(work, workers=0)


def run(state: State, blocks: list[Block]) -> Iterator[Batch]:
    """Yield, for each block, a batch for each of its days: x [S, L, F], presence [S, L], y [S, 1, H]."""
    yield from deliver(state, blocks)
