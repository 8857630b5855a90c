"""Metrics: what scores are worth. The one place where they are computed, in float64, from whole cross-sections.

Days with fewer than MIN_SAMPLES samples are skipped, and so are days on which scores or targets are constant, since no
correlation exists there. A metric that no day defines is NaN, never 0, and a score that is not finite makes every
metric NaN: a diverged model has no result.

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

A new metric is an entry of METRICS.

N samples, G days that count, K rebalances
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.score.cross_section import (
    Float,
    Int,
    Order,
    Samples,
    average_ranks,
    centred,
    correlation,
    samples_of,
    sort_within_day,
)

Metrics = dict[str, float]

TRADING_DAYS = 252


@dataclass(frozen=True)
class Daily:
    """What the metrics of one horizon are made of: values per day that counts, or per rebalance (every h-th day)."""

    horizon: int
    ic: Float  # [G]
    rank_ic: Float  # [G]
    spread: Float  # [G] return of the top tenth minus the bottom tenth
    turnover: Float  # [K]
    net: Float  # [K] spread after costs
    samples: int

    @property
    def rank_ic_se(self) -> float:
        return newey_west_se(self.rank_ic, max(self.horizon - 1, 5))

    @property
    def annual(self) -> float:
        """What a ratio of h-day returns is multiplied by to be annual."""
        return math.sqrt(TRADING_DAYS / self.horizon)


@dataclass(frozen=True)
class Metric:
    """How a metric is computed, what tables call it and how it prints, and whether a study may maximise it."""

    compute: Callable[[Daily], float]
    label: str
    form: str
    maximised: bool = True


METRICS = {
    "rank_ic": Metric(lambda d: _mean(d.rank_ic), "RankIC", ".4f"),
    "rank_ic_se": Metric(lambda d: d.rank_ic_se, "  standard error", ".4f", maximised=False),
    "rank_ic_t": Metric(lambda d: _ratio(_mean(d.rank_ic), d.rank_ic_se), "  t", ".1f"),
    "rank_icir": Metric(lambda d: _mean_over_std(d.rank_ic), "RankICIR", ".3f"),
    "ic": Metric(lambda d: _mean(d.ic), "IC", ".4f"),
    "icir": Metric(lambda d: _mean_over_std(d.ic), "ICIR", ".3f"),
    "decile_spread": Metric(lambda d: _mean(d.spread), "decile spread", ".3%"),
    "sharpe": Metric(lambda d: _mean_over_std(d.spread[:: d.horizon]) * d.annual, "Sharpe", ".2f"),
    "sharpe_net": Metric(lambda d: _mean_over_std(d.net) * d.annual, "  after costs", ".2f"),
    "turnover": Metric(lambda d: _mean(d.turnover[1:]), "turnover", ".2f", maximised=False),
    "days": Metric(lambda d: len(d.ic), "days", ",.0f", maximised=False),
    "samples": Metric(lambda d: d.samples, "samples", ",.0f", maximised=False),
}


def split_metrics(
    scores: npt.ArrayLike,
    targets: npt.ArrayLike,
    day: npt.ArrayLike,
    code: npt.ArrayLike,
    horizon: int,
    cost_bps: float = 10.0,
) -> Metrics:
    """All metrics of one split and horizon, keyed as METRICS.

    Args:
        scores: [N] float, any scale.
        targets: [N] float, h-day returns; rows whose target is not finite are dropped first.
        day: [N] int or dates, one value per day, in the order of time.
        code: [N] int, one value >= 0 per security.
        horizon: h, days ahead of the targets.
        cost_bps: cost of a turnover of 1, in 1/10,000.
    """
    return metrics_of(samples_of(targets, day), scores, code, horizon, cost_bps)


def metrics_of(s: Samples, scores: npt.ArrayLike, code: npt.ArrayLike, horizon: int, cost_bps: float = 10.0) -> Metrics:
    """`split_metrics` of samples made once: scores and code are [N] of the rows that `samples_of` was given."""
    daily = _daily(s, np.asarray(scores), np.asarray(code, np.int64), horizon, cost_bps)
    if daily is None:
        return dict.fromkeys(METRICS, math.nan) | {"days": 0, "samples": 0}
    return {name: metric.compute(daily) for name, metric in METRICS.items()}


def _daily(s: Samples, scores: npt.NDArray[Any], code: Int, horizon: int, cost_bps: float) -> Daily | None:
    """None where no day counts or a score is not finite."""
    values = scores[s.rows]
    if not len(s.days) or not np.isfinite(values).all():
        return None
    order = sort_within_day(values, s)
    ic = correlation(centred(values.astype(np.float64), s), s.centred_targets, s)
    rank_ic = correlation(centred(average_ranks(order), s), s.centred_ranks, s)
    counted = np.flatnonzero(np.isfinite(ic) & np.isfinite(rank_ic))
    if not len(counted):
        return None
    weights = _decile_weights(order, s)
    spread = np.add.reduceat(weights * s.targets, s.starts)[counted]
    turnover = _turnover(weights, code[s.rows], counted[::horizon], s)
    net = spread[::horizon] - cost_bps / 1e4 * turnover
    return Daily(horizon, ic[counted], rank_ic[counted], spread, turnover, net, int(s.counts[counted].sum()))


def daily_rank_ic(scores: npt.ArrayLike, targets: npt.ArrayLike, day: npt.ArrayLike) -> tuple[npt.NDArray[Any], Float]:
    """Spearman's correlation of every day with enough samples: days [G] ascending and values float64 [G].

    Arguments as for `split_metrics`. A day is NaN where scores or targets are constant or a score is not finite.
    """
    s = samples_of(targets, day)
    if not len(s.days):
        return s.days, np.empty(0)
    values = np.asarray(scores)[s.rows]
    rank_ic = correlation(centred(average_ranks(sort_within_day(values, s)), s), s.centred_ranks, s)
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


def _decile_weights(o: Order, s: Samples) -> Float:
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
