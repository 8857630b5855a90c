"""Blocks that can close themselves, dropout that is the same on all of a code's days, and noise.

S codes, T days, d width
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CodeDropout(nn.Module):
    """Dropout of whole channels of a code: one draw for all of its days (Gal and Ghahramani 2016), [S, T, d].

    What looks back on several days then sees either all of a channel or nothing of it. Draws one number for T entries,
    from `generator`, or from torch's own.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand(x.shape[0], 1, x.shape[2], device=x.device, generator=self.generator) >= self.rate
        return x * (kept.to(x.dtype) / (1 - self.rate))


class Noise(nn.Module):
    """Adds normal noise of a deviation in training; draws from `generator`, or from torch's own."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.deviation == 0:
            return x
        return x + self.deviation * torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=self.generator)


class GatedResidual(nn.Module):
    """x + gate * update, normalised: a residual block that can close itself (GRN of Lim et al. 2021, TFT)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, 2 * width)
        self.dropout = CodeDropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        update = self.outer(self.dropout(F.silu(self.inner(x))))
        return self.norm(x + F.glu(update, -1))
