"""What the checks of scores see: scores as arrays by day and code, beside the same days and codes of their cache.

Days are those from the first scored one to the last. Every statistic is made of samples: a score of a row of the
universe that has the return in question. Rank correlations are those of docs/metrics.md, a value each day.

T days, S codes
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.audit.finding import Advice, Finding, worst
from engine.audit.sample import CacheSample, Float32, ranks, shifted
from engine.evaluation.sources import Source
from engine.score.cross_section import MIN_SAMPLES
from engine.score.standard_error import mean_test
from loaders.panel import Int, Panel

Float64 = npt.NDArray[np.float64]

MOST_CELLS = 1 << 25  # calendar days x codes: 128 MB an array
RARE = 2e-4  # two-sided p, so 1e-4 on the side that is asked about


@dataclass(frozen=True, eq=False)
class ScoredCache:
    """Scores beside their cache."""

    sample: CacheSample  # of the codes that have a score
    source: Source
    start: int  # calendar index of the first scored day
    stop: int  # one after that of the last
    known: dict[int, Float32] = field(default_factory=dict, repr=False)
    pairs: dict[int, tuple[Float32, Float32]] = field(default_factory=dict, repr=False)

    @property
    def horizons(self) -> list[int]:
        """Those that both the scores and the cache have, ascending."""
        return [h for h in sorted(self.sample.horizons) if h in self.source.values]

    @property
    def panel(self) -> Panel:
        return self.sample.panel

    def dates(self, days: Int) -> list[str]:
        """ISO dates of days, counted from the first scored one."""
        return [str(self.panel.calendar[self.start + t]) for t in days]

    def scores(self, horizon: int) -> Float32:
        """[T, S], NaN where there is no score or the row is not of the universe."""
        if horizon not in self.known:
            place = np.full(len(self.panel.manifest.codes), -1)
            place[self.sample.codes] = np.arange(len(self.sample.codes))
            code = self.panel.code_of(self.source.rows)
            day = self.source.rows - self.panel.offset[code] + self.panel.first[code] - self.start
            here = place[code] >= 0
            found = np.full((self.stop - self.start, len(self.sample.codes)), np.nan, np.float32)
            found[day[here], place[code[here]]] = self.source.values[horizon][here]
            found[~self.of(self.sample.scored)] = np.nan
            self.known[horizon] = found
        return self.known[horizon]

    def labels(self, horizon: int) -> Float32:
        """[T, S] as stored."""
        found: Float32 = self.of(self.sample.targets[horizon])
        return found

    def ranks(self, horizon: int) -> tuple[Float32, Float32]:
        """`both` of the scores and the labels of a horizon."""
        if horizon not in self.pairs:
            self.pairs[horizon] = both(self.scores(horizon), self.labels(horizon))
        return self.pairs[horizon]

    def rank_ic(self, horizon: int) -> Float64:
        """Daily RankIC [T] of a horizon, NaN on thin days."""
        return daily_mean(self.ranks(horizon))

    def of(self, values: Any) -> Any:
        """The scored days [T, S] of an array over all days of the calendar."""
        return values[self.start : self.stop]

    def ahead(self, days: int) -> Float32:
        """[T, S] the 1-day return that ends so many days after each day; 0: on it. NaN where none is known."""
        returns = self.sample.returns
        if returns is None:
            return np.full((self.stop - self.start, len(self.sample.codes)), np.nan, np.float32)
        found: Float32 = self.of(shifted(returns, -days))
        return found

    @cached_property
    def bar(self) -> dict[str, Float32]:
        """Bars of all days of the calendar, where the cache keeps them; what is not positive is NaN."""
        return {name: np.where(values > 0, values, np.nan) for name, values in self.sample.bars.items()}


def scored_cache(panel: Panel, source: Source, most_cells: int = MOST_CELLS) -> ScoredCache:
    """Scores beside their cache; of so many codes, evenly from all, that an array has at most `most_cells`."""
    code = panel.code_of(source.rows)
    day = source.rows - panel.offset[code] + panel.first[code]
    codes = np.unique(code)
    most = max(most_cells // len(panel.calendar), min(len(codes), 50))
    codes = codes[np.unique(np.linspace(0, len(codes) - 1, min(most, len(codes))).round().astype(np.int64))]
    return ScoredCache(CacheSample(panel, codes), source, int(day.min()), int(day.max()) + 1)


def both(a: Float32, b: Float32) -> tuple[Float32, Float32]:
    """Normalised ranks [T, S] within the day of both, on the cells that have both; NaN elsewhere and on thin days."""
    here = np.isfinite(a) & np.isfinite(b)
    here &= (here.sum(1) >= MIN_SAMPLES)[:, None]
    return ranks(np.where(here, a, np.nan)), ranks(np.where(here, b, np.nan))


def daily_rank_ic(a: Float32, b: Float32) -> Float64:
    """Rank correlation of each day [T]; NaN with fewer than MIN_SAMPLES cells, and where one side is constant."""
    return daily_mean(both(a, b))


def daily_mean(pair: tuple[Float32, Float32]) -> Float64:
    """Mean over codes of the product of two arrays [T]; NaN on days without a product."""
    product = pair[0] * pair[1]
    here = np.isfinite(product)
    count = here.sum(1)
    return np.where(count > 0, np.where(here, product, 0).sum(1, dtype=np.float64) / np.maximum(count, 1), np.nan)


def daily_correlation(a: Float32, b: Float32) -> Float64:
    """Pearson's correlation of each day [T] over the cells that have both; NaN with fewer than MIN_SAMPLES of them.

    Of ranks within the day it is nearly their rank correlation where some cells are missing, for a tenth of the time.
    """
    here = np.isfinite(a) & np.isfinite(b)
    count = np.where(here.sum(1) >= MIN_SAMPLES, here.sum(1), np.nan)[:, None]
    x, y = (np.where(here, each, 0) for each in (a, b))
    x, y = (np.where(here, each - each.sum(1, keepdims=True, dtype=np.float64) / count, 0) for each in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return np.where(np.isfinite(found), found, np.nan)


def mean_and_test(daily: Float64, horizon: int) -> tuple[float, float, float]:
    """Mean, t and p of a daily series, without its NaN; NaN where it is too short (see `mean_test`)."""
    known = daily[np.isfinite(daily)]
    if not len(known):
        return np.nan, np.nan, np.nan
    test = mean_test(known, horizon)
    return float(known.mean()), float(test.t), float(test.p)


def over_horizons(scored: ScoredCache, advice: Advice, check: Callable[[ScoredCache, int], Finding]) -> Finding:
    """The worst finding of a check over the horizons; skipped where there is none."""
    return worst(
        (check(scored, h) for h in scored.horizons), advice, "the scores and the cache have no horizon in common"
    )
