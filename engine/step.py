"""The training step: forward, objective, backward and optimizer, for one model or several, each on a block of its own.

On CUDA forward and objective are compiled into one graph of static shapes, and replayed as CUDA graphs; the model runs
in bfloat16, the objective in float32, and nothing in a step waits for the device. On a CPU nothing is compiled by
default, and threads work side by side: each on a model of its own or on a part of the block's codes, while torch's
operators keep to one thread, since they are too small to be shared well.

K models (members), S codes, T days read, D days scored, F features, H horizons
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

from engine.config import Config
from engine.distributed import ALONE, World, pooled
from engine.model.ensemble import Ensemble, build_ensemble
from engine.model.residual import WHOLE, CodeDropout, CodeShare, Noise
from engine.objective import Objective
from engine.phases import Phase
from kernels.rank_terms import SHARPE
from loaders.order import mix

LEAST_CODES = 16  # of a block's codes that a thread is given
SHAPES = 64  # of a step that a process may compile: those of its members, phases, and trials of a study
Losses = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]  # x, present, y, rotations -> loss, terms, ...


@dataclass(frozen=True)
class Lesson:
    """What a member is given at a step: a block, or this rank's days of it."""

    x: Tensor  # [S, T, F] float32
    presence: Tensor  # [S, T] uint8
    y: Tensor  # [S, D, H] float32, NaN = no target
    rotations: Tensor  # [R] for `pairwise`, see `draw_rotations`
    rate: float  # of learning
    kept: float  # of the average of the weights, where there is one
    last: bool  # no block follows, so the optimizer steps even if fewer than `accumulate` came


@dataclass(frozen=True)
class Learner:
    """What learns, and how it takes a step."""

    ensemble: Ensemble
    average: Ensemble | None  # average of its weights; None: off
    optimizers: list[torch.optim.Optimizer]  # of each member
    clip: float  # largest norm of a member's gradient
    accumulate: int  # blocks whose gradients make one step
    padded: int  # codes that every block is padded to, 0: as it comes
    compiled: bool
    bfloat16: bool
    world: World
    replicas: list[list[nn.Module]]  # [members][parts]: the member, and others on its weights for parts of a block
    threads: ThreadPoolExecutor | None  # one for each replica

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
    average = None
    if train.ema or train.swa:
        average = build_ensemble(config, features, horizons).to(device).requires_grad_(False)
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(member.parameters(), lr=0.0, weight_decay=train.weight_decay, fused=True)
        for member in ensemble.members
    ]
    compiled = device.type == "cuda" if train.compile == "auto" else train.compile == "on"
    parts = 1
    # Ranks share the cores already, and meet in one order.
    side_by_side = device.type == "cpu" and not compiled and world.size == 1
    if side_by_side and not config.model.market_tokens:
        parts = max(min(torch.get_num_threads() // train.seeds, config.data.block_codes // LEAST_CODES), 1)
    replicas = [[member, *(_replica(member) for _ in range(1, parts))] for member in ensemble.members]
    workers = train.seeds * parts if side_by_side else 1
    threads = ThreadPoolExecutor(workers, "replica", _one_thread) if workers > 1 else None
    try:
        yield Learner(
            ensemble, average, optimizers, train.clip, train.accumulate,
            config.data.block_codes if compiled else 0, compiled, device.type == "cuda", world, replicas, threads,
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
    for member, *others in learner.replicas:
        for replica in (member, *others):
            replica.freeze(phase.frozen)  # type: ignore[operator]
            replica.bypass(phase.off)  # type: ignore[operator]
        for replica in others:
            replica.train()
        of_block = objective if learner.world.size == 1 else objective.of_rank
        losses = _losses(member, of_block, learner.bfloat16)
        if learner.compiled:
            # What was compiled is found again by its shape, whichever model asks: values that differ are tensors.
            torch._dynamo.config.recompile_limit = SHAPES
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
    learner: Learner, losses: list[Losses], objective: Objective, lessons: Sequence[Lesson | None], seed: int,
    step: int, stop: bool = False,
) -> tuple[Tensor, bool]:  # fmt: skip
    """Train every member on its lesson; one without has learned all of its epoch.

    Gives the mean over members of the blocks' losses and terms, [1 + 8] float32, and whether any rank had `stop` set.

    Args:
        losses: what `losses_of` gave for the objective.
        lessons: one for each member, at least one of them not None.
        seed, step: dropout of member k draws from seed + k and step alone, so that a resumed run needs no stored
            generator.

    Raises RankLost where another rank does not answer.
    """
    given = {k: _padded(lesson, learner.padded) for k, lesson in enumerate(lessons) if lesson is not None}
    each = map if learner.threads is None else learner.threads.map
    if len(learner.replicas[0]) == 1:
        whole = partial(_whole, learner, losses, objective, given, seed=seed, step=step, stop=stop)
        told = list(each(whole, given))
        values, stopped = torch.stack([one for one, _ in told]).mean(0), any(stopped for _, stopped in told)
    else:
        values, stopped = _in_parts(learner, objective, given, seed, step), stop
    due = [k for k, lesson in given.items() if lesson.last or (step + 1) % learner.accumulate == 0]
    for k in due:
        learner.world.add_gradients(learner.ensemble.members[k])
    list(each(lambda k: _optimize(learner, k, given[k]), due))
    return values, stopped


def _padded(lesson: Lesson, codes: int) -> Lesson:
    """The lesson with that many codes or more, absent ones at the end."""
    more = max(codes - len(lesson.x), 0)
    if not more:
        return lesson
    return replace(
        lesson,
        x=F.pad(lesson.x, (0, 0, 0, 0, 0, more)),
        presence=F.pad(lesson.presence, (0, 0, 0, more)),
        y=F.pad(lesson.y, (0, 0, 0, 0, 0, more), value=torch.nan),
    )


def _whole(
    learner: Learner, losses: list[Losses], objective: Objective, lessons: dict[int, Lesson], k: int, seed: int,
    step: int, stop: bool,
) -> tuple[Tensor, bool]:  # fmt: skip
    """A member's gradients on its block; its loss and terms, and whether any rank was told to stop."""
    lesson, drawn_from = lessons[k], mix(seed + k, step, 4) >> 1
    if learner.compiled or lesson.x.is_cuda:
        torch.manual_seed(drawn_from)
    else:
        _draw_from(learner.ensemble.members[k], drawn_from, WHOLE)
    found = losses[k](lesson.x, (lesson.presence > 0).float(), lesson.y, lesson.rotations)
    if learner.world.size > 1:
        loss, values, stop = pooled(learner.world, found, objective.weights[SHARPE], objective.horizons, stop)
    else:
        loss, values = found[0], torch.cat([found[0].detach()[None], found[1]])
    (loss / learner.accumulate).backward()
    return values, stop


def _in_parts(learner: Learner, objective: Objective, lessons: dict[int, Lesson], seed: int, step: int) -> Tensor:
    """All members' gradients on their blocks, whose codes each member's replicas share; the mean loss and terms.

    The replicas' forwards, the members' objectives, the replicas' backwards: one after the other, each on all threads.
    Every replica has gradients of its own, which are added up at the end.
    """
    threads = learner.threads
    assert threads is not None
    parts = len(learner.replicas[0])
    shares = [(k, part) for k in lessons for part in range(parts)]

    def of_part(k: int, part: int) -> slice:
        codes = len(lessons[k].x)
        return slice(codes * part // parts, codes * (part + 1) // parts)

    def forward(share: tuple[int, int]) -> tuple[Tensor, Tensor]:
        k, part = share
        lesson, codes, replica = lessons[k], of_part(k, part), learner.replicas[k][part]
        _draw_from(replica, mix(seed + k, step, 4) >> 1, CodeShare(codes.start, codes.stop, len(lesson.x)))
        return replica(lesson.x[codes], (lesson.presence[codes] > 0).float())

    outputs = dict(zip(shares, threads.map(forward, shares), strict=True))

    def judge(k: int) -> tuple[Tensor, Tensor, Tensor]:
        mine = [outputs[k, part] for part in range(parts)]
        scores, quantiles = (torch.cat(pieces).detach().requires_grad_() for pieces in zip(*mine, strict=True))
        loss, terms = objective(scores, quantiles, lessons[k].y, lessons[k].rotations)
        by_scores, by_quantiles = torch.autograd.grad(loss / learner.accumulate, (scores, quantiles))
        return torch.cat([loss.detach()[None], terms]), by_scores, by_quantiles

    judged = dict(zip(lessons, threads.map(judge, lessons), strict=True))

    def backward(share: tuple[int, int]) -> None:
        _, by_scores, by_quantiles = judged[share[0]]
        codes = of_part(*share)
        torch.autograd.backward(outputs[share], (by_scores[codes], by_quantiles[codes]))

    list(threads.map(backward, shares))
    list(threads.map(_add_up, [learner.replicas[k] for k in lessons]))
    return torch.stack([values for values, _, _ in judged.values()]).mean(0)


def _add_up(replicas: list[nn.Module]) -> None:
    """Move the gradients of all replicas to the first, the member."""
    member, *others = replicas
    for other in others:
        for weight, shared in zip(member.parameters(), other.parameters(), strict=True):
            if shared.grad is not None:
                weight.grad = shared.grad if weight.grad is None else weight.grad.add_(shared.grad)
                shared.grad = None


def _optimize(learner: Learner, k: int, lesson: Lesson) -> None:
    """A member's step down its gradients, and of the average after it."""
    member, optimizer = learner.ensemble.members[k], learner.optimizers[k]
    torch.nn.utils.clip_grad_norm_(member.parameters(), learner.clip)
    optimizer.param_groups[0]["lr"] = lesson.rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if learner.average is not None:
        ours = [list(module.parameters()) for module in (learner.average.members[k], member)]
        get_ema_multi_avg_fn(lesson.kept)(*ours, None)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _draw_from(member: nn.Module, seed: int, share: CodeShare) -> None:
    """Let a member's dropout and noise draw from a generator of its own, which other threads do not touch."""
    generator = torch.Generator().manual_seed(seed)
    for module in member.modules():
        if isinstance(module, CodeDropout | Noise):
            module.generator, module.share = generator, share


def _replica(member: nn.Module) -> nn.Module:
    """A second module on the same weights, with gradients of its own."""
    other = copy.deepcopy(member)
    for weight, shared in zip(member.parameters(), other.parameters(), strict=True):
        shared.data = weight.data
    return other
