"""The terms of the rank objective in plain torch: what the fused operators compute, for any length and by autograd.

Two uses: cross-sections longer than a program of a GPU holds, and, in float64, what the fused operators are tested
against.

H horizons, G cross-sections (days), N entries (codes), K rotations, Q quantile levels

All terms are given per cross-section, [H, G], except `sharpe`, which needs all days of a horizon and is [H, 1].
Entries outside `mask` never touch a value or a gradient. A cross-section with fewer than two valid entries, or with
constant targets, gives zero for every correlation: the caller weights cross-sections by their number of names.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

TERMS = ("rank_ic", "ic", "sharpe", "spearman", "huber", "quantile", "pairwise", "listnet")
SHARPE = TERMS.index("sharpe")
EPSILON = 1e-6
LEAST_VARIANCE = 1e-16  # of daily returns, below which `sharpe` takes them for constant
FAR = 1e4  # where masked entries are parked: further than any standardised score


def masked_mean(value: Tensor, mask: Tensor) -> Tensor:
    """Mean over the last axis of the valid entries, [..., 1]; 0 where there is none."""
    return (value * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)


def standardise(value: Tensor, mask: Tensor) -> Tensor:
    """z-scores over the valid entries of the last axis (population std), 0 elsewhere and where all are equal."""
    centred = (value - masked_mean(value, mask)) * mask
    variance = masked_mean(centred.square(), mask)
    return centred * torch.rsqrt(variance + EPSILON**2)


def average_ranks(value: Tensor, mask: Tensor) -> Tensor:
    """Ranks 1..n of the valid entries of the last axis, ties averaged, 0 elsewhere; all NaN where one of them is.

    float [..., N] and bool or float mask of the same shape -> float [..., N].
    """
    parked = torch.where(mask > 0, value, torch.inf).detach().contiguous()
    ordered = parked.sort(dim=-1).values
    low = torch.searchsorted(ordered, parked, right=False)
    # Infinite valid values stand among the parked ones.
    high = torch.searchsorted(ordered, parked, right=True).minimum((mask > 0).sum(-1, keepdim=True))
    unranked = torch.where(torch.isnan(parked).any(-1, keepdim=True), torch.nan, 0.0)
    return torch.where(mask > 0, (low + high + 1).to(value.dtype) / 2 + unranked, 0.0)


def soft_ranks(score: Tensor, mask: Tensor, tau: float | Tensor) -> Tensor:
    """Laplace soft ranks: softrank_i = 1/2 + sum_j CDF((s_i - s_j) / tau) over valid j, in O(N log N).

    In ascending order the sum splits into two first-order recurrences (LapSum, arXiv 2503.06242):
    i - A_i / 2 + B_i / 2 + 1/2 with A_i = sum_{j<=i} exp((s_j - s_i) / tau), B_i = sum_{j>i} exp((s_i - s_j) / tau).
    Both are sums of exponentials along the sorted scores, taken in logarithms so that nothing overflows.
    """
    parked = torch.where(mask > 0, score, FAR)
    ordered, order = parked.sort(dim=-1)
    scaled = ordered / tau
    position = torch.arange(1, score.shape[-1] + 1, device=score.device, dtype=score.dtype)
    below = torch.exp(torch.logcumsumexp(scaled, -1) - scaled)
    above = torch.exp(torch.logcumsumexp(-scaled.flip(-1), -1).flip(-1) + scaled) - 1
    ranks = position - below / 2 + above / 2 + 0.5
    # Equal scores have equal ranks but for rounding, which a correlation would take for an order where all are equal.
    values = ordered.detach().contiguous()
    first = torch.searchsorted(values, values).clamp(max=score.shape[-1] - 1)  # of NaN, N
    ranks = ranks + (ranks.gather(-1, first) - ranks).detach()
    return torch.zeros_like(ranks).scatter(-1, order, ranks) * mask


def portfolio_returns(z: Tensor, returns: Tensor) -> Tensor:
    """Returns [H, G] of the portfolios with weights z / sum|z|; z and returns [H, G, N], 0 where not valid."""
    weights = z / z.abs().sum(-1, keepdim=True).clamp(min=EPSILON)
    return (weights * returns).sum(-1)


def sharpe_ratio(daily: Tensor, alive: Tensor) -> Tensor:
    """Mean over standard deviation of daily returns [H, G] on the days that are alive (1, else 0); [H, 1].

    0 where fewer than two are.
    """
    mean = masked_mean(daily, alive)
    std = masked_mean(((daily - mean) * alive).square(), alive).clamp(min=LEAST_VARIANCE).sqrt()
    return torch.where(alive.sum(-1, keepdim=True) >= 2, mean / std, 0.0)


def _correlation(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    return masked_mean(standardise(a, mask) * standardise(b, mask), mask)[..., 0]


def _ahead(value: Tensor, shift: Tensor) -> Tensor:
    """Entry i + shift in the place of entry i, around the end."""
    places = (torch.arange(value.shape[-1], device=value.device) + shift) % value.shape[-1]
    return value[..., places]


def rank_terms(
    scores: Tensor,
    targets: Tensor,
    returns: Tensor,
    mask: Tensor,
    terms: tuple[str, ...],
    *,
    quantiles: Tensor | None = None,
    levels: Tensor | None = None,
    tau: float | Tensor = 0.1,
    temperature: float | Tensor = 1.0,
    rotations: Tensor | None = None,
) -> dict[str, Tensor]:
    """The named terms of the objective; lower is better for each. In float64 for float64 scores, else in float32.

    Args:
        scores: [H, G, N] of any float type.
        targets: [H, G, N] float, what to be close to in order (`ic`, `huber`, `quantile` standardise it).
        returns: [H, G, N] float32, realised returns, for `sharpe`.
        mask: [H, G, N] bool, the valid entries; the values elsewhere may be anything, NaN included.
        terms: names from TERMS; nothing else is computed.
        quantiles: [H, G, N, Q] the model's quantile outputs at `levels`, for `quantile`.
        tau: width of the soft rank's kernel in standard deviations of the scores.
        temperature: of the target distribution of `listnet`.
        rotations: integers [K], shifts of the cross-section that `pairwise` compares with.

    Raises ValueError for an unknown term, and for one whose inputs are not given.
    """
    unknown = set(terms) - set(TERMS)
    if unknown:
        raise ValueError(f"unknown terms {sorted(unknown)}, known are {list(TERMS)}")
    kind = torch.float64 if scores.dtype == torch.float64 else torch.float32
    valid = mask.to(kind)
    scores, targets, returns = (torch.where(mask, array.to(kind), 0.0) for array in (scores, targets, returns))
    z = standardise(scores, valid)
    result: dict[str, Tensor] = {}

    if "rank_ic" in terms or "spearman" in terms:
        soft, hard = soft_ranks(z, valid, tau), average_ranks(targets, valid)
        if "rank_ic" in terms:
            result["rank_ic"] = 1 - _correlation(soft, hard, valid)
        if "spearman" in terms:
            # The largest possible mean squared distance of two rankings of n entries is (n^2 - 1) / 3.
            n = valid.sum(-1)
            distance = masked_mean((soft - hard).square(), valid)[..., 0]
            result["spearman"] = distance * 3 / (n.square() - 1).clamp(min=1)
    if "ic" in terms:
        result["ic"] = 1 - _correlation(scores, targets, valid)
    if "sharpe" in terms:
        result["sharpe"] = -sharpe_ratio(portfolio_returns(z, returns), (valid.sum(-1) >= 2).to(kind))
    if "huber" in terms:
        loss = F.huber_loss(scores, standardise(targets, valid), reduction="none")
        result["huber"] = masked_mean(loss, valid)[..., 0]
    if "quantile" in terms:
        if quantiles is None or levels is None or quantiles.shape[-1] != len(levels):
            raise ValueError("the term quantile needs the model's quantile outputs, one per level")
        error = standardise(targets, valid)[..., None] - torch.where(mask[..., None], quantiles.to(kind), 0.0)
        pinball = torch.maximum(levels * error, (levels - 1) * error).mean(-1)
        result["quantile"] = masked_mean(pinball, valid)[..., 0]
    if "pairwise" in terms:
        if rotations is None:
            raise ValueError("the term pairwise needs rotations to compare with")
        total, count = torch.zeros_like(valid[..., 0]), torch.zeros_like(valid[..., 0])
        for shift in rotations:
            ahead = _ahead(targets, shift)
            # By comparison, since a NaN is not above and not below anything, but has no sign either.
            sign = ((targets > ahead).to(kind) - (targets < ahead).to(kind)) * valid * _ahead(valid, shift)
            total = total + (F.softplus(-sign * (z - _ahead(z, shift))) * sign.abs()).sum(-1)
            count = count + sign.abs().sum(-1)
        result["pairwise"] = total / count.clamp(min=1) / math.log(2)
    if "listnet" in terms:
        away = (valid - 1) * FAR
        wanted = torch.softmax(standardise(targets, valid) / temperature + away, -1)
        given = torch.log_softmax(scores + away, -1)
        result["listnet"] = -(wanted * given * valid).sum(-1)
    return result


def weigh(values: dict[str, Tensor], mask: Tensor, weights: Tensor, horizon_weights: Tensor) -> tuple[Tensor, Tensor]:
    """The loss [] and the terms [8] in the order of TERMS, from what `rank_terms` gives per cross-section.

    A cross-section counts by its number of names and by the weight of its horizon; one with fewer than two names counts
    nothing. A term whose weight is 0 is NaN, and no part of the loss.
    """
    names = mask.sum(-1).to(weights.dtype)
    share = torch.where(names >= 2, names, 0.0) * horizon_weights[:, None]
    share = share / share.sum().clamp(min=EPSILON)
    of_horizon = horizon_weights / horizon_weights.sum()
    found = {
        name: (value[:, 0] * of_horizon).sum() if name == "sharpe" else (value * share).sum()
        for name, value in values.items()
    }
    absent = torch.full((), torch.nan, dtype=weights.dtype, device=weights.device)
    terms = torch.stack([found.get(name, absent) for name in TERMS])
    loss = torch.where(weights != 0, weights * terms, 0.0).sum()
    return loss, torch.where(weights != 0, terms, absent).detach()
