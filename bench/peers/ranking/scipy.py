"""SciPy's `spearmanr`, a cross-section at a time: the usual way to compute daily rank correlations."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.workloads.ranking import CPU, Ranking, Sections

TASK = "spearman"
NEEDS = ("scipy",)
BLOCKS = 1


@contextmanager
def build(work: Ranking) -> Iterator[Ranking]:
    """Works in NumPy."""
    yield replace(work, device=CPU)


def run(_work: Ranking, blocks: list[Sections]) -> Iterator[npt.NDArray[Any]]:
    """Yield, for each block, the correlations of scores and targets, [G] float64."""
    from scipy.stats import spearmanr

    for block in blocks:
        rows = zip(block.scores.numpy(), block.targets.numpy(), block.mask.numpy(), strict=True)
        yield np.array([spearmanr(a[valid], b[valid]).statistic for a, b, valid in rows])
