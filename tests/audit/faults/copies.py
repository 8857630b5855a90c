"""Faults of rows that repeat others, and of prices that no one paid."""

from dataclasses import replace

import numpy as np

from tests.audit.faults.fault import Fault, in_cache
from tests.audit.market import BARS, Market

PRICES = BARS[:4]


def two_codes(market: Market, days: float, rng: np.random.Generator) -> Market:
    """Two codes begin some days before two others end, with the same bars on these days: a change of ticker."""
    bars = {name: each.copy() for name, each in market.bars.items()}
    span = round(days)
    whole = rng.permutation(np.flatnonzero(market.listed.all(0)))
    for old, new in zip(whole[:2], whole[2:4], strict=True):
        start = int(rng.integers(100, len(market.calendar) - span - 50))
        for each in bars.values():
            each[start:, new] = each[start:, old]
            each[:start, new] = np.nan
            each[start + span :, old] = np.nan
    return market.with_bars(**bars)


def share_classes(market: Market, noise: float, rng: np.random.Generator) -> Market:
    """Two codes are another's second class: its price, a tenth more or less, and some noise of its own."""
    bars = {name: each.copy() for name, each in market.bars.items()}
    whole = rng.permutation(np.flatnonzero(market.listed.all(0)))
    for one, other in zip(whole[:2], whole[2:4], strict=True):
        usual = np.nanstd(market.returns[:, one])
        apart = np.exp(noise * usual * rng.normal(size=len(market.calendar)))
        for name in PRICES:
            bars[name][:, other] = bars[name][:, one] * 0.9 * apart
        bars["volume"][:, other] = np.round(bars["volume"][:, one] * np.exp(rng.normal(-1, 0.3, len(apart))))
    return market.with_bars(**bars)


def repeated(market: Market, share: float, rng: np.random.Generator) -> Market:
    """On three days a share of the codes has the bar of the day before."""
    bars = {name: each.copy() for name, each in market.bars.items()}
    for day in rng.choice(np.arange(50, len(market.calendar) - 50), 3, replace=False):
        codes = np.flatnonzero(market.listed[day] & market.listed[day - 1] & (rng.random(len(market.codes)) < share))
        for each in bars.values():
            each[day, codes] = each[day - 1, codes]
    return market.with_bars(**bars)


def carried_forward(market: Market, days: float, rng: np.random.Generator) -> Market:
    """Codes that were delisted go on with their last bar, so many days."""
    bars = {name: each.copy() for name, each in market.bars.items()}
    total = len(market.calendar)
    last = total - market.listed[::-1].argmax(0)
    for s in np.flatnonzero((last < total) & market.listed.any(0)):
        for each in bars.values():
            each[last[s] : last[s] + round(days), s] = each[last[s] - 1, s]
    return market.with_bars(**bars)


def split(market: Market, codes: float, rng: np.random.Generator) -> Market:
    """So many codes split 2:1 without an adjustment; one in two is put right at a wrong date, a hundred days later."""
    bars = {name: each.copy() for name, each in market.bars.items()}
    whole = rng.permutation(np.flatnonzero(market.listed.all(0) & (market.scored.mean(0) > 0.9)))[: round(codes)]
    for i, s in enumerate(whole):
        day = int(rng.integers(60, len(market.calendar) - 160))
        after = slice(day, day + 100 if i % 2 else None)
        for name in PRICES:
            bars[name][after, s] /= 2
        bars["volume"][after, s] *= 2
    return market.with_bars(**bars)


def ticks(market: Market, times: float, rng: np.random.Generator) -> Market:
    """On ten days one of the universe's closes is wrong by a factor, and so is the day's high or low."""
    bars = {name: each.copy() for name, each in market.bars.items()}
    listed = market.listed
    inner = np.zeros_like(listed)
    inner[30:-30] = listed[29:-31] & listed[30:-30] & listed[31:-29] & market.scored[30:-30]
    day, code = np.nonzero(inner)
    for i in rng.choice(len(day), 10, replace=False):
        factor = times if rng.random() < 0.5 else 1 / times
        bars["close"][day[i], code[i]] *= factor
    bars["high"], bars["low"] = np.fmax(bars["high"], bars["close"]), np.fmin(bars["low"], bars["close"])
    return _same_universe(market, market.with_bars(**bars))


def _same_universe(before: Market, after: Market) -> Market:
    return replace(after, scored=before.scored)


FAULTS_OF_COPIES: list[Fault] = [
    in_cache("rows under two codes", ("same paths",), {"strong": 120, "weak": 30, "borderline": 10}, two_codes),
    in_cache("share classes", ("same paths",), {"strong": 0.02, "weak": 0.06, "borderline": 0.12}, share_classes),
    in_cache("repeated days", ("repeated days",), {"strong": 1.0, "weak": 0.3, "borderline": 0.05}, repeated),
    in_cache("stale after delisting", ("stale prices",), {"strong": 60, "weak": 15, "borderline": 5}, carried_forward),
    in_cache("split not adjusted", ("mirrored splits",), {"strong": 10, "weak": 3, "borderline": 1}, split),
    in_cache("bad ticks", ("bad ticks",), {"strong": 100.0, "weak": 4.0, "borderline": 1.4}, ticks),
]
