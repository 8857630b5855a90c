"""Several networks as one model: trained from different seeds on blocks of their own, their scores averaged.

K members, S codes, D days, H horizons, Q quantile levels
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from engine.config import Config, Part
from engine.model.neutral import Neutral
from engine.model.registry import Network, build_model
from kernels.ranks import EPSILON, masked_mean
from loaders.errors import InputError


class Ensemble(nn.Module):
    """K >= 1 members of the same shape, averaged and neutralised.

    Args:
        deviations: standardise the scores of a single member within the day too, as those of several always are.
    """

    def __init__(self, members: Iterable[nn.Module], neutral: Neutral, deviations: bool) -> None:
        super().__init__()
        self.members, self.neutral, self.deviations = nn.ModuleList(members), neutral, deviations

    @property
    def first(self) -> Network:
        """One of them, to ask for what all share."""
        return self.members[0]  # type: ignore[return-value]

    @property
    def horizons(self) -> int:
        return self.first.horizons

    @property
    def codes_are_independent(self) -> bool:
        """Whether no code's score depends on another code, so that codes may be scored in pieces."""
        return self.first.codes_are_independent

    def with_members(self, members: Iterable[nn.Module]) -> "Ensemble":
        """An ensemble of other members on the same blocks, its scores treated alike."""
        return Ensemble(members, self.neutral, self.deviations)

    def bypass(self, parts: Sequence[Part]) -> None:
        """See Network.bypass, for every member."""
        for member in self.members:
            member.bypass(parts)  # type: ignore[operator]

    def forward(self, x: Tensor, present: Tensor, scored: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [S, D, H] and quantiles [S, D, H, Q]; see Network.forward.

        Scores of several members are z-scored within the day, over the rows that are `scored` [S, D + L - 1] (float
        0/1), and averaged, so that each weighs the same. Then a share of their exposure to risk factors is removed. x
        must hold all scored rows of its days.
        """
        every, quantiles = zip(*(member(x, present, scored) for member in self.members), strict=True)
        days = every[0].shape[1]
        x, scored = x[:, -days:], scored[:, -days:]
        scores = every[0]
        if len(every) > 1 or self.deviations:
            of_days = [_deviations(score.float().permute(1, 2, 0), scored.T[:, None]) for score in every]
            scores = torch.stack(of_days).mean(0).permute(2, 0, 1)
        return self.neutral(scores, x, scored), torch.stack(quantiles).mean(0)


def _deviations(value: Tensor, among: Tensor) -> Tensor:
    """Z-scores of values [..., S]; mean and standard deviation are those of the entries of `among` (float 0/1)."""
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
    if config.model.last_layer_weight and not hasattr(members[0], "last_layer"):
        what = f"the network {config.model.name!r} has no last_layer to be refitted"
        raise InputError("model.last_layer_weight", what, "Leave it at 0, or give the network one, as ATFT has")
    added_to = config.model.online_weight > 0 or config.trees.kind != "off"
    return Ensemble(members, Neutral(features, config.model.risk_factors, config.model.neutralize), added_to)
