"""The step of members on threads of a CPU, each on a block of its own, or on a part of its codes.

K members, S codes, T days read, D days scored, F features, H horizons, R rotations
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from engine.model.own import seeded
from engine.model.residual import drawn_of, numbers_per_code
from engine.training.objective import Objective
from engine.training.step.learner import Learner, Threads
from kernels.uniforms import uniforms
from loaders.batch import Batch
from loaders.cache.format import SCORED


@dataclass(frozen=True)
class StepInput:
    """What a member is given at a step."""

    batch: Batch
    rotations: Tensor  # int32 [R] for `pairwise`, see `draw_rotations`
    rates: Sequence[float]  # in the order of StepSizes
    key: int  # of the stream that dropout and noise draw from

    @property
    def due(self) -> bool:
        """Whether the optimizer steps; else the gradient adds up."""
        return self.rates[-1] > 0


def train_step(
    learner: Learner, threads: Threads, objective: Objective, inputs: Sequence[StepInput | None], accumulate: int
) -> Tensor:
    """Train every member on its block; one that is given None has trained on all of its epoch.

    Returns the blocks' losses and terms, [K, 1 + TERMS] float32, 0 for a member without a block.

    Args:
        accumulate: blocks whose gradients make one step of the optimizer.
    """
    given = {k: one for k, one in enumerate(inputs) if one is not None}
    each = map if threads.pool is None else threads.pool.map
    if threads.parts == 1:
        results = list(each(lambda k: _whole_block(threads.replicas[k][0], objective, given[k], accumulate), given))
    else:
        results = _block_in_parts(learner, threads, objective, given, accumulate)
    list(each(lambda k: _optimize(learner, k, given[k]), [k for k, one in given.items() if one.due]))
    values = torch.zeros(len(inputs), results[0].shape[0])
    values[list(given)] = torch.stack(results)
    return values


def _whole_block(member: nn.Module, objective: Objective, given: StepInput, accumulate: int) -> Tensor:
    """A member's gradients on its block; its loss and terms."""
    batch = given.batch
    _set_drawn(member, _drawn(member, batch, given.key))
    with seeded(member, given.key):
        scores, quantiles = member(batch.x, (batch.presence > 0).float(), (batch.presence == SCORED).float())
    loss, terms = objective(scores, quantiles, batch.y, given.rotations)
    (loss / accumulate).backward()
    return torch.cat([loss.detach()[None], terms])


def _block_in_parts(
    learner: Learner, threads: Threads, objective: Objective, inputs: dict[int, StepInput], accumulate: int
) -> list[Tensor]:
    """All members' gradients on their blocks, whose codes each member's replicas share; the losses and terms.

    The replicas' forwards, the members' objectives, the replicas' backwards: one after the other, each on all threads.
    Every replica has gradients of its own, which are added up at the end.
    """
    pool, replicas, parts = threads.pool, threads.replicas, threads.parts
    assert pool is not None
    shares = [(k, part) for k in inputs for part in range(parts)]
    drawn = {k: _drawn(replicas[k][0], one.batch, one.key) for k, one in inputs.items()}

    def codes_of(k: int, part: int) -> slice:
        codes = len(inputs[k].batch.x)
        return slice(codes * part // parts, codes * (part + 1) // parts)

    def forward(share: tuple[int, int]) -> tuple[Tensor, Tensor]:
        k, part = share
        batch, codes, replica = inputs[k].batch, codes_of(k, part), replicas[k][part]
        presence = batch.presence[codes]
        _set_drawn(replica, {name: numbers[codes] for name, numbers in drawn[k].items()})
        scores, quantiles = replica(batch.x[codes], (presence > 0).float(), (presence == SCORED).float())
        return scores, quantiles

    outputs = dict(zip(shares, pool.map(forward, shares), strict=True))

    def loss_and_grads(k: int) -> tuple[Tensor, Tensor, Tensor]:
        mine = [outputs[k, part] for part in range(parts)]
        scores, quantiles = (torch.cat(pieces).detach().requires_grad_() for pieces in zip(*mine, strict=True))
        loss, terms = objective(scores, quantiles, inputs[k].batch.y, inputs[k].rotations)
        by_scores, by_quantiles = torch.autograd.grad(loss / accumulate, (scores, quantiles))
        return torch.cat([loss.detach()[None], terms]), by_scores, by_quantiles

    losses = dict(zip(inputs, pool.map(loss_and_grads, inputs), strict=True))

    def backward(share: tuple[int, int]) -> None:
        _, by_scores, by_quantiles = losses[share[0]]
        codes = codes_of(*share)
        torch.autograd.backward(outputs[share], (by_scores[codes], by_quantiles[codes]))

    list(pool.map(backward, shares))
    # In the pool, where torch keeps to one thread: its own would go on spinning, on a core that the next step needs.
    list(pool.map(partial(_sum_gradients, learner, threads), inputs))
    return [values for values, _, _ in losses.values()]


def _sum_gradients(learner: Learner, threads: Threads, k: int) -> None:
    """Add the gradients of a member's replicas to its own."""
    for of_part in threads.gradients:
        learner.weights.optimizer.gradient[k].add_(of_part[k])
        of_part[k].zero_()


def _optimize(learner: Learner, k: int, given: StepInput) -> None:
    """A member's step down its gradients, and of the average after it."""
    learner.weights.optimizer.step_of(k, given.rates)


def _drawn(member: nn.Module, batch: Batch, key: int) -> dict[str, Tensor]:
    """What a member's dropout and noise draw for a block, by the name of the buffer; see engine.model.residual."""
    codes, days = batch.presence.shape
    each = numbers_per_code(member, days)
    return drawn_of(member, uniforms(torch.tensor([key]), codes * each).view(codes, each), days)


def _set_drawn(member: nn.Module, drawn: dict[str, Tensor]) -> None:
    for name, numbers in drawn.items():
        module, _, buffer = name.rpartition(".")
        setattr(member.get_submodule(module), buffer, numbers)
