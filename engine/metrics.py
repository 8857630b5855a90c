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

N samples, G days
"""

import math
from dataclasses import dataclass
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
class _Sections:
    """Samples sorted by day, days with too few of them left out."""

    days: npt.NDArray[Any]  # [G] distinct values of `day`, ascending
    starts: Int  # [G] first sample of each day
    counts: Int  # [G]
    rows: Int  # [N] which input row each sample is
    scores: Float  # [N]
    targets: Float  # [N]

    @property
    def group(self) -> Int:
        """[N] the position of each sample's day."""
        return np.repeat(np.arange(len(self.days)), self.counts)


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
    s = _sections(scores, targets, day)
    empty = dict.fromkeys(FIGURES, math.nan) | {"days": 0, "samples": 0}
    if not len(s.days) or not np.isfinite(s.scores).all():
        return empty
    ic, order = _correlation(s.scores, s.targets, s), _order(s.scores, s)
    rank_ic = _correlation(_ranks(order), _ranks(_order(s.targets, s)), s)
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
    s = _sections(scores, targets, day)
    values = _correlation(_ranks(_order(s.scores, s)), _ranks(_order(s.targets, s)), s)
    bad = np.add.reduceat(~np.isfinite(s.scores), s.starts) > 0 if len(s.days) else np.empty(0, bool)
    return s.days, np.where(bad, np.nan, values)


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
    s = _sections(values, values, day, least=1)
    ranks = (_ranks(_order(s.scores, s)) - 0.5) / np.repeat(s.counts, s.counts) - 0.5
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
    s = _sections(values, np.zeros(len(values)), day, least=1)
    if not len(values):
        return values
    centred, constant = _centred(s.scores, s)
    variance = np.add.reduceat(centred * centred, s.starts) / s.counts
    scale = np.where(constant, 0.0, 1 / np.sqrt(np.where(constant, 1.0, variance)))
    out = np.empty(len(values))
    out[s.rows] = centred * np.repeat(scale, s.counts)
    return out


def _sections(scores: npt.ArrayLike, targets: npt.ArrayLike, day: npt.ArrayLike, least: int = MIN_SAMPLES) -> _Sections:
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
    return _Sections(days, starts, counts, rows, np.asarray(scores, np.float64)[rows], targets[rows])


def _order(values: Float, s: _Sections) -> _Order:
    group = s.group
    order = np.lexsort((values, group))
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


def _correlation(x: Float, y: Float, s: _Sections) -> Float:
    """Pearson's correlation of every day [G]; NaN where x or y is constant."""
    if not len(s.days):
        return np.empty(0)
    x, x_constant = _centred(x, s)
    y, y_constant = _centred(y, s)
    xy, xx, yy = (np.add.reduceat(product, s.starts) for product in (x * y, x * x, y * y))
    undefined = x_constant | y_constant
    scale = np.sqrt(np.where(undefined, 1.0, xx)) * np.sqrt(np.where(undefined, 1.0, yy))
    return np.where(undefined, np.nan, np.clip(xy / scale, -1, 1))


def _centred(x: Float, s: _Sections) -> tuple[Float, npt.NDArray[np.bool_]]:
    """x scaled to a range of 1 and centred within each day [N], and the days on which it is constant [G].

    Constant is decided by the range, not by a variance that rounding keeps from being zero.
    """
    low, high = np.minimum.reduceat(x, s.starts), np.maximum.reduceat(x, s.starts)
    constant = ~(high > low)
    width = np.where(constant, 1.0, high - low)
    x = (x - np.repeat(low, s.counts)) / np.repeat(width, s.counts)
    mean = np.add.reduceat(x, s.starts) / s.counts
    return x - np.repeat(mean, s.counts), constant


def _decile_weights(o: _Order, s: _Sections) -> Float:
    """Weights [N] of the book on each day: +1 spread over the top tenth, -1 over the bottom tenth."""
    n = s.counts[o.group]
    k = n // 10
    high = o.low + o.lengths
    long = np.clip(high - np.maximum(o.low, n - k), 0, None)
    short = np.clip(np.minimum(high, k) - o.low, 0, None)
    weights = np.empty(len(o.order))
    weights[o.order] = np.repeat((long - short) / (o.lengths * k), o.lengths)
    return weights


def _turnover(weights: Float, code: Int, steps: Int, s: _Sections) -> Float:
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
