"""Embedding of features: piecewise-linear encoding, variable selection, and vectors for categorical features.

S codes, T days, F features, B columns of a feature's basis, d width
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.model.residual import CodeDropout
from kernels.pieces import pieces, weighted_pieces


class Basis(nn.Module):
    """[..., F] -> [..., F, B]: columns that a linear layer turns into a piecewise-linear function of each feature.

    `bins` columns are the piecewise-linear encoding of Gorishniy et al. 2022 ("On Embeddings for Numerical Features"):
    how far the value has passed through each of as many equal pieces of -RANGE..RANGE, the outer ones linear to
    infinity. With `gaussian`, one more: the normal quantile of the value taken as a uniform rank, which spreads the
    tails that ranks compress.
    """

    RANGE = 1.75  # covers a uniform distribution of deviation 1, and 92% of a normal one

    def __init__(self, bins: int, gaussian: bool) -> None:
        super().__init__()
        self.bins, self.gaussian = bins, gaussian
        self.columns = bins + gaussian
        piece = 2 * self.RANGE / bins
        low, high = torch.zeros(bins), torch.full((bins,), piece)
        low[0], high[-1] = -torch.inf, torch.inf
        self.edges: Tensor
        self.low: Tensor
        self.high: Tensor
        self.register_buffer("edges", torch.arange(bins) * piece - self.RANGE, persistent=False)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        columns = x[..., None] if self.bins == 1 else pieces(x, self.edges, self.low, self.high)
        if not self.gaussian:
            return columns
        normal = math.sqrt(2) * torch.erfinv((x / self.RANGE).clamp(-0.998, 0.998))
        return torch.cat([columns, normal[..., None]], -1)

    def weighted(self, x: Tensor, weight: Tensor, matrix: Tensor) -> Tensor:
        """The columns, each times its feature's weight [..., F], times a matrix [d, F B]: [..., d]."""
        if self.gaussian or self.bins == 1:
            return functional.linear((weight[..., None] * self(x)).flatten(-2), matrix)
        return weighted_pieces(x, weight, matrix, self.edges, self.low, self.high)


class Embedding(nn.Module):
    """[S, T, F] -> [S, T, d]: sum_f w_f (A_f basis(x_f) + B_f), with weights w of variable selection or all 1.

    Selection weighs the day's features against one another by a small network of all of them (Lim et al. 2021, TFT).
    The weighted sum of all features' embeddings is two matrix products; no [S, T, F, d] array ever exists.
    """

    def __init__(
        self,
        features: int,
        width: int,
        dropout: float,
        *,
        bins: int = 1,
        gaussian: bool = False,
        selection: bool = True,
    ) -> None:
        super().__init__()
        self.basis = Basis(bins, gaussian)
        self.slope = nn.Linear(features * self.basis.columns, width)
        self.query, self.intercept = None, None
        if selection:
            self.query = nn.Sequential(
                nn.Linear(features, width), nn.SiLU(), CodeDropout(dropout, width), nn.Linear(width, features)
            )
            self.intercept = nn.Linear(features, width, bias=False)

    def weights(self, x: Tensor) -> Tensor:
        """What each feature counts, [S, T, F]; their mean is 1. Raises ValueError without selection."""
        if self.query is None:
            raise ValueError("this model weighs no variables: model.selection is off")
        # Scaled by F, so that the layer starts like a plain linear one.
        return torch.softmax(self.query(x), -1) * x.shape[-1]

    def forward(self, x: Tensor) -> Tensor:
        if self.query is None or self.intercept is None:
            return self.slope(self.basis(x).flatten(-2))
        weight = self.weights(x)
        intercept = functional.linear(weight, self.intercept.weight, self.slope.bias)
        return self.basis.weighted(x, weight, self.slope.weight) + intercept


class Categories(nn.Module):
    """[S, T, F] -> [S, T, d]: the sum of a learned vector for each feature that is an id, such as a sector's.

    Args:
        counts: place of the feature among F -> how many ids it has, from 0 on.
    """

    def __init__(self, features: int, counts: dict[int, int], width: int) -> None:
        super().__init__()
        self.places = tuple(counts)
        self.tables = nn.ModuleList(nn.Embedding(count, width) for count in counts.values())
        numeric = torch.ones(features)
        numeric[list(counts)] = 0
        self.numeric: Tensor
        self.register_buffer("numeric", numeric, persistent=False)

    def others(self, x: Tensor) -> Tensor:
        """x with 0 for the ids: as numbers they mean nothing."""
        return x * self.numeric

    def forward(self, x: Tensor) -> Tensor:
        vectors = [table(x[..., i].long()) for i, table in zip(self.places, self.tables, strict=True)]
        return torch.stack(vectors).sum(0)
