"""The training step: forward, objective, backward and optimizer, for one model or several on the same blocks.

On CUDA forward and objective are compiled into one graph of static shapes, and replayed as CUDA graphs; the model runs
in bfloat16, the objective in float32, and nothing in a step waits for the device. On a CPU nothing is compiled by
default, and several models train side by side: each on a thread of its own, where torch's operators keep to one
thread, since they are too small to be shared well.

K models (members), S codes, T days read, D days scored, F features, H horizons
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

from engine.config import Config
from engine.distributed import ALONE, World, pooled
from engine.model.ensemble import Ensemble, build_ensemble
from engine.model.residual import CodeDropout, Noise
from engine.objective import Objective
from engine.phases import Phase
from kernels.rank_terms import SHARPE
from loaders.order import mix

Losses = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]  # x, present, y, rotations -> loss, terms, ...


@dataclass(frozen=True)
class Learner:
    """What learns, and how it takes a step."""

    ensemble: Ensemble
    average: Ensemble | None  # moving average of its weights; None: off
    optimizer: torch.optim.Optimizer
    decay: float  # of the average, per step
    clip: float  # largest norm of a member's gradient
    accumulate: int  # blocks whose gradients make one step
    padded: int  # codes that every block is padded to, 0: as it comes
    compiled: bool
    bfloat16: bool
    world: World
    threads: ThreadPoolExecutor | None  # one for each member

    @property
    def scoring(self) -> Ensemble:
        """The weights that are validated and kept."""
        return self.ensemble if self.average is None else self.average


@contextmanager
def make_learner(
    config: Config, features: int, horizons: int, device: torch.device, world: World = ALONE
) -> Iterator[Learner]:
    """A freshly initialised learner on a device; its threads end with the `with`."""
    train = config.train
    ensemble = build_ensemble(config, features, horizons).to(device)
    average = build_ensemble(config, features, horizons).to(device).requires_grad_(False) if train.ema else None
    optimizer = torch.optim.AdamW(ensemble.parameters(), lr=0.0, weight_decay=train.weight_decay, fused=True)
    compiled = device.type == "cuda" if train.compile == "auto" else train.compile == "on"
    # Ranks share the cores already, and meet in one order.
    side_by_side = device.type == "cpu" and train.seeds > 1 and not compiled and world.size == 1
    threads = ThreadPoolExecutor(train.seeds, "member", _one_thread) if side_by_side else None
    try:
        yield Learner(
            ensemble, average, optimizer, train.ema, train.clip, train.accumulate,
            config.data.block_codes if compiled else 0, compiled, device.type == "cuda", world, threads,
        )  # fmt: skip
    finally:
        if threads is not None:
            threads.shutdown()


def losses_of(learner: Learner, phase: Phase, objective: Objective) -> list[Losses]:
    """Forward and objective of each member for a phase, whose parts are frozen and bypassed from now on."""
    members = []
    learner.ensemble.bypass(phase.off)
    if learner.average is not None:
        learner.average.bypass(phase.off)
    for member in learner.ensemble.members:
        member.freeze(phase.frozen)  # type: ignore[operator]
        of_block = objective if learner.world.size == 1 else objective.of_rank
        losses = _losses(member, of_block, learner.bfloat16)
        if learner.compiled:
            mode = "reduce-overhead" if learner.bfloat16 else None
            losses = torch.compile(losses, fullgraph=True, dynamic=False, mode=mode)
        members.append(losses)
    return members


def _losses(member: nn.Module, objective: Callable[..., tuple[Tensor, ...]], bfloat16: bool) -> Losses:
    def losses(x: Tensor, present: Tensor, y: Tensor, rotations: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
            scores, quantiles = member(x, present)
        return objective(scores, quantiles, y, rotations)

    return losses


def learn(
    learner: Learner, losses: list[Losses], objective: Objective, x: Tensor, presence: Tensor, y: Tensor,
    rotations: Tensor, seed: int, step: int, rate: float, last: bool, stop: bool = False,
) -> tuple[Tensor, bool]:  # fmt: skip
    """Train every member on a block, or on this rank's days of it.

    Gives the mean over members of the block's loss and terms, [1 + 8] float32, and whether any rank had `stop` set.

    Args:
        x: [S, T, F] float32, presence: [S, T] uint8, y: [S, D, H] float32, NaN = no target.
        rotations: [K] for `pairwise`, see `draw_rotations`.
        seed, step: dropout draws from them alone, so that a resumed run needs no stored generator.
        rate: the learning rate.
        last: no block follows, so the optimizer steps even if fewer than `accumulate` came.

    Raises RankLost where another rank does not answer.
    """
    more = max(learner.padded - len(x), 0)
    if more:
        x, presence = F.pad(x, (0, 0, 0, 0, 0, more)), F.pad(presence, (0, 0, 0, more))
        y = F.pad(y, (0, 0, 0, 0, 0, more), value=torch.nan)
    present = (presence > 0).float()
    members = list(learner.ensemble.members)
    if learner.compiled or x.is_cuda:
        torch.manual_seed(mix(seed, step, 4) >> 1)

    due = last or (step + 1) % learner.accumulate == 0

    def train(k: int) -> tuple[Tensor, bool]:
        if not (learner.compiled or x.is_cuda):
            _draw_from(members[k], mix(seed + k, step, 4) >> 1)
        found = losses[k](x, present, y, rotations)
        if learner.world.size > 1:
            loss, values, stopped = pooled(learner.world, found, objective.weights[SHARPE], objective.horizons, stop)
        else:
            loss, values, stopped = found[0], torch.cat([found[0].detach()[None], found[1]]), stop
        (loss / learner.accumulate).backward()
        if due:
            learner.world.add_gradients(members[k])
            torch.nn.utils.clip_grad_norm_(members[k].parameters(), learner.clip)
        return values, stopped

    if learner.threads is None:
        found = [train(k) for k in range(len(members))]
    else:
        found = list(learner.threads.map(train, range(len(members))))
    if due:
        for group in learner.optimizer.param_groups:
            group["lr"] = rate
        learner.optimizer.step()
        learner.optimizer.zero_grad(set_to_none=True)
        if learner.average is not None:
            ours = [list(ensemble.parameters()) for ensemble in (learner.average, learner.ensemble)]
            get_ema_multi_avg_fn(learner.decay)(*ours, None)
    return torch.stack([values for values, _ in found]).mean(0), found[0][1]


def _one_thread() -> None:
    torch.set_num_threads(1)


def _draw_from(member: nn.Module, seed: int) -> None:
    """Let a member's dropout and noise draw from a generator of its own, which other members' threads do not touch."""
    generator = torch.Generator().manual_seed(seed)
    for module in member.modules():
        if isinstance(module, CodeDropout | Noise):
            module.generator = generator
