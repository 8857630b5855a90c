"""torchsort: soft ranks as a projection on the permutahedron (Blondel et al. 2020), C++ on CPUs and CUDA kernels.

Its definition is not ours; its complexity and its use are. On CUDA where it was built with its extension, else on the
CPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

from torch import Tensor

from bench.workloads.ranking import CPU, Ranking, Sections, with_gradients

TASK = "soft_rank"
NEEDS = ("torchsort",)
BLOCKS = 2
STRENGTH = 2.6  # over N: soft ranks of normal scores are then about as far from their ranks as ours at TAU


@contextmanager
def build(work: Ranking) -> Iterator[Ranking]:
    """Supports no masks."""
    yield replace(work, masked=False, device=work.device if find_spec("torchsort.isotonic_cuda") else CPU)


def run(work: Ranking, blocks: list[Sections]) -> Iterator[tuple[Tensor, ...]]:
    """Yield, for each block, ranks and gradient, [G, N] each."""
    from torchsort import soft_rank

    ranks = partial(soft_rank, regularization_strength=STRENGTH / work.names)
    for block in blocks:
        yield with_gradients(ranks, block.scores, upstream=block.upstream)
