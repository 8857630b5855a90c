"""Ranks within cross-sections in plain torch, for any length and by autograd: average ranks for ties, and soft ranks.

Entries outside the mask never touch a value or a gradient.
"""

import torch
from torch import Tensor

EPSILON = 1e-6
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
