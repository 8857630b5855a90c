"""Our own model trained on windows: every sample brings its own last L days, and the model scores the last of them.

How sequence models on such panels are trained. Same weights, same samples, same objective on the same cross-sections,
same optimizer step; only that each day of a code is encoded in every window that it lies in, up to L times. On a GPU it
is compiled, as ours is. Cutting the windows out of the block is timed too: a copy, about a hundredth of the step.

N windows, L context, F features, H horizons, Q quantile levels
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from bench.peers._accumulate import Forward, State, start, steps, windows
from bench.training import Arrays, Training
from engine.model.atft import ATFT

TASK = "train"
NEEDS = ("torch",)
BLOCKS = 1


@contextmanager
def build(work: Training) -> Iterator[State]:
    """The model as ours begins with it."""
    model = work.model()
    yield start(work, model, forward(model), compiled=work.device.type == "cuda")


def run(state: State, blocks: list[Arrays]) -> Iterator[Tensor]:
    """Yield, for each block, its loss []."""
    yield from steps(state, blocks)


def forward(model: ATFT) -> Forward:
    """Windows as a block of one day each."""

    def scored(x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        scores, quantiles = model(x, present)
        return scores[:, 0], quantiles[:, 0]

    return scored


@torch.no_grad()
def scores(model: ATFT, block: Arrays) -> Tensor:
    """Scores of a block by its windows, [S, D, H]."""
    parts = windows(block, model.context, 1)
    return torch.stack([forward(model)(part.x, (part.presence > 0).float())[0] for part in parts], 1)
