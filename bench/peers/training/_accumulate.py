"""Training on windows: gradient accumulation over chunks of days, one optimizer step per block.

All windows of a block rarely fit in memory: 32 days x 512 codes x 60 days x 59 features are 0.23 GB of input, and
activations are many times as large. So the model scores a chunk of days at a time, the objective takes the chunk's
cross-sections, and gradients add up to those of the block: its loss is the mean over days, so each chunk is weighted by
its days. (The term `sharpe`, which needs all days together, is off.)

N windows of a chunk, S codes, D scored days, C days of a chunk, L context, F features, H horizons, Q quantile levels
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.workloads.arrays import Arrays
from bench.workloads.training import HORIZONS, RATE, Training
from engine.training.objective import draw_rotations, make_objective

WINDOWS = 4096  # of a chunk
# x [N, L, F], present [N, L] float 0/1 -> scores [N, H], quantiles [N, H, Q]
Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class State:
    work: Training  # that the peer supports: its blocks may have fewer days than ours
    model: nn.Module
    optimizer: torch.optim.Optimizer
    losses: Callable[[Arrays], Tensor]  # of a chunk of windows: x [N, L, F], presence [N, L], y [S, C, H] -> []
    chunk: int  # days, C


def start(work: Training, model: nn.Module, forward: Forward, *, most: int = WINDOWS, compiled: bool = False) -> State:
    """A model with the same optimizer as ours; not warmed up.

    Args:
        forward: of the model, for a chunk of windows.
        most: windows of a chunk, in whole days.
        compiled: forward and objective as one graph.
    """
    train, device = work.config.train, work.device
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=train.weight_decay, fused=True)
    objective = make_objective(work.config, HORIZONS, device)
    rotations = draw_rotations(objective, work.codes, train.seed, 0, device)

    def losses(x: Tensor, presence: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            scores, quantiles = forward(x, (presence > 0).float())
        return objective(scores.view(y.shape), quantiles.view(*y.shape, -1), y, rotations)[0]

    if compiled:
        losses = torch.compile(losses, fullgraph=True, dynamic=False)
    chunk = min(max(most // work.codes, 1), work.days)
    return State(work, model.train(), optimizer, lambda part: losses(part.x, part.presence, part.y), chunk)


def windows(block: Arrays, context: int, chunk: int) -> Iterator[Arrays]:
    """The windows of a block, C days at a time: x [N, L, F], presence [N, L], y [S, C, H]; N = S C, code by code."""
    days = block.y.shape[1]
    for day in range(0, days, chunk):
        stop = min(day + chunk, days)
        rows = slice(day, stop + context - 1)
        x = block.x[:, rows].unfold(1, context, 1).transpose(-1, -2).flatten(0, 1).contiguous()
        presence = block.presence[:, rows].unfold(1, context, 1).flatten(0, 1).contiguous()
        yield Arrays(x, presence, block.y[:, day:stop])


def steps(state: State, blocks: list[Arrays]) -> Iterator[Tensor]:
    """Take a step of the optimizer for each block, and yield its loss []."""
    parameters = list(state.model.parameters())
    for block in blocks:
        total = torch.zeros((), device=state.work.device)
        for part in windows(block, state.work.context, state.chunk):
            loss = state.losses(part) * (part.y.shape[1] / block.y.shape[1])
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(parameters, state.work.config.train.clip)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        yield total
