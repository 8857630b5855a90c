"""RankIC year by year, or the paired comparison with another source: whether a mean of many years is that of a few."""

import numpy as np
import numpy.typing as npt

from engine.evaluation.opened import Opened
from engine.evaluation.sources import common_horizons
from engine.score.metrics import Metrics
from engine.score.standard_error import mean_test
from loaders.panel import Int

Float = npt.NDArray[np.float64]


def by_year(opened: Opened) -> dict[str, dict[str, Metrics]]:
    """Returns {horizon: {year: {"rank_ic", "rank_ic_t", "days"}}} of the calendar years of what is evaluated.

    With a source to compare with, on the days that both score: {"rank_ic", "rank_ic_against", "difference",
    "difference_t", "days"}. Tests are those of `mean_test` on the days of the year.
    """
    if opened.against is None:
        return {str(h): _alone(opened, h) for h in opened.horizons}
    return {str(h): _compared(opened, h) for h in common_horizons([*opened.ours, opened.against], opened.panel)}


def _alone(opened: Opened, h: int) -> dict[str, Metrics]:
    daily = opened.daily_ic(h)
    return {
        year: {"rank_ic": _mean(daily.rank_ic[here]), "rank_ic_t": _t(daily.rank_ic[here], h), "days": int(here.sum())}
        for year, here in _years(opened, daily.days).items()
    }


def _compared(opened: Opened, h: int) -> dict[str, Metrics]:
    pairs = opened.pairs(h)
    difference = pairs.ours - pairs.against
    return {
        year: {
            "rank_ic": _mean(pairs.ours[here]),
            "rank_ic_against": _mean(pairs.against[here]),
            "difference": _mean(difference[here]),
            "difference_t": _t(difference[here], h),
            "days": int(here.sum()),
        }
        for year, here in _years(opened, pairs.days).items()
    }


def _years(opened: Opened, days: Int) -> dict[str, Int]:
    """Which of the days are of each year."""
    years = opened.panel.calendar[days].astype("datetime64[Y]")
    return {str(year): years == year for year in np.unique(years)}


def _mean(series: Float) -> float:
    return float(series.mean())


def _t(series: Float, h: int) -> float:
    return float(mean_test(series, h).t)
