"""Our own model trained on windows: a sample is its last L days, and the model scores the last of them.

The usual training of sequence models on such panels. The weights, samples, cross-sections, objective and optimizer
step are those of ours; but each day of a code is encoded in every window that contains it, up to L times. On a GPU it
is compiled, like ours. Its time includes cutting the windows out of the block: a copy, about 1% of the step.

N windows, L context, F features, H horizons, Q quantile levels
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bench.peers.training._accumulate import Forward, State, start, steps, windows
from bench.workloads.arrays import Arrays
from bench.workloads.training import Training

TASK = "train"
NEEDS = ("torch",)
BLOCKS = 1


@contextmanager
def build(work: Training) -> Iterator[State]:
    """The model with our initial weights."""
    model = work.model()
    yield start(work, model, forward(model), compiled=work.device.type == "cuda")


def run(state: State, blocks: list[Arrays]) -> Iterator[Tensor]:
    """Yield, for each block, its loss []."""
    yield from steps(state, blocks)


def forward(model: nn.Module) -> Forward:
    """Windows as a block of one day each."""

    def scored(x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        scores, quantiles = model(x, present)
        return scores[:, 0], quantiles[:, 0]

    return scored


@torch.no_grad()
def scores(model: nn.Module, block: Arrays) -> Tensor:
    """Scores of a block by its windows, [S, D, H]."""
    parts = windows(block, block.x.shape[1] - block.y.shape[1] + 1, 1)
    return torch.stack([forward(model)(part.x, (part.presence > 0).float())[0] for part in parts], 1)
