"""Scores held back where they follow risk directions of the features (see engine/risk.py), day by day.

What is left over is called feature neutral; a share of it keeps most of what the directions earn on average.

S codes, D days, F features, R risk directions, H horizons
"""

import torch
from torch import Tensor, nn

from engine.model.cross_section import share_of_day


class Neutral(nn.Module):
    """Takes a share of their least-squares slope on the risk directions off scores.

    `directions` [F, R] are 0 at first, which takes off nothing; they are kept with the weights but not trained.
    """

    directions: Tensor

    def __init__(self, features: int, risks: int, share: float) -> None:
        super().__init__()
        self.share = share
        self.register_buffer("directions", torch.zeros(features, min(risks, features)))

    def forward(self, scores: Tensor, z: Tensor, scored: Tensor) -> Tensor:
        """Scores [D, S, H] of rows whose features, standardised within the day, are z [D, S, F].

        Slopes are those of the rows that are `scored` [D, S] (float 0/1).
        """
        risks = z @ self.directions  # [D, S, R]
        counted = (risks * share_of_day(scored).mT).mT
        # Directions nearly alike on a day have no slopes of their own; so small an addition to 1 lets them share one.
        square = (counted @ risks).double() + 1e-6 * torch.eye(risks.shape[-1], device=z.device)
        slopes, _ = torch.linalg.solve_ex(square, (counted @ scores).double())
        return scores - self.share * (risks @ slopes.float())
