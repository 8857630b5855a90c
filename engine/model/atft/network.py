"""ATFT, the Adaptive Temporal Fusion Transformer, causal and banded: one pass over D + L - 1 days scores D days.

    temporal  features of all days -> embedding with variable selection -> gated residual -> adaptive normalisation ->
              banded recurrence and/or attention + gated residual, per layer
    static    features of all days -> piecewise-linear embedding with variable selection -> the scored day's, and a
              banded convolution of those before -> gated residuals
    both      added, and a vector for each id -> market tokens -> heads per horizon (a score and quantiles)

Receptive fields of the temporal branch add up: the normalisation looks back max(spans) - 1 days and each layer its
window - 1, and all of them share one budget, L - 1 days; the convolution has as many for itself. Each part gives
exactly the days it can see in full, so a block's scores are those of its windows.

S codes, D scored days, L context, F features, H horizons, Q quantile levels
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from engine.config import ModelConfig, Part
from engine.model.atft.embedding import Categories, Embedding
from engine.model.atft.market import MarketAttention
from engine.model.atft.static import Static
from engine.model.atft.temporal import LAYERS, AdaptiveNorm, BandedConvolution
from engine.model.residual import CodeDropout, GatedResidual, Noise


@dataclass(frozen=True)
class Size:
    width: int  # of the temporal branch
    static: int  # width of the static branch
    heads: int  # of attention
    kernels: int  # heads of the convolution
    layers: int


SIZES = {"tiny": Size(32, 64, 2, 8, 1), "small": Size(64, 96, 4, 16, 1), "base": Size(128, 192, 8, 32, 2)}


class ATFT(nn.Module):
    """Scores of blocks.

    Args:
        features: F, horizons: H, context: L.
        categories: of each feature that is an id, its place among F -> how many ids there are.
    """

    def __init__(
        self, config: ModelConfig, features: int, horizons: int, context: int, categories: dict[int, int]
    ) -> None:
        super().__init__()
        size = SIZES[config.size]
        self.context, self.horizons, self.levels = context, horizons, len(config.quantiles)
        width = max(size.width, size.static) if config.static else size.width
        self.disturb = nn.Sequential(
            CodeDropout(config.feature_dropout, features), Noise(config.feature_noise, features)
        )
        self.static = None
        if config.static:
            embed = Embedding(
                features, width, config.dropout, bins=config.bins, gaussian=config.gaussian, selection=config.selection
            )
            convolution = None
            if config.convolution != "off":
                convolution = BandedConvolution(size.kernels, context, decays=config.convolution == "decays")
            refine = nn.Sequential(_residual(config, width), _residual(config, width))
            self.static = Static(embed, width, convolution, refine)
        self.categories = Categories(features, categories, width) if categories else None
        bins, gaussian = (1, False) if config.static else (config.bins, config.gaussian)
        self.embed = Embedding(
            features, size.width, config.dropout, bins=bins, gaussian=gaussian, selection=config.selection
        )
        self.residual = _residual(config, size.width)
        budget = context - 1
        self.norm = None
        if config.normalisation:
            self.norm = AdaptiveNorm(size.width, config.spans)
            budget -= max(config.spans) - 1
        parts = [kind for kind in LAYERS if getattr(config, kind)] * size.layers
        self.layers = nn.ModuleList()
        for i, kind in enumerate(parts):
            reach = budget // (len(parts) - i)
            budget -= reach
            layer = LAYERS[kind](size.width, size.heads, reach + 1, config.dropout)
            self.layers.append(nn.ModuleList([layer, _residual(config, size.width)]))
        self.unused = budget  # days of the context that the temporal branch does not look back on, 0 with any layer on
        self.widen = nn.Linear(size.width, width) if config.static else nn.Identity()
        self.market = MarketAttention(width, config.market_tokens) if config.market_tokens else None
        self.finish = nn.Sequential(_residual(config, width), CodeDropout(config.dropout, width))
        self.heads = nn.Linear(width, horizons * (1 + self.levels))
        self.off: frozenset[Part] = frozenset()

    @property
    def codes_are_independent(self) -> bool:
        """Whether no code's score depends on another code."""
        return self.market is None or "market" in self.off

    def bypass(self, parts: Sequence[Part]) -> None:
        """Leave these parts out of `forward` from now on, their weights untouched, and no others."""
        self.off = frozenset(parts)

    def freeze(self, parts: Sequence[Part]) -> None:
        """Keep the weights of these parts as they are from now on, and train all others."""
        of_part: dict[Part, tuple[nn.Module | None, ...]] = {
            "embedding": (self.embed, self.residual),
            "normalisation": (self.norm,),
            "temporal": (self.layers, self.widen),
            "static": (self.static, self.categories),
            "market": (self.market,),
            "heads": (self.finish, self.heads),
        }
        for part, modules in of_part.items():
            for module in modules:
                if module is not None:
                    module.requires_grad_(part not in parts)

    def forward(self, x: Tensor, present: Tensor, scored: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scores [S, D, H] and quantiles [S, D, H, Q] of x [S, D + L - 1, F], present [S, D + L - 1] float 0/1.

        Rows of the universe, `scored`, are treated like any other.
        """
        out = self.heads(self.last_layer(x, present)).unflatten(-1, (self.horizons, 1 + self.levels))
        return out[..., 0], out[..., 1:]

    def last_layer(self, x: Tensor, present: Tensor) -> Tensor:
        """What the heads, which are linear, are given: [S, D, W]."""
        days = x.shape[1] - (self.context - 1)
        of_days = x[:, -days:]
        x = self.disturb(x if self.categories is None else self.categories.others(x))
        seen = present[:, self.unused :]
        hidden = self.residual(self.embed(x[:, self.unused :])) * seen[..., None]
        if self.norm is not None and "normalisation" not in self.off:
            hidden = self.norm(hidden, seen)
            seen = seen[:, -hidden.shape[1] :]
        for layer in self.layers if "temporal" not in self.off else ():
            look_back, residual = layer[0], layer[1]  # type: ignore[index]
            hidden = residual(look_back(hidden, seen))
            seen = seen[:, -hidden.shape[1] :]
        hidden, seen = self.widen(hidden[:, -days:]), seen[:, -days:]
        if self.static is not None and "static" not in self.off:
            hidden = hidden + self.static(x, present, days)
        if self.categories is not None and "static" not in self.off:
            hidden = hidden + self.categories(of_days)
        if self.market is not None and "market" not in self.off:
            hidden = self.market(hidden, seen)
        return self.finish(hidden)


def _residual(config: ModelConfig, width: int) -> nn.Module:
    return GatedResidual(width, config.dropout) if config.residual else nn.Identity()
