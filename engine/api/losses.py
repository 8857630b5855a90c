"""The rank objective as a loss for anybody's own PyTorch loop.

D days, S codes, H horizons, T terms
"""

from typing import Literal

import torch
from torch import Tensor

from engine.training.objective import winsorised
from kernels.rank_objective import rank_objective
from kernels.rank_terms import TERMS, rank_terms, weigh

TARGETS = ("rank", "z", "winsorised")


def rank_loss(
    scores: Tensor,
    targets: Tensor,
    mask: Tensor | None = None,
    *,
    rank_ic: float = 0.7,
    ic: float = 0.3,
    sharpe: float = 0.0,
    spearman: float = 0.0,
    huber: float = 0.0,
    pairwise: float = 0.0,
    listnet: float = 0.0,
    horizon_weights: Tensor | None = None,
    target: Literal["rank", "z", "winsorised"] = "rank",
    tau: float | Tensor = 0.05,
    temperature: float | Tensor = 1.0,
    rotations: int = 16,
) -> Tensor:
    """A loss that is low where the order of the scores within each day is the order of the targets.

    A weighted sum of terms. Each day is a cross-section, weighted by its number of samples; one with fewer than two
    counts nothing. The terms are those of the settings `[objective]`:

        rank_ic    1 - correlation of the scores' soft ranks with the targets' ranks
        ic         1 - correlation of the scores with the targets
        sharpe     - mean / standard deviation over days of the return of the portfolio that the scores weigh
        spearman   squared distance of soft ranks to the targets' ranks, 0 to 1
        huber      Huber's loss of scores - targets
        pairwise   logistic loss on pairs of codes, of `rotations` random partners each
        listnet    cross-entropy of softmax(scores) to softmax(targets / temperature)

    Works on the CPU and on CUDA, and under torch.compile without a graph break. One fused operator gives value and
    gradient in O(S log S), in float32. Scores in float64 are computed in float64 by plain torch, for checks.

    Args:
        scores: [D, S] or [D, S, H], any float type; differentiable.
        targets: of the same shape, float: returns, from which no gradient flows. NaN and infinite ones are no samples.
        mask: bool, of the same shape or [D, S]; False is no sample. Default: all are. Scores that are no samples may
            be anything.
        rank_ic, ic, sharpe, spearman, huber, pairwise, listnet: weights, 0 or more. 0: the term is not computed.
        horizon_weights: [H] float32 on the device, one above 0. Default: all the same.
        target: what all terms but `sharpe` aim at: ranks, z-scores within the day, or z-scores clipped at 3.
        tau: width of the soft rank's kernel, in standard deviations of the day's scores.
        temperature: of `listnet`.
        rotations: of `pairwise`; drawn from torch's generator of the device, anew at each call.

    Returns the loss [], float32 (float64 for scores in float64). It is NaN where the score of a sample is NaN or
    infinite.

    Raises ValueError for shapes or types that disagree, for weights that are negative or all 0, and for another
    `target`.
    """
    if scores.dim() not in (2, 3) or targets.shape != scores.shape:
        what = f"scores {tuple(scores.shape)}, targets {tuple(targets.shape)}"
        raise ValueError(f"{what}: give [days, codes] or [days, codes, horizons] for both")
    if mask is not None and (mask.dtype != torch.bool or mask.shape not in (scores.shape, scores.shape[:2])):
        what = f"mask {mask.dtype} {tuple(mask.shape)} of scores {tuple(scores.shape)}"
        raise ValueError(f"{what}: give bool of the scores' shape, or of [days, codes]")
    if target not in TARGETS:
        raise ValueError(f"target {target!r}: give one of {', '.join(TARGETS)}")
    given = {
        "rank_ic": rank_ic, "ic": ic, "sharpe": sharpe, "spearman": spearman, "huber": huber, "pairwise": pairwise,
        "listnet": listnet,
    }  # fmt: skip
    if min(given.values()) < 0 or not any(given.values()):
        raise ValueError(f"weights {given}: give 0 or more, and at least one above 0")

    if scores.dim() == 2:
        scores, targets = scores[..., None], targets[..., None]
    valid = torch.isfinite(targets)
    if mask is not None:
        valid = valid & (mask if mask.dim() == 3 else mask[..., None])
    scores, targets, valid = (each.permute(2, 0, 1) for each in (scores, targets.detach(), valid))  # [H, D, S]
    returns = targets
    if target == "winsorised":
        targets = winsorised(targets, valid)

    exact = scores.dtype == torch.float64
    kind = torch.float64 if exact else torch.float32
    # Filled on the device, value by value: a copy of them from the host would wait for all work before it.
    weights = torch.stack([_filled(given.get(term, 0.0), scores, kind) for term in TERMS])
    tau, temperature = (_filled(value, scores, kind) for value in (tau, temperature))
    turns = _rotations(rotations, scores) if pairwise else None
    if not exact:
        loss, _ = rank_objective(
            scores, targets, valid, weights, returns=returns, horizon_weights=horizon_weights, rotations=turns,
            tau=tau, temperature=temperature, ranked=target == "rank", unfused=(),
        )  # fmt: skip
        return loss
    values = rank_terms(
        scores, targets, returns, valid, [name for name, weight in given.items() if weight], tau=tau,
        temperature=temperature, rotations=turns, ranked=target == "rank",
    )  # fmt: skip
    by_horizon = scores.new_ones(len(scores)) if horizon_weights is None else horizon_weights.to(kind)
    loss, _ = weigh(values, valid, weights, by_horizon)
    return loss


def _filled(value: float | Tensor, like: Tensor, kind: torch.dtype) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(kind)
    return torch.full((), value, dtype=kind, device=like.device)


def _rotations(count: int, scores: Tensor) -> Tensor:
    """Distinct shifts in 1..S-1, int32, at most `count`; of fewer than two codes, one that compares nothing."""
    others = max(scores.shape[-1] - 1, 1)
    return torch.randperm(others, device=scores.device, dtype=torch.int32)[:count] + 1
