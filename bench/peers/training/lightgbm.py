"""LightGBM as `atft-engine baseline` fits it: boosted trees, a model per horizon, stopped early."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from bench.workloads.fitting import Fitting
from engine.rivals.fit import run_baseline
from engine.rivals.options import Options

TASK = "fit"
NEEDS = ("lightgbm",)
BLOCKS = 1


@contextmanager
def build(work: Fitting) -> Iterator[Fitting]:
    """Nothing to prepare: `run` makes the data set from the panel's rows, which is timed."""
    yield work


def run(work: Fitting, seeds: list[int]) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    """Yield, for each seed, the scores [N, H] of the parts "valid" and "test"."""
    for seed in seeds:
        yield run_baseline(work.panel, work.split, "lightgbm", Options(seed=seed))
