"""Gated residual blocks, dropout that is the same on all of a code's days, and noise.

A training step gives both their random numbers in the buffer `drawn`, uniform in [0, 1). Where none were given, they
draw from torch's generator.

S codes, T days, d width
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FINEST = 2.0**-24  # uniform numbers are multiples of it, 0 included, whose normal quantile would be infinite


class CodeDropout(nn.Module):
    """Dropout of whole channels of a code: one draw for all of its days (Gal and Ghahramani 2016), [S, T, d].

    What looks back on several days then sees either all of a channel or nothing of it. The rate is a tensor: models of
    other rates share a step.

    Args:
        width: d.
    """

    def __init__(self, rate: float, width: int) -> None:
        super().__init__()
        self.on, self.width = rate > 0, width
        self.rate: Tensor
        self.kept: Tensor
        self.drawn: Tensor
        self.register_buffer("rate", torch.tensor(rate), persistent=False)
        self.register_buffer("kept", torch.tensor(1 - rate), persistent=False)
        self.register_buffer("drawn", torch.empty(0), persistent=False)

    def shape(self, days: int) -> tuple[int, int]:
        """Of the numbers that a code takes."""
        return 1, self.width

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.on:
            return x
        drawn = self.drawn if self.drawn.numel() else torch.rand(len(x), 1, self.width, device=x.device)
        return x * ((drawn >= self.rate).to(x.dtype) / self.kept)


class Noise(nn.Module):
    """Adds normal noise of a deviation, a tensor, in training, [S, T, d].

    Args:
        width: d.
    """

    def __init__(self, deviation: float, width: int) -> None:
        super().__init__()
        self.on, self.width = deviation > 0, width
        self.deviation: Tensor
        self.drawn: Tensor
        self.register_buffer("deviation", torch.tensor(deviation), persistent=False)
        self.register_buffer("drawn", torch.empty(0), persistent=False)

    def shape(self, days: int) -> tuple[int, int]:
        """Of the numbers that a code takes, with so many days."""
        return days, self.width

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.on:
            return x
        drawn = self.drawn if self.drawn.numel() else torch.rand(x.shape, device=x.device)
        normal = math.sqrt(2) * torch.erfinv(2 * drawn - 1 + FINEST)
        return x + self.deviation * normal.to(x.dtype)


def numbers_per_code(model: nn.Module, days: int) -> int:
    """How many random numbers the model takes for each code of a block of so many days, context included."""
    return sum(math.prod(module.shape(days)) for _, module in _random(model))


def drawn_of(model: nn.Module, numbers: Tensor, days: int) -> dict[str, Tensor]:
    """The buffers of a model that hold what is drawn for a block, by name: views [..., S, *shape] of numbers.

    Args:
        numbers: [..., S, numbers_per_code] uniform in [0, 1). A code's do not depend on the other codes of the block.
    """
    found, begin = {}, 0
    for name, module in _random(model):
        shape = module.shape(days)
        end = begin + math.prod(shape)
        found[f"{name}.drawn"] = numbers[..., begin:end].unflatten(-1, shape)
        begin = end
    return found


def settings_of(model: nn.Module) -> dict[str, Tensor]:
    """The rates and deviations of what is drawn, buffers by name: models of other values share a step."""
    return {
        f"{name}.{setting}": value
        for name, module in _random(model)
        for setting, value in module.named_buffers()
        if setting != "drawn"
    }


def _random(model: nn.Module) -> Iterator[tuple[str, CodeDropout | Noise]]:
    """The modules that draw, by name."""
    for name, module in model.named_modules():
        if isinstance(module, CodeDropout | Noise) and module.on:
            yield name, module


class GatedResidual(nn.Module):
    """norm(x + gate * update): a gated residual block (GRN of Lim et al. 2021, TFT)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, 2 * width)
        self.dropout = CodeDropout(dropout, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        update = self.outer(self.dropout(F.silu(self.inner(x))))
        return self.norm(x + F.glu(update, -1))
