"""The training step: forward, objective, backward and optimizer, for one model or several, each on a block of its own.

Nothing in a step on one device waits for the device.

K models (members), S codes, T days read, D days scored, F features, H horizons
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.distributed import sync_loss
from engine.model.residual import drawn_of, numbers_per_code
from engine.optimizer import StepSizes
from engine.train.learner import Learner
from engine.train.objective import Objective
from engine.train.schedule import Phase
from kernels.rank_terms import SHARPE
from loaders.batch import Batch
from loaders.random_bits import mix, uniforms

SHAPES = 64  # of a step that a process may compile: those of its members, phases, and trials of a study
Losses = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]  # x, present, y, rotations -> loss, terms, ...


@dataclass(frozen=True)
class StepInput:
    """What a member is given at a step."""

    batch: Batch  # a block, or this rank's days of it
    rotations: Tensor  # [R] for `pairwise`, see `draw_rotations`
    lr: float
    ema_decay: float  # of the average of the weights, where there is one
    last: bool  # no block follows, so the optimizer steps even if fewer than `accumulate` came


def losses_of(learner: Learner, phase: Phase, objective: Objective) -> list[Losses]:
    """Forward and objective of each member for a phase, whose parts are frozen and bypassed from now on."""
    members, trained = [], []
    weights, backend = learner.weights, learner.backend
    for ensemble in weights.ensembles:
        ensemble.bypass(phase.off)
    for member, *others in backend.replicas:
        for replica in (member, *others):
            replica.freeze(phase.frozen)  # type: ignore[operator]
            replica.bypass(phase.off)  # type: ignore[operator]
        for replica in others:
            replica.train()
        trained.append(_trained(member, learner.context, learner.features))
        of_block = objective if learner.world.size == 1 else objective.of_rank
        losses = _losses(member, of_block, backend.bfloat16)
        if backend.compiled:
            # What was compiled is found again by its shape, whichever model asks: values that differ are tensors.
            torch._dynamo.config.recompile_limit = SHAPES
            mode = "reduce-overhead" if backend.bfloat16 else None
            losses = torch.compile(losses, fullgraph=True, dynamic=False, mode=mode)
        members.append(losses)
    weights.optimizer.trained.copy_(torch.stack(trained))
    return members


def _trained(member: nn.Module, context: int, features: int) -> Tensor:
    """Which of a model's parameters get a gradient, [N] float 0/1: they are not frozen, and a score depends on them."""
    device = next(member.parameters()).device
    x = torch.zeros(2, context, features, device=device)  # two codes, one scored day
    member.eval()
    scores, quantiles = member(x, torch.ones_like(x[..., 0]))
    member.train()
    given = {name: p for name, p in member.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(scores.sum() + quantiles.sum(), list(given.values()), allow_unused=True)
    used = {name for name, gradient in zip(given, found, strict=True) if gradient is not None}
    return torch.tensor([float(name in used) for name, _ in member.named_parameters()], device=device)


def _losses(member: nn.Module, objective: Callable[..., tuple[Tensor, ...]], bfloat16: bool) -> Losses:
    def losses(x: Tensor, present: Tensor, y: Tensor, rotations: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
            scores, quantiles = member(x, present)
        return objective(scores, quantiles, y, rotations)

    return losses


def train_step(
    learner: Learner, losses: list[Losses], objective: Objective, inputs: Sequence[StepInput | None], seed: int,
    step: int, stop: bool = False,
) -> tuple[Tensor, bool]:  # fmt: skip
    """Train every member on its block; one that is given None has trained on all of its epoch.

    Returns the mean over members of the blocks' losses and terms, [1 + TERMS] float32, and whether any rank had `stop`
    set.

    Args:
        losses: what `losses_of` gave for the objective.
        inputs: one for each member, at least one of them not None.
        seed, step: dropout of member k draws from seed + k and step alone, so that a resumed run needs no stored
            generator.

    Raises RankLost where another rank does not answer.
    """
    backend, members = learner.backend, learner.weights.model.members
    given = {k: _padded(one, backend.pad_codes) for k, one in enumerate(inputs) if one is not None}
    each = map if backend.threads is None else backend.threads.map
    if len(backend.replicas[0]) == 1:
        whole = partial(_whole_block, learner, losses, objective, given, seed=seed, step=step, stop=stop)
        results = list(each(whole, given))
        values, stopped = torch.stack([one for one, _ in results]).mean(0), any(stopped for _, stopped in results)
    else:
        values, stopped = _block_in_parts(learner, objective, given, seed, step), stop
    due = [k for k, one in given.items() if one.last or (step + 1) % learner.accumulate == 0]
    for k in due:
        learner.world.all_reduce(learner.weights.optimizer.gradient[k])
    list(each(lambda k: _optimize(learner, k, given[k]), due))
    return values, stopped


def _padded(given: StepInput, codes: int) -> StepInput:
    """The input with that many codes or more, absent ones at the end."""
    batch = given.batch
    more = max(codes - len(batch.x), 0)
    if not more:
        return given
    x = F.pad(batch.x, (0, 0, 0, 0, 0, more))
    presence = F.pad(batch.presence, (0, 0, 0, more))
    y = F.pad(batch.y, (0, 0, 0, 0, 0, more), value=torch.nan)
    return replace(given, batch=replace(batch, x=x, presence=presence, y=y))


def _whole_block(
    learner: Learner, losses: list[Losses], objective: Objective, inputs: dict[int, StepInput], k: int, seed: int,
    step: int, stop: bool,
) -> tuple[Tensor, bool]:  # fmt: skip
    """A member's gradients on its block; its loss and terms, and whether any rank was asked to stop."""
    batch, member = inputs[k].batch, learner.weights.model.members[k]
    _set_drawn(member, _drawn(member, batch, mix(seed + k, step, 4)))
    found = losses[k](batch.x, (batch.presence > 0).float(), batch.y, inputs[k].rotations)
    if learner.world.size > 1:
        loss, values, stop = sync_loss(learner.world, found, objective.weights[SHARPE], objective.horizons, stop)
    else:
        loss, values = found[0], torch.cat([found[0].detach()[None], found[1]])
    (loss / learner.accumulate).backward()
    return values, stop


def _block_in_parts(
    learner: Learner, objective: Objective, inputs: dict[int, StepInput], seed: int, step: int
) -> Tensor:
    """All members' gradients on their blocks, whose codes each member's replicas share; the mean loss and terms.

    The replicas' forwards, the members' objectives, the replicas' backwards: one after the other, each on all threads.
    Every replica has gradients of its own, which are added up at the end.
    """
    threads, replicas = learner.backend.threads, learner.backend.replicas
    assert threads is not None
    parts = len(replicas[0])
    shares = [(k, part) for k in inputs for part in range(parts)]
    drawn = {k: _drawn(replicas[k][0], inputs[k].batch, mix(seed + k, step, 4)) for k in inputs}

    def codes_of(k: int, part: int) -> slice:
        codes = len(inputs[k].batch.x)
        return slice(codes * part // parts, codes * (part + 1) // parts)

    def forward(share: tuple[int, int]) -> tuple[Tensor, Tensor]:
        k, part = share
        batch, codes, replica = inputs[k].batch, codes_of(k, part), replicas[k][part]
        _set_drawn(replica, {name: numbers[codes] for name, numbers in drawn[k].items()})
        return replica(batch.x[codes], (batch.presence[codes] > 0).float())

    outputs = dict(zip(shares, threads.map(forward, shares), strict=True))

    def loss_and_grads(k: int) -> tuple[Tensor, Tensor, Tensor]:
        mine = [outputs[k, part] for part in range(parts)]
        scores, quantiles = (torch.cat(pieces).detach().requires_grad_() for pieces in zip(*mine, strict=True))
        loss, terms = objective(scores, quantiles, inputs[k].batch.y, inputs[k].rotations)
        by_scores, by_quantiles = torch.autograd.grad(loss / learner.accumulate, (scores, quantiles))
        return torch.cat([loss.detach()[None], terms]), by_scores, by_quantiles

    losses = dict(zip(inputs, threads.map(loss_and_grads, inputs), strict=True))

    def backward(share: tuple[int, int]) -> None:
        _, by_scores, by_quantiles = losses[share[0]]
        codes = codes_of(*share)
        torch.autograd.backward(outputs[share], (by_scores[codes], by_quantiles[codes]))

    list(threads.map(backward, shares))
    for of_part in learner.backend.gradients:
        learner.weights.optimizer.gradient.add_(of_part)
        of_part.zero_()
    return torch.stack([values for values, _, _ in losses.values()]).mean(0)


def _optimize(learner: Learner, k: int, given: StepInput) -> None:
    """A member's step down its gradients, and of the average after it."""
    values = [given.lr, learner.weight_decay, learner.clip, given.ema_decay, 1.0]
    sizes = torch.tensor(values, device=given.batch.x.device)[:, None, None]
    learner.weights.optimizer.rows(k, k + 1).step(StepSizes(*sizes))


def _drawn(member: nn.Module, batch: Batch, key: int) -> dict[str, Tensor]:
    """What a member's dropout and noise draw for a block, by the name of the buffer; see engine.model.residual."""
    codes, days = batch.presence.shape
    each = numbers_per_code(member, days)
    numbers = torch.from_numpy(uniforms(key, codes * each)).to(batch.x.device)
    return drawn_of(member, numbers.view(codes, each), days)


def _set_drawn(member: nn.Module, drawn: dict[str, Tensor]) -> None:
    for name, numbers in drawn.items():
        module, _, buffer = name.rpartition(".")
        setattr(member.get_submodule(module), buffer, numbers)
