"""What a score is worth: the one place where figures are computed, in float64, from samples of whole cross-sections.

A cross-section is the samples (rows with a target) of one day. Days with fewer than MIN_SAMPLES samples are skipped,
and so are days on which scores or targets are constant, since no correlation exists there. A figure that no day
defines is NaN, never 0, and a score that is not finite makes every figure NaN: a diverged model has no result.

    ic, rank_ic        mean over days of Pearson's and of Spearman's correlation (average ranks for ties)
    icir, rank_icir    mean / standard deviation over days
    rank_ic_se, _t     Newey-West standard error of the mean, lag max(h - 1, 5), and mean / standard error
    decile_spread      mean over days of the h-day return of the top tenth minus the bottom tenth, equal weights
    sharpe             mean / standard deviation of that return on every h-th day, times sqrt(252 / h)
    sharpe_net         the same after cost_bps / 10,000 x turnover at every rebalance, the first one included
    turnover           half the sum of |change of weight| at a rebalance, mean over all but the first; the book is
                       1 long and 1 short, so 0 is no trade and 2 a completely new book
    days, samples      days that count, and samples on them

A tenth of n names is floor(n / 10). Names that tie across its border share the places inside it, so the portfolio
does not depend on the order of the rows. Standard deviations are of the sample (n - 1).

Scores change with every epoch, samples do not: what depends on targets alone, `Samples` computes once.

N samples, G days
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Figures = dict[str, float]

MIN_SAMPLES = 20
TRADING_DAYS = 252
FIGURES = (
    "ic", "icir", "rank_ic", "rank_icir", "rank_ic_se", "rank_ic_t",
    "decile_spread", "sharpe", "sharpe_net", "turnover", "days", "samples",
)  # fmt: skip


@dataclass(frozen=True)
class _Centred:
    """One side of a correlation: values less their day's mean, in units of its range."""

    values: Float  # [N]
    norm: Float  # [G] root of the sum of squares, 1 where constant
    constant: npt.NDArray[np.bool_]  # [G]


@dataclass(frozen=True)
class Samples:
    """Samples sorted by day, days with too few of them left out; see `samples_of`."""

    days: npt.NDArray[Any]  # [G] distinct values of `day`, ascending
    starts: Int  # [G] first sample of each day
    counts: Int  # [G]
    rows: Int  # [N] which input row each sample is
    targets: Float  # [N]

    @property
    def group(self) -> Int:
        """[N] the position of each sample's day."""
        return np.repeat(np.arange(len(self.days)), self.counts)

    @cached_property
    def _returns(self) -> _Centred:
        return _centred(self.targets, self)

    @cached_property
    def _ranks(self) -> _Centred:
        return _centred(_ranks(_order(self.targets, self)), self)


@dataclass(frozen=True)
class _Order:
    """Samples in ascending order within their day, and the runs of equal values they form."""

    order: Int  # [N] sample at each place
    lengths: Int  # [R] samples of each run
    low: Int  # [R] places of its day before the run
    group: Int  # [R] position of its day


def split_metrics(
    scores: npt.ArrayLike,
    targets: npt.ArrayLike,
    day: npt.ArrayLike,
    code: npt.ArrayLike,
    horizon: int,
    cost_bps: float = 10.0,
) -> Figures:
    """All figures of one split and horizon, keyed by FIGURES.

    Args:
        scores: [N] float, any scale.
        targets: [N] float, h-day returns; rows whose target is not finite are dropped first.
        day: [N] int or dates, one value per day, in the order of time.
        code: [N] int, one value >= 0 per security.
        horizon: h, days ahead of the targets.
        cost_bps: cost of a turnover of 1, in 1/10,000.
    """
    return figures_of(samples_of(targets, day), scores, code, horizon, cost_bps)


def samples_of(targets: npt.ArrayLike, day: npt.ArrayLike, least: int = MIN_SAMPLES) -> Samples:
    """The samples of whole cross-sections, for scores that come later; what of them does not change is kept.

    Args:
        targets, day: as for `split_metrics`.
        least: samples of a day that counts.
    """
    targets, day = np.asarray(targets, np.float64), np.asarray(day)
    rows = np.flatnonzero(np.isfinite(targets))
    if (day[rows][1:] < day[rows][:-1]).any():
        rows = rows[np.argsort(day[rows], kind="stable")]
    new = np.flatnonzero(day[rows][1:] != day[rows][:-1]) + 1
    starts = np.concatenate([[0], new]) if len(rows) else np.empty(0, np.int64)
    counts = np.diff(np.append(starts, len(rows)))
    days = day[rows[starts]]
    enough = counts >= least
    if not enough.all():
        rows = rows[np.repeat(enough, counts)]
        days, counts = days[enough], counts[enough]
        starts = np.cumsum(counts) - counts
    return Samples(days, starts, counts, rows, targets[rows])


def figures_of(s: Samples, scores: npt.ArrayLike, code: npt.ArrayLike, horizon: int, cost_bps: float = 10.0) -> Figures:
    """`split_metrics` of samples made once: scores and code are [N] of the rows that `samples_of` was given."""
    empty = dict.fromkeys(FIGURES, math.nan) | {"days": 0, "samples": 0}
    values = np.asarray(scores)[s.rows]
    if not len(s.days) or not np.isfinite(values).all():
        return empty
    order = _order(values, s)
    ic = _correlation(_centred(values.astype(np.float64), s), s._returns, s)
    rank_ic = _correlation(_centred(_ranks(order), s), s._ranks, s)
    weights = _decile_weights(order, s)
    counted = np.flatnonzero(np.isfinite(ic) & np.isfinite(rank_ic))
    if not len(counted):
        return empty
    spread = np.add.reduceat(weights * s.targets, s.starts)[counted]
    steps = counted[::horizon]
    turnover = _turnover(weights, np.asarray(code, np.int64)[s.rows], steps, s)
    gross = spread[::horizon]
    net = gross - cost_bps / 1e4 * turnover
    annual = math.sqrt(TRADING_DAYS / horizon)
    ic, rank_ic = ic[counted], rank_ic[counted]
    se = newey_west_se(rank_ic, max(horizon - 1, 5))
    return {
        "ic": _mean(ic),
        "icir": _mean_over_std(ic),
        "rank_ic": _mean(rank_ic),
        "rank_icir": _mean_over_std(rank_ic),
        "rank_ic_se": se,
        "rank_ic_t": _ratio(_mean(rank_ic), se),
        "decile_spread": _mean(spread),
        "sharpe": _mean_over_std(gross) * annual,
        "sharpe_net": _mean_over_std(net) * annual,
        "turnover": _mean(turnover[1:]),
        "days": len(counted),
        "samples": int(s.counts[counted].sum()),
    }


def daily_rank_ic(scores: npt.ArrayLike, targets: npt.ArrayLike, day: npt.ArrayLike) -> tuple[npt.NDArray[Any], Float]:
    """Spearman's correlation of every day with enough samples: days [G] ascending and values float64 [G].

    Arguments as for `split_metrics`. A day is NaN where scores or targets are constant or a score is not finite.
    """
    s = samples_of(targets, day)
    if not len(s.days):
        return s.days, np.empty(0)
    values = np.asarray(scores)[s.rows]
    rank_ic = _correlation(_centred(_ranks(_order(values, s)), s), s._ranks, s)
    bad = np.add.reduceat(~np.isfinite(values), s.starts) > 0
    return s.days, np.where(bad, np.nan, rank_ic)


def newey_west_se(values: npt.ArrayLike, lag: int) -> float:
    """Standard error of the mean of an autocorrelated series [G] (Newey and West 1987, Bartlett weights).

    se^2 = (c_0 + 2 sum_k (1 - k / (lag + 1)) c_k) / G with c_k = sum_t x_t x_(t-k) / G of the centred series and
    k up to min(lag, G - 1). NaN for fewer than 2 values.
    """
    x = np.asarray(values, np.float64)
    if len(x) < 2:
        return math.nan
    x = x - x.mean()
    total = float(x @ x)
    for k in range(1, min(lag, len(x) - 1) + 1):
        total += 2 * (1 - k / (lag + 1)) * float(x[k:] @ x[:-k])
    return math.sqrt(max(total, 0.0)) / len(x)


def ranks_within_day(values: npt.ArrayLike, day: npt.ArrayLike) -> Float:
    """Average ranks of finite values within their day, centred and scaled: (rank - 1/2) / n - 1/2, in (-1/2, 1/2).

    Args:
        values: [N] float, finite.
        day: [N] int or dates.
    """
    s = samples_of(values, day, least=1)
    ranks = (_ranks(_order(s.targets, s)) - 0.5) / np.repeat(s.counts, s.counts) - 0.5
    out = np.empty(len(ranks))
    out[s.rows] = ranks
    return out


def zscores_within_day(values: npt.ArrayLike, day: npt.ArrayLike) -> Float:
    """Values [N] less their day's mean, over its standard deviation (of n); zeros on a day where they are constant.

    Args:
        values: [N] float.
        day: [N] int or dates.
    """
    values = np.asarray(values, np.float64)
    s = samples_of(np.zeros(len(values)), day, least=1)
    if not len(values):
        return values
    centred = _centred(values[s.rows], s)
    scale = np.where(centred.constant, 0.0, np.sqrt(s.counts) / centred.norm)
    out = np.empty(len(values))
    out[s.rows] = centred.values * np.repeat(scale, s.counts)
    return out


def _order(values: npt.NDArray[Any], s: Samples) -> _Order:
    group = s.group
    order = np.empty(len(values), np.int64)
    # Day by day and in the values' own type: a tenth of the time of one sort of everything by two keys.
    for start, count in zip(s.starts.tolist(), s.counts.tolist(), strict=True):
        order[start : start + count] = np.argsort(values[start : start + count]) + start
    ordered = values[order]
    new = np.empty(len(values), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    new[s.starts] = True
    runs = np.flatnonzero(new)
    group = group[runs]
    return _Order(order, np.diff(np.append(runs, len(values))), runs - s.starts[group], group)


def _ranks(o: _Order) -> Float:
    """Average ranks [N], 1..n within each day."""
    ranks = np.empty(len(o.order))
    ranks[o.order] = np.repeat(o.low + (o.lengths + 1) / 2, o.lengths)
    return ranks


def _correlation(x: _Centred, y: _Centred, s: Samples) -> Float:
    """Pearson's correlation of every day [G]; NaN where x or y is constant."""
    xy = np.add.reduceat(x.values * y.values, s.starts)
    return np.where(x.constant | y.constant, np.nan, np.clip(xy / (x.norm * y.norm), -1, 1))


def _centred(x: Float, s: Samples) -> _Centred:
    """Constant is decided by the range, not by a variance that rounding keeps from being zero. Of one day or more."""
    low, high = np.minimum.reduceat(x, s.starts), np.maximum.reduceat(x, s.starts)
    constant = ~(high > low)
    width = np.where(constant, 1.0, high - low)
    x = (x - np.repeat(low, s.counts)) / np.repeat(width, s.counts)
    x = x - np.repeat(np.add.reduceat(x, s.starts) / s.counts, s.counts)
    return _Centred(x, np.sqrt(np.where(constant, 1.0, np.add.reduceat(x * x, s.starts))), constant)


def _decile_weights(o: _Order, s: Samples) -> Float:
    """Weights [N] of the book on each day: +1 spread over the top tenth, -1 over the bottom tenth."""
    n = s.counts[o.group]
    k = n // 10
    high = o.low + o.lengths
    long = np.clip(high - np.maximum(o.low, n - k), 0, None)
    short = np.clip(np.minimum(high, k) - o.low, 0, None)
    weights = np.empty(len(o.order))
    weights[o.order] = np.repeat((long - short) / (o.lengths * k), o.lengths)
    return weights


def _turnover(weights: Float, code: Int, steps: Int, s: Samples) -> Float:
    """Turnover at each rebalance; the first one buys the book from nothing."""
    held = np.zeros(int(code.max()) + 1)
    turnover = np.empty(len(steps))
    for i, g in enumerate(steps):
        names = slice(s.starts[g], s.starts[g] + s.counts[g])
        wanted = np.zeros_like(held)
        wanted[code[names]] = weights[names]
        turnover[i] = np.abs(wanted - held).sum() / 2
        held = wanted
    return turnover


def _mean(x: Float) -> float:
    return float(x.mean()) if len(x) else math.nan


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else math.nan


def _mean_over_std(x: Float) -> float:
    return _ratio(_mean(x), float(x.std(ddof=1))) if len(x) > 1 else math.nan
