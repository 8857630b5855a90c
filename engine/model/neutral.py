"""Scores held back where they follow risk directions of the features (see engine/risk.py), day by day.

What is left over is called feature neutral; a share of it keeps most of what the directions earn on average.

S codes, D days, F features, R risk directions, H horizons
"""

import torch
from torch import Tensor, nn

from kernels.rank_terms import EPSILON, masked_mean


class Neutral(nn.Module):
    """Takes a share of their least-squares slope on the risk directions off scores.

    `directions` [F, R] are 0 at first, which takes off nothing; they are kept with the weights but not trained.
    """

    directions: Tensor

    def __init__(self, features: int, risks: int, share: float) -> None:
        super().__init__()
        self.share = share
        self.register_buffer("directions", torch.zeros(features, min(risks, features)))

    def forward(self, scores: Tensor, x: Tensor, scored: Tensor) -> Tensor:
        """Scores [S, D, H] of features x [S, D, F]; slopes are those of the rows that are `scored` [S, D] (float 0/1).

        x must hold all of those on its days.
        """
        if not self.share:
            return scores
        among = scored.T[:, None]
        risks = self.directions.T @ deviations(x.float().permute(1, 2, 0), among)  # [D, R, S]
        counted = risks * among
        # Directions nearly alike on a day have no slopes of their own; so small an addition to 1 lets them share one.
        scale = among.sum(-1, keepdim=True).clamp(min=1)
        square = ((counted @ counted.mT) / scale).double() + 1e-6 * torch.eye(risks.shape[1], device=x.device)
        slopes, _ = torch.linalg.solve_ex(square, ((counted @ scores.float().transpose(0, 1)) / scale).double())
        return scores - self.share * (risks.mT @ slopes.float()).transpose(0, 1)


def deviations(value: Tensor, among: Tensor) -> Tensor:
    """Values [..., S] less their mean, over their standard deviation, both of the entries of `among` (float 0/1)."""
    centred = value - masked_mean(value, among)
    return centred * torch.rsqrt(masked_mean(centred.square(), among) + EPSILON**2)
