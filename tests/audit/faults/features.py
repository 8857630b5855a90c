"""Features that know what they should not.

T days, S codes
"""

from dataclasses import replace

import numpy as np

from tests.audit.faults.fault import Fault, in_cache
from tests.audit.market import PLAIN, Array, Market

RAW = replace(PLAIN, transform="none")
PROFILE, EXTREMES, EVENTS = "features: lag profile", "features: extreme moves", "features: event study"
SCALE, MEAN = "features: scale of whole lives", "features: mean over whole lives"


def within_days(values: Array) -> Array:
    """[T, S] z-scores of each day; 0 where there is no value."""
    known = np.isfinite(values)
    count = np.maximum(known.sum(1, keepdims=True), 1)
    x = np.where(known, values - np.where(known, values, 0).sum(1, keepdims=True) / count, 0)
    return x / np.maximum(np.sqrt((x**2).sum(1, keepdims=True) / count), 1e-12)


def earlier(values: Array, days: int) -> Array:
    """Each value stamped some days early."""
    return np.vstack([values[days:], np.full((days, values.shape[1]), np.nan)])


def filled(values: Array) -> Array:
    """Missing values become the middle of the day, or 0."""
    centre = [np.median(row[np.isfinite(row)]) if np.isfinite(row).any() else 0.0 for row in values]
    return np.where(np.isfinite(values), values, np.array(centre)[:, None])


def over_life(values: Array, statistic: str) -> Array:
    """[S] a statistic of each code's whole life."""
    found = [getattr(np, statistic)(one[np.isfinite(one)]) if np.isfinite(one).any() else 1.0 for one in values.T]
    return np.array(found)


def _noise_and_next_return(market: Market, share: float, rng: np.random.Generator) -> Market:
    noise = rng.normal(size=market.labels[1].shape)
    return market.with_feature("news", share * within_days(market.labels[1]) + noise)


def _noise_and_next_week(market: Market, share: float, rng: np.random.Generator) -> Market:
    noise = rng.normal(size=market.labels[5].shape)
    return market.with_feature("news", share * within_days(market.labels[5]) + noise)


def _label(market: Market, noise: float, rng: np.random.Generator) -> Market:
    label = within_days(market.labels[1])
    return market.with_feature("score", np.arctan(label) + noise * rng.normal(size=label.shape))


def _row_early(market: Market, window: float, rng: np.random.Generator) -> Market:
    close, days = market.bars["close"], int(window)
    change = close / np.vstack([np.full((days, close.shape[1]), np.nan), close[:-days]]) - 1
    return market.with_feature(f"ret_{days}", filled(earlier(change, 1)))


def _days_early(market: Market, days: float, rng: np.random.Generator) -> Market:
    # A return of 20 days, stamped some days early.
    close = market.bars["close"]
    change = close / np.vstack([np.full((20, close.shape[1]), np.nan), close[:-20]]) - 1
    return market.with_feature("ret_20", filled(earlier(change, int(days))))


def _position_early(market: Market, noise: float, rng: np.random.Generator) -> Market:
    early = within_days(earlier(market.features["position"], 1))
    return market.with_feature("position", early + noise * rng.normal(size=early.shape))


def _centred_average(market: Market, window: float, rng: np.random.Generator) -> Market:
    close, half = filled(market.bars["close"]), int(window) // 2
    total = np.cumsum(np.vstack([np.zeros((1, close.shape[1])), close]), 0)
    low = np.maximum(np.arange(len(close)) - half, 0)
    high = np.minimum(np.arange(len(close)) + half + 1, len(close))
    average = (total[high] - total[low]) / (high - low)[:, None]
    return market.with_feature("gap", close / average - 1)


def _filings_early(market: Market, share: float, rng: np.random.Generator) -> Market:
    # Some filings are stamped one to five days before they were published.
    value = market.features["value"].copy()
    for t, s in np.argwhere(market.filed):
        days = int(rng.integers(1, 6))
        if rng.random() < share and t >= days:
            value[t - days : t, s] = value[t, s]
    return market.with_feature("value", value)


def _filings_the_day_before(market: Market, share: float, rng: np.random.Generator) -> Market:
    value = market.features["value"].copy()
    for t, s in np.argwhere(market.filed):
        if rng.random() < share and t >= 1:
            value[t - 1, s] = value[t, s]
    return market.with_feature("value", value)


def _life_maximum(market: Market, share: float, rng: np.random.Generator) -> Market:
    close = market.bars["close"]
    chosen = rng.random(close.shape[1]) < share
    scale = np.where(chosen, over_life(close, "max"), np.exp(rng.normal(3, 0.5, close.shape[1])))
    return market.with_feature("level", close / scale)


def _power_of_life_maximum(market: Market, power: float, rng: np.random.Generator) -> Market:
    close = market.bars["close"]
    return market.with_feature("level", close / over_life(close, "max") ** power)


def _last_of_life(market: Market, power: float, rng: np.random.Generator) -> Market:
    close = market.bars["close"]
    last = np.array([one[np.isfinite(one)][-1] if np.isfinite(one).any() else 1.0 for one in close.T])
    return market.with_feature("level", close / last**power)


def _life_scores(market: Market, share: float, rng: np.random.Generator) -> Market:
    # `share` of the mean is taken off: statistics of a file that holds more of a code's life than the cache does.
    x = market.features["slow"]
    return market.with_feature("slow", (x - share * over_life(x, "mean")) / over_life(x, "std"))


def _life_scores_of_size(market: Market, share: float, rng: np.random.Generator) -> Market:
    x = market.features["vol_20"]
    return market.with_feature("vol_20", (x - share * over_life(x, "mean")) / over_life(x, "std"))


FAULTS_OF_FEATURES: list[Fault] = [
    in_cache(
        "noise and tomorrow's return", (PROFILE, EXTREMES), dict(strong=0.15, weak=0.08, borderline=0.04),
        _noise_and_next_return,
    ),
    in_cache(
        "noise and next week's return", (PROFILE, EXTREMES), dict(strong=0.3, weak=0.12, borderline=0.06),
        _noise_and_next_week,
    ),
    in_cache("the label", (PROFILE, EXTREMES), dict(strong=0.0, weak=2.0, borderline=4.0), _label),
    in_cache("a return one row early", (PROFILE, EXTREMES), dict(strong=5, weak=60, borderline=250), _row_early),
    in_cache("a 20-day return days early", (PROFILE, EXTREMES), dict(strong=20, weak=5, borderline=1), _days_early),
    in_cache(
        "the day's range one row early", (PROFILE, EXTREMES), dict(strong=0, weak=2, borderline=5), _position_early,
    ),
    in_cache("a centred average", (PROFILE, EXTREMES), dict(strong=5, weak=61, borderline=251), _centred_average),
    in_cache("filings days early", (EVENTS,), dict(strong=1.0, weak=0.5, borderline=0.2), _filings_early),
    in_cache("filings a day early", (EVENTS,), dict(strong=1.0, weak=0.3, borderline=0.1), _filings_the_day_before),
    in_cache("over the life's maximum, raw", (SCALE,), dict(strong=1.0, weak=0.7, borderline=0.45), _life_maximum, RAW),
    in_cache(
        "over the life's maximum, ranks", (SCALE,), dict(strong=1.0, weak=0.9, borderline=0.7), _power_of_life_maximum,
    ),
    in_cache("over the life's last, ranks", (SCALE,), dict(strong=1.0, weak=0.9, borderline=0.7), _last_of_life),
    in_cache("z-scores of lives, raw", (MEAN,), dict(strong=1.0, weak=0.85, borderline=0.6), _life_scores, RAW),
    in_cache("z-scores of lives, ranks", (MEAN,), dict(strong=1.0, weak=0.85, borderline=0.6), _life_scores),
    in_cache(
        "z-scores of volatility over lives, ranks", (MEAN,), dict(strong=1.0, weak=0.9, borderline=0.6),
        _life_scores_of_size,
    ),
]  # fmt: skip
