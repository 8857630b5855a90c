"""What a run trains, and how its device computes a step.

On CUDA forward and objective are compiled into one graph of static shapes and replayed as CUDA graphs; the model runs
in bfloat16, the objective in float32. On a CPU nothing is compiled by default, and threads work side by side: each on a
member of its own or on a part of the block's codes, while torch's operators keep to one thread, since they are too
small to be shared well.
"""

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.checkpoint import Weights
from engine.config import Config
from engine.distributed import SINGLE, World
from engine.model.ensemble import build_ensemble
from engine.optimizer import make_adamw, move_parameters
from kernels.rank_terms import TERMS

MIN_CODES = 16  # of a block's codes that a thread is given


@dataclass(frozen=True)
class Backend:
    """How a device computes a step."""

    compiled: bool
    bfloat16: bool
    pad_codes: int  # codes that every block is padded to, 0: as it comes
    replicas: list[list[nn.Module]]  # [members][parts]: the member, and others on its weights for parts of a block
    gradients: list[Tensor]  # [parts - 1] of [K, P], of the others
    threads: ThreadPoolExecutor | None  # one for each replica


@dataclass(frozen=True)
class Learner:
    """What a run trains."""

    weights: Weights
    backend: Backend
    world: World
    clip: float  # largest norm of a member's gradient
    weight_decay: float
    accumulate: int  # blocks whose gradients make one step
    features: int
    context: int


@contextmanager
def make_learner(
    config: Config, features: int, horizons: int, device: torch.device, world: World = SINGLE
) -> Iterator[Learner]:
    """A freshly initialised learner on a device; its threads end with the `with`."""
    train = config.train
    model = build_ensemble(config, features, horizons).to(device)
    average = None
    if train.ema or train.swa:
        average = build_ensemble(config, features, horizons).to(device).requires_grad_(False)
    optimizer = make_adamw(list(model.members), [] if average is None else list(average.members))
    loss_sums = torch.zeros(1 + len(TERMS), dtype=torch.float64, device=device)
    compiled = device.type == "cuda" if train.compile == "auto" else train.compile == "on"
    parts = 1
    # Ranks share the cores already, and meet in one order.
    side_by_side = device.type == "cpu" and not compiled and world.size == 1
    if side_by_side and not config.model.market_tokens:
        parts = max(min(torch.get_num_threads() // train.seeds, config.data.block_codes // MIN_CODES), 1)
    gradients = [torch.zeros_like(optimizer.gradient) for _ in range(1, parts)]
    replicas = [
        [member, *(_replica(member, optimizer.weights[k], gradient[k]) for gradient in gradients)]
        for k, member in enumerate(model.members)
    ]
    workers = train.seeds * parts if side_by_side else 1
    threads = ThreadPoolExecutor(workers, "replica", torch.set_num_threads, (1,)) if workers > 1 else None
    backend = Backend(
        compiled, device.type == "cuda", config.data.block_codes if compiled else 0, replicas, gradients, threads
    )
    try:
        weights = Weights(model, average, optimizer, loss_sums)
        yield Learner(
            weights, backend, world, train.clip, train.weight_decay, train.accumulate, features, config.data.context
        )
    finally:
        if threads is not None:
            threads.shutdown()


def _replica(member: nn.Module, row: Tensor, gradient: Tensor) -> nn.Module:
    """A second module on the same row of weights, with gradients of its own."""
    other = copy.deepcopy(member)
    move_parameters(other, row, gradient)
    return other
