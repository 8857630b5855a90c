"""Faults of who is in the panel, and when."""

from dataclasses import replace

import numpy as np

from tests.audit.faults.fault import Fault, in_cache
from tests.audit.market import PLAIN, Array, Market

LIMIT = 8e5  # dollars a day, of the market's own universe


def survivors_only(market: Market, share: float, rng: np.random.Generator) -> Market:
    """A share of the codes that were delisted is not there."""
    alive = market.listed[-1]
    gone = np.flatnonzero(~alive)
    dropped = rng.permutation(gone)[: round(share * len(gone))]
    return market.of_codes(np.setdiff1d(np.arange(len(alive)), dropped))


def later_liquidity(market: Market, days: float, rng: np.random.Generator) -> Market:
    """The universe is chosen by the mean dollar volume of 20 days, the last `days` of which are still to come."""
    dollars = market.bars["close"] * market.bars["volume"]
    return replace(market, scored=market.listed & (_mean(dollars, round(days) - 19, round(days)) > LIMIT))


def current_members(market: Market, years: float, rng: np.random.Generator) -> Market:
    """The members at the end of each period, by the dollar volume of its last 60 days, are those of all of it.

    Args:
        years: of a period; 0.25 is a quarter, 100 all.
    """
    dollars = market.bars["close"] * market.bars["volume"]
    month = market.calendar.astype("datetime64[M]").astype(int)
    period = (month - month[0] // 12 * 12) // round(12 * years)
    end = np.searchsorted(period, period, "right") - 1
    size = _mean(dollars, -59, 0)
    last = len(size) - 1 - market.listed[::-1].argmax(0)  # who ended before the period's end counts as of the last day
    at_end = np.stack([size[np.minimum(t, last), np.arange(len(last))] for t in end])
    return replace(market, scored=market.listed & (at_end > np.median(at_end)))


def later_price(market: Market, days: float, rng: np.random.Generator) -> Market:
    """The universe is what costs over the median code's first price, `days` later, at the close."""
    close = market.bars["close"]
    return replace(market, scored=market.listed & (_later(close, round(days)) > np.nanmedian(close[0])))


def dropped_before_falls(market: Market, share: float, rng: np.random.Generator) -> Market:
    """Of the falls by over 15% in 10 days, a share is out of the universe from the close before, for 30 days."""
    close = market.bars["close"]
    with np.errstate(invalid="ignore"):
        falls = _later(close, 10) / close - 1 < -0.15
    falls[1:] &= ~falls[:-1]
    falls &= rng.random(falls.shape) < share
    out = np.cumsum(falls, 0)
    out[30:] -= np.cumsum(falls, 0)[:-30]
    return replace(market, scored=market.scored & (out == 0))


def entered_before_rises(market: Market, rise: float, rng: np.random.Generator) -> Market:
    """Codes that come late have the history of their rise: so much, in log terms, over their first 120 days."""
    first = market.listed.argmax(0)
    day = np.arange(len(market.listed))[:, None]
    since = np.where(first > 0, np.clip(day - first, 0, 120) / 120, 1)
    scale = np.exp(rise * (since - 1))
    prices = {name: market.bars[name] * scale for name in ("open", "high", "low", "close")}
    return market.with_bars(**prices, volume=market.bars["volume"] / scale)


def _mean(values: Array, start: int, stop: int) -> Array:
    """Mean over the days t + start .. t + stop that a code has."""
    here, days = np.isfinite(values), len(values)
    sums = np.vstack([np.zeros((1, values.shape[1])), np.cumsum(np.where(here, values, 0), 0)])
    counts = np.vstack([np.zeros((1, values.shape[1])), np.cumsum(here, 0)])
    low, high = (np.clip(np.arange(days) + each, 0, days) for each in (start, stop + 1))
    return (sums[high] - sums[low]) / np.maximum(counts[high] - counts[low], 1)


def _later(values: Array, days: int) -> Array:
    """The value so many days later; of the last day that a code has where there is none."""
    found = np.vstack([values[days:], np.full((days, values.shape[1]), np.nan)])
    last = np.array([column[np.isfinite(column)][-1] if np.isfinite(column).any() else np.nan for column in values.T])
    return np.where(np.isfinite(found), found, last)


LARGE = replace(PLAIN, codes=500, days=1500)
FAULTS_OF_POPULATION: list[Fault] = [
    in_cache("survivors only", ("exits",), {"strong": 1.0, "weak": 0.9, "borderline": 0.75}, survivors_only, LARGE),
    in_cache(
        "universe by later liquidity", ("universe membership",), {"strong": 20, "weak": 10, "borderline": 3},
        later_liquidity,
    ),
    in_cache(
        "universe of today's members", ("universe membership",), {"strong": 100, "weak": 1.0, "borderline": 0.25},
        current_members,
    ),
    in_cache(
        "universe by later price", ("universe membership", "universe return"),
        {"strong": 60, "weak": 20, "borderline": 5}, later_price,
    ),
    in_cache(
        "dropped before falls", ("moves after entries and exits",), {"strong": 1.0, "weak": 0.4, "borderline": 0.05},
        dropped_before_falls,
    ),
    in_cache(
        "entered before rises", ("moves after entries and exits",), {"strong": 0.8, "weak": 0.45, "borderline": 0.2},
        entered_before_rises,
    ),
]  # fmt: skip
