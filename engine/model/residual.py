"""Gated residual blocks, dropout that is the same on all of a code's days, and noise.

S codes, T days, d width
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class CodeShare:
    """Which codes of a block a model is given. Random numbers are drawn for all, so that they do not depend on it."""

    begin: int = 0
    end: int = 0
    codes: int = 0  # of the block; 0: the model is given all

    def all(self, x: Tensor) -> int:
        """Codes of the block of which x [codes of the share, ...] is the share."""
        return self.codes or len(x)

    def of(self, drawn: Tensor) -> Tensor:
        """What belongs to the share, of numbers drawn for all codes."""
        return drawn[self.begin : self.end] if self.codes else drawn


WHOLE = CodeShare()


class CodeDropout(nn.Module):
    """Dropout of whole channels of a code: one draw for all of its days (Gal and Ghahramani 2016), [S, T, d].

    What looks back on several days then sees either all of a channel or nothing of it. Draws one number for T entries,
    from `generator`, or from torch's own. The rate is a tensor: models of other rates share a compiled step.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.on = rate > 0
        self.rate: Tensor
        self.kept: Tensor
        self.register_buffer("rate", torch.tensor(rate), persistent=False)
        self.register_buffer("kept", torch.tensor(1 - rate), persistent=False)
        self.generator: torch.Generator | None = None
        self.share = WHOLE

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.on:
            return x
        drawn = torch.rand(self.share.all(x), 1, x.shape[2], device=x.device, generator=self.generator)
        kept = self.share.of(drawn) >= self.rate
        return x * (kept.to(x.dtype) / self.kept)


class Noise(nn.Module):
    """Adds normal noise of a deviation, a tensor, in training; draws from `generator`, or from torch's own."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.on = deviation > 0
        self.deviation: Tensor
        self.register_buffer("deviation", torch.tensor(deviation), persistent=False)
        self.generator: torch.Generator | None = None
        self.share = WHOLE

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.on:
            return x
        shape = (self.share.all(x), *x.shape[1:])
        drawn = torch.randn(shape, device=x.device, dtype=x.dtype, generator=self.generator)
        return x + self.deviation * self.share.of(drawn)


class GatedResidual(nn.Module):
    """norm(x + gate * update): a gated residual block (GRN of Lim et al. 2021, TFT)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, 2 * width)
        self.dropout = CodeDropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        update = self.outer(self.dropout(F.silu(self.inner(x))))
        return self.norm(x + F.glu(update, -1))
