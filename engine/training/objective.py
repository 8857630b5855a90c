"""The training objective: what a configuration asks of the rank objective, on the cross-sections of a block.

Terms of the user's own follow those of kernels.rank_terms, see engine/own/terms.py.

K members, S codes, D days, H horizons, Q quantile levels, R rotations, T terms, own ones included
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from engine.config import Config, ObjectiveConfig
from engine.own.terms import Term, own_terms
from kernels.rank_objective import rank_objective
from kernels.rank_terms import FUSED, SHARPE, TERMS, portfolio_returns
from kernels.ranks import standardise
from loaders.errors import InputError
from loaders.random_bits import mix, permutation

WINSORISED = 3.0  # standard deviations of a day's returns, beyond which a return counts as that many


@dataclass(frozen=True)
class Objective:
    """The settings of the objective as tensors on the device: other values need no other compilation of the step.

    For members, `stacked` gives those that tuning changes a leading axis K; arrays and results then have it too.
    """

    weights: Tensor  # [T] float32, in the order of `term_names`
    horizons: Tensor  # [H] float32
    levels: Tensor  # [Q] float32, of the model's quantiles
    tau: Tensor  # [] float32
    temperature: Tensor  # [] float32
    target: str  # what terms aim at, see objective.target
    rotations: int  # R, 0 where `pairwise` is off
    unfused: tuple[str, ...]  # terms with a weight that plain torch computes, see kernels.rank_terms
    own: tuple[Term, ...] = ()  # terms with a weight of the user's own

    def __call__(self, scores: Tensor, quantiles: Tensor, returns: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor]:
        """The loss [], lower is better, and its terms [T] in the order of `term_names`, NaN for those that are off.

        Each day of the block is a cross-section, weighted by its number of names; one with fewer than two counts
        nothing.

        Args:
            scores: [S, D, H] float.
            quantiles: [S, D, H, Q] float, at the levels of the configuration.
            returns: [S, D, H] float32, NaN where there is no target: such entries touch neither loss nor gradient.
            rotations: [R] integers, see `draw_rotations`.
        """
        returns = returns.transpose(-1, -3)
        return self._of(scores, quantiles, returns, torch.isfinite(returns), self.weights, rotations)

    def of_rank(self, scores: Tensor, quantiles: Tensor, returns: Tensor, rotations: Tensor) -> tuple[Tensor, ...]:
        """What `engine.distributed.sync_loss` makes the block's loss from; arguments for the days of one rank.

        Loss [] and terms [T] without `sharpe`, what the cross-sections count for [], daily returns [H, D] of the
        portfolios and which of the cross-sections count [H, D].
        """
        returns = returns.transpose(-1, -3)
        mask = torch.isfinite(returns)
        valid, names = mask.float(), mask.sum(-1)
        z = standardise(torch.where(mask, scores.transpose(-1, -3).float(), 0.0), valid)
        daily = portfolio_returns(z, torch.where(mask, returns, 0.0))
        alive = (names >= 2).float()
        entries = (names * alive * self.horizons[..., None]).sum((-1, -2))
        sharpe = torch.arange(self.weights.shape[-1], device=self.weights.device) == SHARPE
        loss, terms = self._of(scores, quantiles, returns, mask, self.weights * ~sharpe, rotations)
        return loss, terms, entries, daily, alive

    def _of(
        self, scores: Tensor, quantiles: Tensor, returns: Tensor, mask: Tensor, weights: Tensor, rotations: Tensor
    ) -> tuple[Tensor, Tensor]:
        targets = winsorised(returns, mask) if self.target == "winsorised" else returns
        scores, of_own = scores.transpose(-1, -3), weights[..., len(TERMS) :]
        loss, terms = rank_objective(
            scores, targets, mask, weights[..., : len(TERMS)], returns=returns, horizon_weights=self.horizons,
            quantiles=quantiles.transpose(-2, -4), levels=self.levels, rotations=rotations, tau=self.tau,
            temperature=self.temperature, ranked=self.target == "rank", unfused=self.unfused,
        )  # fmt: skip
        if not of_own.shape[-1]:
            return loss, terms
        values = self._own_values(scores.float(), returns, mask)
        on = of_own != 0
        loss = loss + torch.where(on, of_own * values, 0.0).sum(-1)
        return loss, torch.cat([terms, torch.where(on, values, torch.nan).detach()], -1)

    def _own_values(self, scores: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
        """The user's terms [O] of arrays [H, D, S], or [K, O] of [K, H, D, S]; 0 for those without a weight."""
        if scores.dim() == 3:
            return self._own_values(scores[None], returns[None], mask[None])[0]
        horizons = self.horizons.expand(len(scores), -1)
        found = {term.place: term.values(scores, returns, mask, horizons) for term in self.own}
        none = torch.zeros(len(scores), device=scores.device)
        return torch.stack([found.get(o, none) for o in range(self.weights.shape[-1] - len(TERMS))], -1)

    @property
    def structure(self) -> tuple[Any, ...]:
        """What a step that was compiled or captured for one objective needs of another."""
        return self.target, self.rotations, self.unfused, self.own, len(self.levels)


def stacked(objectives: Sequence[Objective]) -> Objective:
    """Objectives of one target and number of quantiles as one, with a leading axis K of members.

    It has the rotations and the terms in plain torch that any of them has; a member's weights are 0 for the others.
    """
    each = [(one.weights, one.horizons, one.tau, one.temperature) for one in objectives]
    weights, horizons, tau, temperature = (torch.stack(values) for values in zip(*each, strict=True))
    return replace(
        objectives[0], weights=weights, horizons=horizons, tau=tau, temperature=temperature,
        rotations=max(one.rotations for one in objectives),
        unfused=tuple(term for term in TERMS if any(term in one.unfused for one in objectives)),
        own=tuple({term.place: term for one in objectives for term in one.own}.values()),
    )  # fmt: skip


def winsorised(returns: Tensor, mask: Tensor) -> Tensor:
    """Returns [H, D, S] as deviations from their day's mean, held to WINSORISED of them; 0 outside `mask`."""
    z = standardise(torch.where(mask, returns, 0.0), mask.float())
    return z.clamp(-WINSORISED, WINSORISED)


def term_names(settings: ObjectiveConfig) -> list[str]:
    """The terms that a loss may have, in the order of their weights."""
    return [*TERMS, *settings.own]


def make_objective(config: Config, horizons: int, device: torch.device) -> Objective:
    """The objective of a configuration, for a model of that many horizons.

    Raises InputError where objective.horizon_weights are not as many, and for a term of the user's own that fails.
    """
    settings = config.objective
    weights = settings.weights()
    by_horizon = list(settings.horizon_weights) or [1.0] * horizons
    if len(by_horizon) != horizons:
        what = f"{len(by_horizon)} weights for {horizons} horizons"
        raise InputError("objective.horizon_weights", what, "Give one for each of the cache's horizons, or none")

    def on_device(values: list[float] | float) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    return Objective(
        on_device([weights.get(term, 0.0) for term in term_names(settings)]),
        on_device(by_horizon),
        on_device(list(config.model.quantiles)),
        on_device(settings.tau),
        on_device(settings.temperature),
        settings.target,
        settings.rotations if "pairwise" in weights else 0,
        tuple(term for term in list(TERMS)[FUSED:] if term in weights),
        own_terms(settings, device),
    )


def draw_rotations(objective: Objective, codes: int, seed: int, step: int, device: torch.device) -> Tensor:
    """Rotations of `codes` entries that `pairwise` compares at a step, int32 [R], a function of (seed, step)."""
    if not objective.rotations:
        return torch.empty(0, dtype=torch.int32, device=device)
    drawn = permutation(mix(seed, step, 3), codes - 1)[: objective.rotations]
    return torch.from_numpy(drawn.astype("int32") + 1).to(device)
