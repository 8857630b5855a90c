"""The parts of the model, each causal and each aware of absent days.

S codes, T days, d width. Every part takes and gives [S, T, d]; parts that look back give fewer days.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GatedResidual(nn.Module):
    """x + gate * update, normalised: a residual block that can close itself (GRN of Lim et al. 2021, TFT)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, 2 * width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        update = self.outer(self.dropout(F.silu(self.inner(x))))
        return self.norm(x + F.glu(update, -1))


class VariableSelection(nn.Module):
    """Weigh the day's features against one another, then embed them: sum_f w_f(x) * (A_f basis(x_f) + B_f).

    [S, T, F] -> [S, T, d]. `basis` is the piecewise-linear encoding of Gorishniy et al. 2022 ("On Embeddings for
    Numerical Features"): `bins` equal pieces of -RANGE..RANGE, the outer ones linear to infinity, so that a feature's
    effect may bend; one bin is a plain linear embedding. The weighted sum of all embeddings is two matrix products and
    no [S, T, F, d] array ever exists.
    """

    RANGE = 1.75  # covers a uniform distribution of deviation 1, and 92% of a normal one

    def __init__(self, features: int, width: int, dropout: float, bins: int) -> None:
        super().__init__()
        self.query = nn.Sequential(
            nn.Linear(features, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, features)
        )
        self.slope = nn.Linear(features * bins, width)
        self.intercept = nn.Linear(features, width, bias=False)
        self.features, self.bins = features, bins
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
        # Scaled by F so that equal weights are 1 and the layer starts like a plain linear one.
        weight = torch.softmax(self.query(x), -1) * self.features
        if self.bins == 1:
            return self.slope(weight * x) + self.intercept(weight)
        return self.slope((weight[..., None] * self._basis(x)).flatten(-2)) + self.intercept(weight)

    def _basis(self, x: Tensor) -> Tensor:
        """[..., F] -> [..., F, bins]: how far x has passed through each piece, in units of the feature."""
        return torch.minimum(torch.maximum(x[..., None] - self.edges, self.low), self.high)


class AdaptiveNorm(nn.Module):
    """A learned mix, per channel, of x itself and of x standardised by its own trailing mean and deviation.

    [S, T, d] -> [S, T - max(spans) + 1, d]: the first days only serve as history. Statistics cover the present days of
    each span and are computed by one product with a 0/1 band matrix per span.
    """

    def __init__(self, width: int, spans: tuple[int, ...]) -> None:
        super().__init__()
        self.spans = spans
        self.mix = nn.Parameter(torch.zeros(len(spans) + 1, width))
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        days, lost = x.shape[1], max(self.spans) - 1
        mix = torch.softmax(self.mix, 0)
        now = x[:, lost:]
        result = mix[0] * now
        seen = x * present[..., None]
        lag = torch.arange(lost, days, device=x.device)[:, None] - torch.arange(days, device=x.device)
        for i, span in enumerate(self.spans):
            band = ((lag >= 0) & (lag < span)).to(x.dtype)
            count = (present @ band.T)[..., None].clamp(min=1)
            mean = torch.matmul(band, seen) / count
            square = torch.matmul(band, seen.square()) / count
            deviation = (square - mean.square()).clamp(min=0.0).add(0.1).sqrt()
            result = result + mix[i + 1] * (now - mean) / deviation
        return result * self.scale + self.shift


class BandedAttention(nn.Module):
    """Causal attention of each day to its last `window` days, itself included, with a learned bias per lag and head.

    [S, T, d] -> [S, T - window + 1, d]. Absent days are never attended to, but for a day's attention to itself, which
    keeps the softmax defined.
    """

    def __init__(self, width: int, heads: int, window: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(heads, window))
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        codes, days, width = x.shape
        now = x[:, self.window - 1 :]
        query = self._split(self.query(now))
        key, value = (self._split(part) for part in self.key_value(x).chunk(2, -1))
        lag = torch.arange(self.window - 1, days, device=x.device)[:, None] - torch.arange(days, device=x.device)
        inside = (lag >= 0) & (lag < self.window)
        seen = inside & ((present[:, None, None, :] > 0) | (lag == 0))
        bias = self.bias[:, lag.clamp(0, self.window - 1)]
        logits = query @ key.transpose(-1, -2) * (width // self.heads) ** -0.5 + bias
        weight = torch.softmax(logits.masked_fill(~seen, -torch.inf), -1)
        mixed = (weight @ value).transpose(1, 2).reshape(codes, now.shape[1], width)
        return self.norm(now + self.dropout(self.out(mixed)))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
