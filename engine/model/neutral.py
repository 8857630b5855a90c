"""Neutralisation: remove a share of the scores' exposure to risk factors, day by day (see engine/score/risk.py).

Scores without any exposure are called feature neutral. Removing a share keeps most of what the factors earn on average.

S codes, D days, F features, R risk directions, H horizons
"""

import torch
from torch import Tensor, nn

from kernels.ranks import EPSILON


def centred_and_scale(x: Tensor, share_of: Tensor) -> tuple[Tensor, Tensor]:
    """Each day's x [D, S, F] less its mean, and one over its deviation [D, 1, F], 0 for what is constant on the day.

    Args:
        share_of: [D, 1, S] what each row counts in a mean over the day, of sum 1.
    """
    mean = share_of @ x
    centred = x - mean
    variance = share_of @ centred.square()
    # A constant feature deviates by rounding alone, which is in proportion to its value.
    scale = torch.where(variance > (1e-5 * mean).square() + EPSILON**2, torch.rsqrt(variance), 0.0)
    return centred, scale


class Neutral(nn.Module):
    """Removes a share of the scores' least-squares projection on the risk factors.

    `directions` [F, R] are 0 at first, which removes nothing; they are saved with the weights but not trained.
    """

    directions: Tensor

    def __init__(self, features: int, risks: int, share: float) -> None:
        super().__init__()
        self.share = share
        self.register_buffer("directions", torch.zeros(features, min(risks, features)))

    def solve(self, square: Tensor, right: Tensor) -> Tensor:
        """Slopes [D, R, H] of normal equations, positive definite [D, R, R] and [D, R, H]."""
        return torch.linalg.solve_ex(square, right)[0]

    def forward(self, scores: Tensor, x: Tensor, scored: Tensor) -> Tensor:
        """Scores [S, D, H] of features x [S, D, F]; slopes are fitted on the rows that are `scored` [S, D] (float 0/1).

        x must hold all of those on its days.
        """
        if not self.share:
            return scores
        share_of = scored.T[:, None] / scored.sum(0).clamp(min=1)[:, None, None]  # [D, 1, S] of a day's mean
        centred, scale = centred_and_scale(x.float().transpose(0, 1), share_of)
        risks = centred @ (self.directions * scale.mT)  # [D, S, R]
        counted = (risks * share_of.mT).mT
        # Directions nearly alike on a day have no slopes of their own; so small an addition to 1 lets them share one.
        square = (counted @ risks).double() + 1e-6 * torch.eye(risks.shape[-1], device=x.device)
        slopes = self.solve(square, (counted @ scores.float().transpose(0, 1)).double())
        return scores - self.share * (risks @ slopes.float()).transpose(0, 1)
