"""Recursive least squares over days: what a regression knows on a day, and how the next day changes it.

The slopes of day t are

    argmin_w  sum of 0.5^((t - k - u) / half-life) (r - x'w)^2 over samples of days u <= t - k  +  C / expected^2 w'w,

r the rank of a return over h days within its day, of deviation 1, and x the C regressors, standardised within the day
(Haykin 2002, "Adaptive Filter Theory", chapter 9: exponential forgetting). The second term is a normal prior on the
slopes, by which x'w deviates by `expected`: it keeps them small where samples are few.

Timing: a return over h days from day u is known at the close of day u + k, where k is h plus the manifest's
`known_after`, 0 where it begins at the close of day u. So the slopes of day t use samples of days up to t - k and
nothing later, on days of validation and test as on any other.

N rows, C regressors, H horizons
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.score.cross_section import ranks_within_day
from engine.score.rows import Float32
from loaders.panel import Int, Panel


@dataclass(frozen=True)
class Sums:
    """All that a regression knows on a day: sums over the samples counted by then."""

    squares: Tensor  # [H, C, C] float64, x'x
    products: Tensor  # [H, C] float64, x'r

    def clone(self) -> "Sums":
        return Sums(self.squares.clone(), self.products.clone())

    def to(self, device: torch.device) -> "Sums":
        return Sums(self.squares.to(device), self.products.to(device))


def no_sums(horizons: int, columns: int, device: torch.device) -> Sums:
    """Those of no sample."""
    shapes = (horizons, columns, columns), (horizons, columns)
    return Sums(*(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))


def prior(columns: int, expected: float, device: torch.device) -> Tensor:
    """What is added to x'x, [C, C]."""
    return columns / expected**2 * torch.eye(columns, dtype=torch.float64, device=device)


def label_days(panel: Panel) -> list[int]:
    """Of each horizon, the days after which a return is known."""
    return [h + panel.manifest.known_after for h in panel.manifest.horizons]


class Recursion:
    """Sums that are moved from day to day; `sums` are those of the last day that was added.

    Args:
        sums: of the day before the first that is added; changed in place.
        waits: of each horizon, the days after which a return is known.
        half_life: in days; infinite: nothing is forgotten.
    """

    def __init__(self, sums: Sums, waits: list[int], half_life: float) -> None:
        self.sums, self.fade = sums, 0.5 ** (1 / half_life)
        self.precision = torch.float32 if sums.squares.device.type == "cpu" else torch.float64
        # Of each horizon's last days whose returns are not known yet, the oldest first.
        none = tuple(torch.zeros_like(each[0], dtype=self.precision) for each in (sums.squares, sums.products))
        self.waiting = [deque([none] * days, days) for days in waits]

    def add_day(self, x: Tensor, ranks: Tensor, is_counted: bool = False) -> None:
        """Count the day's samples once their returns are known, and now those whose returns are known on it.

        Args:
            x: regressors [N, C] of the day's universe.
            ranks: [N, H] of their returns, NaN where there is none.
            is_counted: whether the sums are those of this day or a later one: the day only waits then.
        """
        x = x.to(self.precision)
        for i, days in enumerate(self.waiting):
            if not is_counted:
                square, product = days[0]
                self.sums.squares[i].mul_(self.fade).add_(square)
                self.sums.products[i].mul_(self.fade).add_(product)
            known = torch.where(torch.isfinite(ranks[:, i, None]), x, 0.0)
            days.append((known.T @ x, known.T @ ranks[:, i].nan_to_num().to(self.precision)))


def rank_targets(targets: Float32, day: Int) -> Tensor:
    """Ranks within the day of each horizon's targets [N, H], of deviation 1, NaN where there is none."""
    ranks = np.full(targets.shape, np.nan, np.float32)
    for i, column in enumerate(targets.T):
        known = np.isfinite(column)
        ranks[known, i] = ranks_within_day(column[known], day[known]) * np.sqrt(12)
    return torch.from_numpy(ranks)
