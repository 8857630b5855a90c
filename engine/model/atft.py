"""ATFT, the Adaptive Temporal Fusion Transformer, causal and banded: one pass over D + L - 1 days scores D days.

    features -> variable selection -> gated residual -> adaptive normalisation -> banded attention + gated residual, per
    layer -> heads per horizon (a score and quantiles)

Receptive fields add up: the normalisation looks back max(spans) - 1 days and each layer its window - 1, and all of them
share one budget, L - 1 days. Each part gives exactly the days it can see in full, so a block's scores are those of its
windows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.config import ModelConfig
from engine.model.layers import AdaptiveNorm, BandedAttention, GatedResidual, VariableSelection


@dataclass(frozen=True)
class Size:
    width: int
    heads: int
    layers: int


SIZES = {"tiny": Size(32, 4, 1), "small": Size(64, 4, 1), "base": Size(128, 8, 2)}


class ATFT(nn.Module):
    """Scores of blocks.

    Args:
        features: F, horizons: H, context: L.
    """

    def __init__(self, config: ModelConfig, features: int, horizons: int, context: int) -> None:
        super().__init__()
        size = SIZES[config.size]
        self.context, self.horizons, self.levels = context, horizons, len(config.quantiles)
        budget = context - 1
        if config.selection:
            self.embed: nn.Module = VariableSelection(features, size.width, config.dropout, config.bins)
        else:
            self.embed = nn.Linear(features, size.width)
        self.residual = GatedResidual(size.width, config.dropout) if config.residual else nn.Identity()
        self.norm = None
        if config.normalisation:
            self.norm = AdaptiveNorm(size.width, config.spans)
            budget -= max(config.spans) - 1
        self.layers = nn.ModuleList()
        if config.attention:
            for layer in range(size.layers):
                reach = budget // (size.layers - layer)
                budget -= reach
                attention = BandedAttention(size.width, size.heads, reach + 1, config.dropout)
                residual = GatedResidual(size.width, config.dropout) if config.residual else nn.Identity()
                self.layers.append(nn.ModuleList([attention, residual]))
        self.unused = budget  # days of the context that no part looks back on, 0 with attention on
        self.heads = nn.Linear(size.width, horizons * (1 + self.levels))

    def forward(self, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [S, D, H] and quantiles [S, D, H, Q] of x [S, D + L - 1, F], present [S, D + L - 1] float 0/1."""
        x, present = x[:, self.unused :], present[:, self.unused :]
        hidden = self.residual(self.embed(x)) * present[..., None]
        if self.norm is not None:
            hidden = self.norm(hidden, present)
            present = present[:, -hidden.shape[1] :]
        for layer in self.layers:
            attention, residual = layer[0], layer[1]  # type: ignore[index]
            hidden = residual(attention(hidden, present))
            present = present[:, -hidden.shape[1] :]
        out = self.heads(hidden).unflatten(-1, (self.horizons, 1 + self.levels))
        return out[..., 0], out[..., 1:]


def build_model(config: ModelConfig, features: int, horizons: int, context: int, seed: int) -> ATFT:
    """A freshly initialised model; the same weights for the same arguments on one version of torch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ATFT(config, features, horizons, context)
