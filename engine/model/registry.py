"""Networks by the name that `model.name` gives them: an entry of MODELS, or `package.module:factory` (own.py)."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from engine.config import ModelConfig, Part
from engine.model.atft.network import ATFT
from engine.model.own import build_own
from loaders.errors import InputError


class Network(Protocol):
    """What the engine needs of a network, an `nn.Module`. S codes, D scored days, L context, F features, H horizons,
    Q quantile levels.
    """

    horizons: int

    @property
    def codes_are_independent(self) -> bool:
        """Whether no code's score depends on another code, so that codes may be scored in pieces."""
        ...

    def forward(self, x: Tensor, present: Tensor, scored: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scores [S, D, H] and quantiles [S, D, H, Q] of x [S, D + L - 1, F], present [S, D + L - 1] float 0/1.

        The score of a day sees that day and the L - 1 before it, never a later one.

        Args:
            scored: [S, D + L - 1] float 0/1, which rows are of the universe; None: all that are present.
        """
        ...

    def bypass(self, parts: Sequence[Part]) -> None:
        """Leave these parts out of `forward` from now on, and no others."""
        ...

    def freeze(self, parts: Sequence[Part]) -> None:
        """Keep the weights of these parts as they are from now on, and train all others."""
        ...


# From ModelConfig, F, H, L and the categorical features (place among F -> number of ids).
Factory = Callable[[ModelConfig, int, int, int, dict[int, int]], torch.nn.Module]
MODELS: dict[str, Factory] = {"atft": ATFT}


def build_model(
    config: ModelConfig, features: int, horizons: int, context: int, seed: int, categories: dict[int, int] | None = None
) -> torch.nn.Module:
    """A freshly initialised network; the same weights for the same arguments on one version of torch.

    Raises InputError for a name that MODELS lacks, and what `build_own` raises for one that is imported.
    """
    if not config.is_own and config.name not in MODELS:
        cure = f"Use {', '.join(MODELS)}, or package.module:factory for your own"
        raise InputError("model.name", f"no network {config.name!r}", cure)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.is_own:
            return build_own(config, features, horizons, context)
        return MODELS[config.name](config, features, horizons, context, categories or {})
