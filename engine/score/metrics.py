"""Metrics: what scores are worth. The one place where they are defined, in float64, of whole cross-sections.

Scores on a GPU have the same daily values computed there, by dense.py.

Days with fewer than MIN_SAMPLES samples are skipped, and so are days on which scores or targets are constant, since no
correlation exists there. A metric that no day defines is NaN, never 0, and a score that is not finite makes every
metric NaN: a diverged model has no result.

    ic, rank_ic        mean over days of Pearson's and of Spearman's correlation (average ranks for ties)
    icir, rank_icir    mean / standard deviation over days
    rank_ic_se, _t, _p standard error of rank_ic, rank_ic / standard error, and the two-sided p-value of that, which
                       holds for overlapping labels; see standard_error.py
    rank_ic_late       rank_ic of the same scores entered one period later: against the returns from day t + 1 to
                       t + 1 + h of the same codes, over the samples that have one
    decile_spread      mean over days of the h-day return of the top tenth minus the bottom tenth, equal weights
    sharpe             mean / standard deviation of that return on every h-th day, times sqrt(periods per year / h)
    sharpe_net         the same after cost_bps / 10,000 x turnover at every rebalance, the first one included
    turnover           half the sum of |change of weight| at a rebalance, mean over all but the first; the book is
                       1 long and 1 short, so 0 is no trade and 2 a completely new book, for which 4 are traded
    days, samples      days that count, and samples on them

A book that is rebalanced on every h-th day can begin on any of h days. These are its h phases: Sharpe ratios are the
mean of those of the phases with two rebalances or more, and turnover counts the rebalances of all. Where nobody knows
how many periods a year has, Sharpe ratios are NaN.

A tenth of n names is floor(n / 10). Names that tie across its border share the places inside it, so the portfolio
does not depend on the order of the rows. Standard deviations are of the sample (n - 1).

A new metric is an entry of METRICS.

N samples, G days that count
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.score.cross_section import (
    Float,
    Int,
    Later,
    Order,
    Samples,
    centred,
    correlation,
    order_of_later,
    rank_correlation,
    samples_of,
    sort_within_day,
    with_later,
)
from engine.score.standard_error import MeanTest, mean_test

Metrics = dict[str, float]

TRADING_DAYS = 252.0  # of a year


@dataclass(frozen=True)
class Daily:
    """What the metrics of one horizon are made of: values per day that counts, each day a rebalance of its phase."""

    horizon: int
    periods_per_year: float | None  # None: not known
    ic: Float  # [G]
    rank_ic: Float  # [G]
    rank_ic_late: Float  # [days with later returns] entered one period later; empty where those are not known
    spread: Float  # [G] return of the top tenth minus the bottom tenth
    turnover: Float  # [G] against the book of h days before; the first h days buy theirs from nothing
    net: Float  # [G] spread after costs
    samples: int

    @cached_property
    def test(self) -> MeanTest:
        """That the mean RankIC is 0."""
        return mean_test(self.rank_ic, self.horizon)

    def sharpe(self, returns: Float) -> float:
        """Annual Sharpe ratio of the returns [G] of a book, the mean of its h phases."""
        if self.periods_per_year is None:
            return math.nan
        phases = [returns[phase :: self.horizon] for phase in range(self.horizon)]
        ratios = np.array([_mean_over_std(phase) for phase in phases if len(phase) > 1])
        return _mean(ratios) * math.sqrt(self.periods_per_year / self.horizon)


@dataclass(frozen=True)
class Metric:
    """How a metric is computed, what tables call it and how it prints, and whether a study may maximise it."""

    compute: Callable[[Daily], float]
    label: str
    form: str
    maximised: bool = True


METRICS = {
    "rank_ic": Metric(lambda d: _mean(d.rank_ic), "RankIC", ".4f"),
    "rank_ic_late": Metric(lambda d: _mean(d.rank_ic_late), "  one period later", ".4f", maximised=False),
    "rank_ic_se": Metric(lambda d: float(d.test.se), "  standard error", ".4f", maximised=False),
    "rank_ic_t": Metric(lambda d: float(d.test.t), "  t", ".1f"),
    "rank_ic_p": Metric(lambda d: float(d.test.p), "  p", ".2g", maximised=False),
    "rank_icir": Metric(lambda d: _mean_over_std(d.rank_ic), "RankICIR", ".3f"),
    "ic": Metric(lambda d: _mean(d.ic), "IC", ".4f"),
    "icir": Metric(lambda d: _mean_over_std(d.ic), "ICIR", ".3f"),
    "decile_spread": Metric(lambda d: _mean(d.spread), "decile spread", ".3%"),
    "sharpe": Metric(lambda d: d.sharpe(d.spread), "Sharpe", ".2f"),
    "sharpe_net": Metric(lambda d: d.sharpe(d.net), "  after costs", ".2f"),
    "turnover": Metric(lambda d: _mean(d.turnover[d.horizon :]), "turnover", ".2f", maximised=False),
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
    periods_per_year: float | None = TRADING_DAYS,
    later: npt.ArrayLike | None = None,
) -> Metrics:
    """All metrics of one split and horizon, keyed as METRICS.

    Args:
        scores: [N] float, any scale.
        targets: [N] float, h-day returns; rows whose target is not finite are dropped first.
        day: [N] int or dates, one value per day, in the order of time.
        code: [N] int, one value >= 0 per security.
        horizon: h, days ahead of the targets.
        cost_bps: cost of a turnover of 1, in 1/10,000. A turnover of 1 trades 2, each for half of it.
        periods_per_year: days in a year of this calendar. None: not known.
        later: [N] float, the targets of the same codes one day later, NaN where there is none. None: none is known.
    """
    s = samples_of(targets, day)
    late = None if later is None else with_later(s, later, day)
    return metrics_of(s, scores, code, horizon, cost_bps, periods_per_year, late)


def metrics_of(
    s: Samples,
    scores: npt.ArrayLike,
    code: npt.ArrayLike,
    horizon: int,
    cost_bps: float = 10.0,
    periods_per_year: float | None = TRADING_DAYS,
    late: Later | None = None,
) -> Metrics:
    """`split_metrics` of samples made once: scores and code are [N] of the rows that `samples_of` was given."""
    found = _daily(s, np.asarray(scores), np.asarray(code, np.int64), horizon, cost_bps, periods_per_year, late)
    return metrics_of_daily(None if found is None else found[1])


def split_daily(
    scores: npt.ArrayLike,
    targets: npt.ArrayLike,
    day: npt.ArrayLike,
    code: npt.ArrayLike,
    horizon: int,
    cost_bps: float = 10.0,
    periods_per_year: float | None = TRADING_DAYS,
    later: npt.ArrayLike | None = None,
) -> tuple[npt.NDArray[Any], Daily] | None:
    """The days that count [G] and the daily values that `split_metrics` of the same arguments is made of.

    None where no day counts or a score is not finite.
    """
    s = samples_of(targets, day)
    late = None if later is None else with_later(s, later, day)
    codes = np.asarray(code, np.int64)
    found = _daily(s, np.asarray(scores), codes, horizon, cost_bps, periods_per_year, late)
    return None if found is None else (s.days[found[0]], found[1])


def metrics_of_daily(daily: Daily | None) -> Metrics:
    """Every metric of the daily values of one horizon, keyed as METRICS; None: there are none."""
    if daily is None:
        return dict.fromkeys(METRICS, math.nan) | {"days": 0, "samples": 0}
    return {name: metric.compute(daily) for name, metric in METRICS.items()}


def _daily(
    s: Samples,
    scores: npt.NDArray[Any],
    code: Int,
    horizon: int,
    cost_bps: float,
    periods_per_year: float | None,
    late: Later | None,
) -> tuple[Int, Daily] | None:
    """Which of the days count, and their values; None where none does or a score is not finite."""
    values = scores[s.rows]
    if not len(s.days) or not np.isfinite(values).all():
        return None
    order, ic, rank_ic, late_rank_ic = _correlations(s, values, late)
    counted = np.flatnonzero(np.isfinite(ic) & np.isfinite(rank_ic))
    if not len(counted):
        return None
    books = _books(order, s)
    spread = np.add.reduceat(books.weights * s.targets[books.samples], books.starts)[counted]
    turnover = _turnover(books, code[s.rows[books.samples]], counted, horizon)
    daily = Daily(
        horizon=horizon,
        periods_per_year=periods_per_year,
        ic=ic[counted],
        rank_ic=rank_ic[counted],
        rank_ic_late=late_rank_ic[np.isfinite(late_rank_ic)],
        spread=spread,
        turnover=turnover,
        net=spread - cost_bps / 1e4 * turnover,
        samples=int(s.counts[counted].sum()),
    )
    return counted, daily


def _correlations(s: Samples, values: npt.NDArray[Any], late: Later | None) -> tuple[Order, Float, Float, Float]:
    """The order of values [N], their IC and RankIC [G] by day, and RankIC by day of the samples with a later target."""
    order = sort_within_day(values, s)
    ic = correlation(centred(values.astype(np.float64), s), s.centred_targets, s)
    late_rank_ic = np.empty(0)
    if late is not None and len(late.samples.days):
        late_rank_ic = rank_correlation(order_of_later(order, values, late), late.samples)
    return order, ic, rank_correlation(order, s), late_rank_ic


class DailyIc(NamedTuple):
    """IC by day, of the days that `split_metrics` averages over."""

    days: npt.NDArray[Any]  # [G] ascending
    ic: Float  # [G]
    rank_ic: Float  # [G]
    rank_ic_late: Float  # [G] entered one period later; NaN on days with fewer than MIN_SAMPLES later targets
    samples: Int  # [G]


def daily_ic(scores: npt.ArrayLike, targets: npt.ArrayLike, day: npt.ArrayLike, later: npt.ArrayLike) -> DailyIc:
    """What `split_metrics` averages to `ic`, `rank_ic` and `rank_ic_late`, and adds up to `samples`.

    Arguments as for `split_metrics`. There is no day where a score is not finite.
    """
    s = samples_of(targets, day)
    values, empty = np.asarray(scores)[s.rows], np.empty(0)
    if not len(s.days) or not np.isfinite(values).all():
        return DailyIc(s.days[:0], empty, empty, empty, np.empty(0, np.int64))
    late = with_later(s, later, day)
    _, ic, rank_ic, late_rank_ic = _correlations(s, values, late)
    of_day = np.full(len(s.days), np.nan)
    of_day[np.searchsorted(s.days, late.samples.days)] = late_rank_ic
    counted = np.isfinite(ic) & np.isfinite(rank_ic)
    return DailyIc(s.days[counted], ic[counted], rank_ic[counted], of_day[counted], s.counts[counted])


def daily_rank_ic(scores: npt.ArrayLike, targets: npt.ArrayLike, day: npt.ArrayLike) -> tuple[npt.NDArray[Any], Float]:
    """Spearman's correlation of every day with enough samples: days [G] ascending and values float64 [G].

    Arguments as for `split_metrics`. A day is NaN where scores or targets are constant or a score is not finite.
    """
    s = samples_of(targets, day)
    return s.days, rank_ic_of_days(scores, s)


def rank_ic_of_days(scores: npt.ArrayLike, s: Samples) -> Float:
    """The values of `daily_rank_ic` [G], where samples stay and scores of all rows change."""
    if not len(s.days):
        return np.empty(0)
    values = np.asarray(scores)[s.rows]
    rank_ic = rank_correlation(sort_within_day(values, s), s)
    bad = np.add.reduceat(~np.isfinite(values), s.starts) > 0
    return np.where(bad, np.nan, rank_ic)


def daily_tenths(scores: npt.ArrayLike, targets: npt.ArrayLike, day: npt.ArrayLike) -> tuple[npt.NDArray[Any], Float]:
    """The mean target of each tenth of every day with enough samples: days [G] ascending and float64 [G, 10].

    The lowest scores come first. The outer tenths are those of `decile_spread`; the inner borders lie floor(i n / 10)
    names from the nearer end. Arguments as for `split_metrics`; scores must be finite.
    """
    s = samples_of(targets, day)
    if not len(s.days):
        return s.days, np.empty((0, 10))
    o = sort_within_day(np.asarray(scores)[s.rows], s)
    # Names that tie share the places inside a border: each place has the mean target of its run.
    runs = np.cumsum(o.lengths) - o.lengths
    shared = np.repeat(np.add.reduceat(s.targets[o.order], runs) / o.lengths, o.lengths)
    total = np.concatenate([[0.0], np.cumsum(shared)])
    i, n = np.arange(11), s.counts[:, None]
    borders = np.where(i <= 5, i * n // 10, n - (10 - i) * n // 10)
    return s.days, np.diff(total[s.starts[:, None] + borders], axis=1) / np.diff(borders, axis=1)


@dataclass(frozen=True)
class _Books:
    """The book of each day, +1 spread over the top tenth and -1 over the bottom tenth: its names alone, day by day."""

    samples: Int  # [M] which sample each name is
    weights: Float  # [M]
    starts: Int  # [G] first name of each day


def _books(o: Order, s: Samples) -> _Books:
    n = s.counts[o.group]
    inside = np.flatnonzero((o.low < n // 10) | (o.low + o.lengths > n - n // 10))
    group, low, lengths, n = o.group[inside], o.low[inside], o.lengths[inside], n[inside]
    k, high = n // 10, low + lengths
    long = np.clip(high - np.maximum(low, n - k), 0, None)
    short = np.clip(np.minimum(high, k) - low, 0, None)
    first = np.cumsum(lengths) - lengths  # name of each run
    place = np.arange(lengths.sum()) + np.repeat(s.starts[group] + low - first, lengths)
    starts = first[np.searchsorted(group, np.arange(len(s.days)))]
    return _Books(o.order[place], np.repeat((long - short) / (lengths * k), lengths), starts)


def _turnover(books: _Books, code: Int, counted: Int, horizon: int) -> Float:
    """Turnover on each counted day against the book of h counted days before; the first h buy theirs from nothing.

    Args:
        code: [M] of the books' names.
    """
    held = np.zeros(int(code.max()) + 1)
    turnover = np.empty(len(counted))
    past: deque[tuple[Int, Float]] = deque([(np.empty(0, np.int64), np.empty(0))] * horizon, horizon)
    stops = np.append(books.starts[1:], len(code))
    for i, (start, stop) in enumerate(zip(books.starts[counted].tolist(), stops[counted].tolist(), strict=True)):
        names, wanted = code[start:stop], books.weights[start:stop]
        before, sold = past[0]
        held[before] = sold
        kept = held[names]
        turnover[i] = (np.abs(wanted - kept).sum() + np.abs(sold).sum() - np.abs(kept).sum()) / 2
        held[before] = 0
        past.append((names, wanted))
    return turnover


def _mean(x: Float) -> float:
    return float(x.mean()) if len(x) else math.nan


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else math.nan


def _mean_over_std(x: Float) -> float:
    return _ratio(_mean(x), float(x.std(ddof=1))) if len(x) > 1 else math.nan
