"""Several models of one kind as one: trained from different beginnings on blocks of their own, their scores averaged.

K members, S codes, D days, F features, H horizons, Q quantile levels
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.config import Config, Part
from engine.model.atft import ATFT, build_model
from engine.model.cross_section import standardised, with_squares
from engine.model.neutral import Neutral
from kernels.rank_terms import EPSILON, masked_mean


class Ensemble(nn.Module):
    """K >= 1 members of the same shape, and what is done to their scores.

    Args:
        online: what the online regression (see engine/online.py) counts beside their deviations; 0: nothing.
    """

    def __init__(self, members: list[ATFT], neutral: Neutral, online: float) -> None:
        super().__init__()
        self.members, self.neutral, self.online = nn.ModuleList(members), neutral, online

    @property
    def first(self) -> ATFT:
        """One of them, to ask for what all share."""
        return self.members[0]  # type: ignore[return-value]

    @property
    def horizons(self) -> int:
        return self.first.horizons

    def bypass(self, parts: Sequence[Part]) -> None:
        """See ATFT.bypass, for every member."""
        for member in self.members:
            member.bypass(parts)  # type: ignore[operator]

    def forward(
        self, x: Tensor, present: Tensor, scored: Tensor, slopes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Scores [S, D, H] and quantiles [S, D, H, Q]; see ATFT.forward.

        Of several members: the mean of their scores in deviations from the day's mean over the rows that are `scored`
        [S, D + L - 1] (float 0/1), so each has the same say in the order. With slopes [D, 2F, H] of the online
        regression: its scores added to deviations. Of all: without a share of their slope on risk directions. x must
        hold all rows of its days that are scored.
        """
        every, quantiles = zip(*(member(x, present) for member in self.members), strict=True)
        days = every[0].shape[1]
        scores, scored = every[0], scored[:, -days:].T
        slopes = slopes if self.online else None
        if len(every) > 1 or slopes is not None:
            of_days = [_deviations(score.float().permute(1, 2, 0), scored[:, None]) for score in every]
            scores = torch.stack(of_days).mean(0).permute(2, 0, 1)
        if slopes is not None or self.neutral.share:
            z = standardised(x[:, -days:].float().transpose(0, 1), scored)
            of_days = scores.float().transpose(0, 1)
            if slopes is not None:
                of_days = of_days + self.online * (with_squares(z, scored) @ slopes)
            scores = (self.neutral(of_days, z, scored) if self.neutral.share else of_days).transpose(0, 1)
        return scores, torch.stack(quantiles).mean(0)


def _deviations(value: Tensor, among: Tensor) -> Tensor:
    """Values [..., S] less their mean, over their standard deviation, both of the entries of `among` (float 0/1)."""
    centred = value - masked_mean(value, among)
    return centred * torch.rsqrt(masked_mean(centred.square(), among) + EPSILON**2)


def seeds_of(config: Config) -> range:
    """The seed of each member: of its weights, its blocks and its dropout."""
    return range(config.train.seed, config.train.seed + config.train.seeds)


def build_ensemble(config: Config, features: int, horizons: int) -> Ensemble:
    """train.seeds freshly initialised members, from train.seed on; data.features must be known for model.categories."""
    context, names = config.data.context, config.data.features or ()
    ids = {names.index(name): count for name, count in config.model.categories.items()}
    members = [build_model(config.model, features, horizons, context, seed, ids) for seed in seeds_of(config)]
    return Ensemble(members, Neutral(features, config.model.risks, config.model.neutral), config.model.online)
