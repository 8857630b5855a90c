"""A day's rows against one another, S codes, D days, C columns."""

import torch
from torch import Tensor

from kernels.rank_terms import EPSILON


def standardised(values: Tensor, scored: Tensor) -> Tensor:
    """Each day's values [D, S, C] less their mean over their deviation, both of the rows that are `scored` [D, S].

    A column that is constant on a day is 0 there.
    """
    weight = share_of_day(scored)
    mean = weight @ values
    centred = values - mean
    variance = weight @ centred.square()
    # A constant column deviates by rounding alone, which is in proportion to its value.
    return centred * torch.where(variance > (1e-5 * mean).square() + EPSILON**2, torch.rsqrt(variance), 0.0)


def share_of_day(scored: Tensor) -> Tensor:
    """What each row counts in a mean over the day's scored ones, [D, 1, S] of `scored` [D, S] (float 0/1)."""
    return scored[:, None] / scored.sum(1).clamp(min=1)[:, None, None]


def with_squares(z: Tensor, scored: Tensor) -> Tensor:
    """Columns [D, S, 2F] of a regression that bends: features as `standardised` gives them and their squares alike."""
    return torch.cat([z, standardised(z.square(), scored)], -1)
