"""Parts that look back: adaptive normalisation, banded attention, banded convolution, banded recurrence.

S codes, T days, d width. Each takes [S, T, d] and returns the days whose window lies inside, fewer by what it looks
back.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.model.residual import CodeDropout


def banded(weights: Tensor, days: int) -> Tensor:
    """Matrices [H, days, days + window - 1] whose row t has weights [H, window], by lag, on columns t..t + window - 1.

    The earliest column has the weight of the longest lag. Rows are one stretch of memory, read again and again with
    one element less a row than it has, so that each begins one column further; the gradient is then a sum over rows,
    and no scattered addition.
    """
    window = weights.shape[1]
    stretch = functional.pad(weights.flip(-1), (0, days))
    return stretch.repeat(1, days)[:, : days * (days + window - 1)].unflatten(1, (days, days + window - 1))


def lags(days: int, first: int, device: torch.device) -> Tensor:
    """How many days before day t (of first..days-1) each of the `days` lies: [days - first, days], negative ahead."""
    return torch.arange(first, days, device=device)[:, None] - torch.arange(days, device=device)


class AdaptiveNorm(nn.Module):
    """A learned mix, per channel, of x itself and of x standardised by its own trailing mean and deviation.

    [S, T, d] -> [S, T - max(spans) + 1, d]. Statistics cover the present days of each span and are computed by one
    product with a 0/1 band matrix per span.
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
        both = torch.cat([seen, seen.square()], -1)
        lag = lags(days, lost, x.device)
        for i, span in enumerate(self.spans):
            band = ((lag >= 0) & (lag < span)).to(x.dtype)
            count = (present @ band.T)[..., None].clamp(min=1)
            mean, square = (torch.matmul(band, both) / count).chunk(2, -1)
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
        self.dropout = CodeDropout(dropout, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        codes, days, width = x.shape
        now = x[:, self.window - 1 :]
        query = self._split(self.query(now))
        key, value = (self._split(part) for part in self.key_value(x).chunk(2, -1))
        lag = lags(days, self.window - 1, x.device)
        inside = (lag >= 0) & (lag < self.window)
        seen = inside & ((present[:, None, None, :] > 0) | (lag == 0))
        bias = self.bias[:, lag.clamp(0, self.window - 1)]
        logits = query @ key.transpose(-1, -2) * (width // self.heads) ** -0.5 + bias
        weight = torch.softmax(logits.masked_fill(~seen, -torch.inf), -1)
        mixed = (weight @ value).transpose(1, 2).reshape(codes, now.shape[1], width)
        return self.norm(now + self.dropout(self.out(mixed)))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class BandedConvolution(nn.Module):
    """Weighted sums of the last `window` days, the weights learned per head, from 0 on.

    [S, T, d] -> [S, T - window + 1, d]. A head's weights are a mixture of decays by half in 1, 4, 16, ... days (as the
    moving averages of Ma et al. 2023, "Mega"), or free for each lag, which finds single days and fits more noise. Its
    channels share them (Wu et al. 2019, "Pay Less Attention"), so that they form one band matrix
    [days, days + window - 1] and all codes take one matrix product; a few days at a time, for the band is a small part
    of a large matrix. Absent days count nothing.

    Args:
        decays: whether the weights are mixtures of decays.
    """

    DAYS = 32  # at a time

    def __init__(self, heads: int, window: int, *, decays: bool) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        kernels = torch.eye(window)
        if decays:
            half_lives = torch.tensor([float(4**i) for i in range(window.bit_length()) if i == 0 or 4**i < window])
            kernels = 0.5 ** (torch.arange(window) / half_lives[:, None])
        self.kernels: Tensor  # [kernels, window], each of sum 1
        self.register_buffer("kernels", kernels / kernels.sum(1, keepdim=True), persistent=False)
        self.mix = nn.Parameter(torch.zeros(heads, len(kernels)))

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        # [heads, T, S * d / heads]
        of_heads = (x * present[..., None]).unflatten(-1, (self.heads, -1)).permute(2, 1, 0, 3).flatten(2)
        days, back = x.shape[1] - self.window + 1, self.window - 1
        band = banded(self.mix @ self.kernels, min(self.DAYS, days)).to(x.dtype)
        found = []
        for begin in range(0, days, self.DAYS):
            count = min(self.DAYS, days - begin)
            found.append(torch.bmm(band[:, :count, : count + back], of_heads[:, begin : begin + count + back]))
        # Not len(x): an int, which torch.export would take for a constant.
        return torch.cat(found, 1).unflatten(2, (x.shape[0], -1)).permute(2, 1, 0, 3).flatten(2)


class BandedRecurrence(nn.Module):
    """A gated linear recurrence that starts from nothing `window` days ago, its end gated by the day itself.

    [S, T, d] -> [S, T - window + 1, d]. state_t = (1 - f_t) state_(t-1) + f_t tanh(a_t), with f_t a sigmoid: a GRU
    whose gates see the day and not the state (Martin and Cundy 2018, "Parallelizing Linear Recurrent Neural Nets
    Over Sequence Length"), which lets every day have a window of its own. An absent day leaves the state as it is.
    Channels begin with memories of different length.
    """

    def __init__(self, width: int, window: int, dropout: float) -> None:
        super().__init__()
        self.window = window
        self.inner = nn.Linear(width, width)
        self.forget = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        with torch.no_grad():
            self.forget.bias.copy_(torch.linspace(0.5, -2.5, width))
        self.dropout = CodeDropout(dropout, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        now = x[:, self.window - 1 :]
        # In float32: what a bfloat16 rounds off a decay adds up over the days.
        forget = torch.sigmoid(self.forget(x).float()) * present[..., None]
        state = windowed(1 - forget, forget * torch.tanh(self.inner(x).float()), self.window)
        return self.norm(now + self.dropout(self.out(state * torch.sigmoid(self.gate(now)))))


def windowed(decay: Tensor, added: Tensor, window: int) -> Tensor:
    """state_t = decay_t state_(t-1) + added_t over the `window` days that end on each day, from 0 before them.

    Both [S, T, d]; gives [S, T - window + 1, d], in 2 log2(window) products. Days in a row do to a state what one day
    does, decay it and add something. So the effect of 2 n days is that of n days after that of the n before, and the
    window is composed of spans of 1, 2, 4, ... days, by its binary digits.
    """
    effect, needed = (decay, added), []
    for digit in range(window.bit_length()):
        days = 1 << digit
        if window & days:
            needed.append((effect, days))
        if 2 * days <= window:
            effect = _after(effect, days, effect, days)
    whole, covered = needed[0]
    for effect, days in needed[1:]:
        whole, covered = _after(whole, covered, effect, days), covered + days
    return whole[1]


def _after(late: tuple[Tensor, Tensor], days: int, early: tuple[Tensor, Tensor], before: int) -> tuple[Tensor, Tensor]:
    """The effect of `days` after that of the `before` days ahead; arrays begin with the first day that has them."""
    decay, added = (array[:, before:] for array in late)
    decay_before, added_before = (array[:, : array.shape[1] - days] for array in early)
    return decay * decay_before, torch.addcmul(added, decay, added_before)


# Layers of the temporal branch by the setting of [model] that turns them on; of width, heads, window and dropout.
LAYERS: dict[str, Callable[[int, int, int, float], nn.Module]] = {
    "attention": BandedAttention,
    "recurrence": lambda width, _heads, window, dropout: BandedRecurrence(width, window, dropout),
}
