"""MASTER, the market-guided stock transformer, as a rival, written from its paper.

    atft-engine train --arrow CACHE --model examples.master:master --set data.block_codes=512 --set data.block_days=4

T. Li, Z. Liu, Y. Shen, X. Wang, H. Chen, S. Huang, "MASTER: Market-Guided Stock Transformer for Stock Price
Forecasting", AAAI 2024 (arXiv 2312.15235). For the scored day T, and the days t of its window:

    gate         x'(u,t) = a o x(u,t),  a = F softmax((W m + b) / beta),  m the market's status on day T
    embedding    y(u,t) = LN(f(x'(u,t)) + p(t)),  f linear, p sinusoidal
    intra-stock  h(u,.) = FFN1(MHA1(y(u,.)) + y(u,.))      over the days of a code
    inter-stock  z(.,t) = FFN2(MHA2(h(.,t)) + h(.,t))      over the codes of a day
    temporal     e(u) = sum over t of w(t) z(u,t),  w = softmax of z(u,t)' V z(u,T) over t
    score        g(e(u)),  g linear

FFN(v) is v plus a two-layer perceptron with ReLU. Sizes are the paper's: 8 days, width 256, 4 and 2 heads, beta 5 (it
took 2 for the larger universe, CSI800). Of what it does not give, dropout 0.5 is that of the authors' published
settings; the hidden layer of an FFN is as wide as its input, and attention is scaled by the root of a head's width.

What differs here:

- Market status. The paper has price and volume of three indices: today's value, and mean and deviation over the last 5
  to 60 days. A cache has no index, and where features are ranks or z-scores of the day, their own means and deviations
  are the same every day. What tells days apart is how features go together, so the universe's mean of each feature
  times feature `against` (the first, the day's return in the recipe `ohlcv`) stands in for the index: it says which
  kind of stock went up. Its mean and deviation over `intervals` of days follow, up to `data.context`.
- Codes. The paper's batch is a day with all of its stocks. A training block has up to `data.block_codes` codes of the
  universe, drawn anew each epoch; a code attends to those, and the market's status is an estimate from them. Scoring
  has all codes of the day. The two differ less where blocks hold more codes.
- Universe. Codes attend to those that are in the universe on the scored day; a statistic of a day is over its universe.
  Days without a row are no keys. A code outside the universe gets a score too, from the same keys.
- It is trained as any other network: the same features, loss, schedule, seeds and helpers. The paper has squared errors
  of z-scored returns, a learning rate of 1e-5 and at most 40 epochs.

The gate is that of the scored day for all days of its window, so windows share nothing: a score costs `days` times
what a network that passes over a block once pays, and attention between codes grows with their square.

S codes, T days, D scored days, C days of a window, F features, M market statistics, H horizons, W width
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class MASTER(nn.Module):
    """Gate, intra-stock, inter-stock and temporal aggregation of each scored day's window."""

    codes_are_independent = False
    sees_scored = True  # the codes that a code attends to are those of the universe

    def __init__(
        self, features: int, horizons: int, days: int, intervals: Sequence[int], against: int, width: int,
        heads: Sequence[int], beta: float, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.days, self.intervals, self.against, self.beta = days, tuple(intervals), against, beta
        self.context = max(days, *intervals)
        self.gate = nn.Linear(features * (1 + 2 * len(self.intervals)), features)
        self.embed = nn.Linear(features, width)
        self.register_buffer("positions", sinusoids(days, width))
        self.norm = nn.LayerNorm(width)
        self.intra = Aggregation(width, heads[0], dropout)
        self.inter = Aggregation(width, heads[1], dropout)
        self.by_last = nn.Linear(width, width, bias=False)
        self.head = nn.Linear(width, horizons)

    def forward(self, x: Tensor, present: Tensor, scored: Tensor) -> Tensor:
        """Scores [S, D, H] of x [S, T, F], and present and scored [S, T] (1 or 0)."""
        status = self.status(x, scored)  # [D, M]
        gates = x.shape[-1] * torch.softmax(self.gate(status) / self.beta, -1)
        windows = x[:, self.context - self.days :].unfold(1, self.days, 1).permute(1, 3, 0, 2)  # [D, C, S, F]
        here = present[:, self.context - self.days :].unfold(1, self.days, 1).permute(1, 2, 0) > 0  # [D, C, S]
        member = scored[:, self.context - 1 :].T[:, None] > 0  # [D, 1, S]
        # Scoring takes all codes of a day, whose arrays are large: one day after the other.
        at_once = len(gates) if self.training else 1
        scores = [
            self.of_windows(*part)
            for part in zip(*(array.split(at_once) for array in (windows, gates, here, here & member)), strict=True)
        ]
        return torch.cat(scores).transpose(0, 1)

    def status(self, x: Tensor, scored: Tensor) -> Tensor:
        """The market's status on each scored day, [D, M]: today's statistics, then their means and deviations."""
        weight = scored / scored.sum(0).clamp(min=1)
        daily = torch.einsum("st,stf->tf", weight * x[..., self.against], x)
        found = [daily[self.context - 1 :]]
        for days in self.intervals:
            over = daily[self.context - days :].unfold(0, days, 1)  # [D, F, days]
            found += [over.mean(-1), (over.var(-1, correction=0) + 1e-12).sqrt()]
        return torch.cat(found, -1)

    def of_windows(self, x: Tensor, gate: Tensor, here: Tensor, keys: Tensor) -> Tensor:
        """Scores [D, S, H] of windows x [D, C, S, F] and their gates [D, F].

        Args:
            here: [D, C, S] bool, which days a code has a row on. keys: [D, C, S] bool, and is in the universe.
        """
        embedded = self.norm(self.embed(x * gate[:, None, None]) + self.positions[:, None])  # [D, C, S, W]
        local = self.intra(embedded.transpose(1, 2), here.transpose(1, 2)).transpose(1, 2)
        joint = self.inter(local, keys).transpose(1, 2)  # [D, S, C, W]
        like_last = (self.by_last(joint[:, :, -1:]) * joint).sum(-1)  # [D, S, C]
        seen = here.transpose(1, 2).clone()
        seen[..., -1] = True
        weight = torch.softmax(like_last.masked_fill(~seen, -torch.inf), -1)
        return self.head((weight[..., None] * joint).sum(-2))


class Aggregation(nn.Module):
    """FFN(MHA(v) + v) over the last axis but one."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.widen, self.narrow = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, v: Tensor, keys: Tensor) -> Tensor:
        """[..., N, W] of v [..., N, W]; keys [..., N] bool are attended to, and where none is, nothing is added."""
        rows = v.flatten(0, -3)  # attention is fast on four axes only
        query, key, value = (
            project(rows).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        some = keys.any(-1, keepdim=True)
        mask = (keys | ~some).flatten(0, -2)[:, None, None]  # all where there is none, as 0 / 0 is not a number
        mixed = scaled_dot_product_attention(query, key, value, mask).transpose(1, 2).flatten(2).view_as(v)
        v = v + self.dropout(mixed * some[..., None])
        return v + self.dropout(self.narrow(self.dropout(torch.relu(self.widen(v)))))


def sinusoids(days: int, width: int) -> Tensor:
    """The positions p(t) [days, width]: sines and cosines of wavelengths from 2 pi to 10,000 times that."""
    angles = torch.arange(days)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


def master(
    features: int, horizons: int, context: int, *, days: int = 8, intervals: Sequence[int] = (5, 10, 20),
    against: int = 0, width: int = 256, heads: Sequence[int] = (4, 2), beta: float = 5.0, dropout: float = 0.5,
) -> nn.Module:  # fmt: skip
    """The factory; of `days` and `intervals`, none is above `data.context`."""
    within = sorted({min(interval, context) for interval in intervals})
    return MASTER(features, horizons, min(days, context), within, against, width, heads, beta, dropout)
