"""A simulated market without a fault, to plant faults in: bars, features that are honest, labels, a universe.

Returns have a market factor, volatilities that differ by code and change with time, heavy tails, a drift in the days
before a code is delisted, jumps on days with filings and some drift after them, and a signal of known strength.

T days, S codes (all that were ever listed)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from loaders.cache.columns import create_columns
from loaders.cache.format import ABSENT, CONTEXT, SCORED, SOURCE, BuiltFrom, Manifest, write_manifest
from loaders.panel import Panel, open_panel

Array = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

WARM_UP = 130  # days before the first, for trailing features
BARS = ("open", "high", "low", "close", "volume")
FILING_DAYS = 63


@dataclass(frozen=True)
class Style:
    """What kind of market: clean ones differ in it.

    Args:
        codes, days: size.
        alpha: correlation of the honest signal with the next day's own return.
        persistence: of that signal from day to day.
        tails: degrees of freedom of Student's t.
        reversal: share of a day's own return that the next day takes back.
        exits: share of the codes that is delisted in a year.
        week: days of a week in the calendar (7: trades every day).
        transform: of the stored features, "rank" or "none".
        horizons: of the labels.
    """

    codes: int = 150
    days: int = 756
    alpha: float = 0.05
    persistence: float = 0.9
    tails: float = 4.0
    reversal: float = 0.02
    exits: float = 0.06
    week: int = 5
    transform: str = "rank"
    horizons: Sequence[int] = (1, 5)


PLAIN = Style()


@dataclass(frozen=True)
class Market:
    """Arrays [T, S], NaN where a code is not listed. A fault replaces some of them."""

    style: Style
    calendar: npt.NDArray[np.datetime64]  # [T]
    codes: list[str]
    bars: dict[str, Array]  # BARS
    features: dict[str, Array]  # as known at the close of their day
    labels: dict[int, Array]  # return from the close of day t to that of t + h
    scored: Bool  # in the universe
    filed: Bool  # days on which `value` changed
    recipe: dict[str, object] = field(default_factory=dict)

    @property
    def listed(self) -> Bool:
        """[T, S] days on which a code has a row."""
        return np.isfinite(self.bars["close"])

    @property
    def returns(self) -> Array:
        """[T, S] from day t - 1 to t; NaN on the first."""
        close = self.bars["close"]
        return np.vstack([np.full((1, close.shape[1]), np.nan), close[1:] / close[:-1] - 1])

    def with_feature(self, name: str, values: Array) -> "Market":
        """Another feature, or other values of one. Where the code is not listed they are dropped."""
        return replace(self, features=self.features | {name: np.where(self.listed, values, np.nan)})

    def with_labels(self, labels: dict[int, Array]) -> "Market":
        """Other labels, and no others: bars and features stay."""
        return replace(self, labels=labels)

    def with_bars(self, labelled: bool = True, **bars: Array) -> "Market":
        """Other bars, where the code is listed; features of bars, universe and (unless told not to) labels follow."""
        changed = replace(self, bars=self.bars | bars)
        followed = replace(
            changed, features=self.features | bar_features(changed.bars), scored=universe(changed.bars) & changed.listed
        )
        if not labelled:
            return followed
        return followed.with_labels(forward_returns(changed.bars["close"], list(self.labels)))

    def of_codes(self, keep: npt.NDArray[np.integer]) -> "Market":
        """Some of its codes."""
        return replace(
            self,
            codes=[self.codes[s] for s in keep],
            bars={name: each[:, keep] for name, each in self.bars.items()},
            features={name: each[:, keep] for name, each in self.features.items()},
            labels={h: each[:, keep] for h, each in self.labels.items()},
            scored=self.scored[:, keep],
            filed=self.filed[:, keep],
        )


def clean_market(seed: int, style: Style = PLAIN) -> Market:
    """A market without a fault."""
    rng = np.random.default_rng(seed)
    days, codes = style.days + WARM_UP + max(style.horizons), style.codes
    shape = (days, codes)
    size = rng.normal(0, 1, codes)
    volatility = np.exp(rng.normal(-4.0, 0.35, codes) - 0.25 * size)  # about 2% a day, small codes more
    turbulence = np.exp(_persistent(rng, (days, 1), 0.97) * 0.35)
    noise = rng.standard_t(style.tails, shape) / np.sqrt(style.tails / (style.tails - 2))
    alpha = _persistent(rng, shape, style.persistence)
    filed, surprise = _filings(rng, shape)
    own = noise.copy()
    own[1:] += style.alpha * alpha[:-1]
    own += np.where(filed, 2.0 * surprise, 0)
    drift = np.where(filed, surprise, 0)
    for lag in range(1, 11):
        own[lag:] += 0.03 * drift[:-lag]
    own[1:] -= style.reversal * own[:-1]
    market = turbulence[:, 0] * (rng.standard_t(5, days) * 0.008) + 0.0003
    beta = rng.normal(1, 0.3, codes)
    log_returns = beta * market[:, None] + volatility * turbulence * own
    listed = _lives(rng, shape, style)
    leaving = _before_the_end(listed)
    log_returns -= np.where(leaving > 0, 0.004, 0)  # bad news before many delistings
    close = np.exp(np.log(20) + 0.5 * size + np.cumsum(np.clip(log_returns, -0.7, 0.7), 0))
    spread = volatility * turbulence * np.abs(rng.normal(1, 0.3, shape)) * 0.6
    gap = rng.normal(0, 0.4, shape) * volatility * turbulence
    before = np.vstack([close[:1], close[:-1]])
    opened = before * np.exp(gap)
    high, low = np.maximum(opened, close) * np.exp(spread), np.minimum(opened, close) * np.exp(-spread)
    moved = np.abs(log_returns) / (volatility * turbulence)
    dollars = np.exp(14.5 + 1.2 * size + 0.4 * _persistent(rng, shape, 0.9) + 0.25 * np.minimum(moved, 5))
    bars = dict(zip(BARS, (opened, high, low, close, np.round(dollars / close)), strict=True))
    bars = {name: np.where(listed, each, np.nan) for name, each in bars.items()}
    level, value = np.zeros(codes), np.empty(shape)
    for t in range(days):
        level = np.where(filed[t], 0.8 * level + 0.6 * surprise[t], level)
        value[t] = level
    features = bar_features(bars) | {
        "alpha": alpha, "value": value, "fast": rng.normal(size=shape), "slow": _persistent(rng, shape, 0.98),
    }  # fmt: skip
    whole = Market(
        style, _calendar(days, style.week), [f"C{s:04d}" for s in range(codes)], bars,
        {name: np.where(listed, each, np.nan) for name, each in features.items()},
        forward_returns(bars["close"], style.horizons), universe(bars) & listed, filed & listed,
    )  # fmt: skip
    return _days(whole, WARM_UP, WARM_UP + style.days)


def write_market(market: Market, folder: Path) -> Panel:
    """The cache of a market, with its bars as the source that it was built from, and the panel of it."""
    listed = market.listed
    keep = np.flatnonzero(listed.any(0))
    market, listed = market.of_codes(keep), listed[:, keep]
    first = listed.argmax(0)
    days = len(listed) - listed[::-1].argmax(0) - first
    names, horizons = list(market.features), sorted(market.labels)
    stored = {name: np.nan_to_num(_transformed(market, values)) for name, values in market.features.items()}
    folder.mkdir(parents=True)
    columns = create_columns(folder, days, len(names), len(horizons), "float32")
    source = create_columns(folder, days, len(BARS), 0, "float32", SOURCE)
    presence = np.where(market.scored, SCORED, np.where(listed, CONTEXT, ABSENT)).astype(np.uint8)
    offset = np.cumsum(days) - days
    for s in range(len(keep)):
        rows, span = slice(offset[s], offset[s] + days[s]), slice(first[s], first[s] + days[s])
        columns.presence[rows] = presence[span, s]
        columns.features[rows] = np.stack([stored[name][span, s] for name in names], 1)
        columns.targets[rows] = np.stack([market.labels[h][span, s] for h in horizons], 1)
        source.features[rows] = np.stack([market.bars[name][span, s] for name in BARS], 1)
        source.presence[rows] = listed[span, s]
    layout = {
        "calendar": [str(day) for day in market.calendar], "codes": market.codes, "first": first.tolist(),
        "days": days.tolist(),
    }  # fmt: skip
    built = BuiltFrom(
        settings={}, columns=list(BARS), **layout, left_out={}, delistings=[],
        moments=[[0.0] * len(names)] * 5 + [[0.0]], batches=source.batches,
    )  # fmt: skip
    counts = np.bincount(
        np.concatenate([presence[first[s] : first[s] + days[s], s] for s in range(len(keep))]), minlength=3
    )
    manifest = Manifest(
        features=names, horizons=horizons, dtype="float32", **layout, rows=int(days.sum()),
        counts=dict(zip(("absent", "context", "scored"), counts.tolist(), strict=True)),
        recipe={"name": "columns"} | market.recipe, normalisation=market.style.transform,
        transform=market.style.transform, targets=[f"return over {h} days" for h in horizons],
        periods_per_year=252.0 if market.style.week == 5 else 365.0, batches=columns.batches, built_from=built,
    )  # fmt: skip
    write_manifest(folder, manifest)
    return open_panel(folder)


def forward_returns(close: Array, horizons: Sequence[int]) -> dict[int, Array]:
    """Labels [T, S] from the close of day t to that of t + h."""
    found = {}
    for h in horizons:
        found[h] = np.full_like(close, np.nan)
        found[h][:-h] = close[h:] / close[:-h] - 1
    return found


def bar_features(bars: dict[str, Array]) -> dict[str, Array]:
    """Features that are made of bars up to their day's close."""
    close = bars["close"]
    returns = np.vstack([np.zeros((1, close.shape[1])), close[1:] / close[:-1] - 1])
    dollars = np.log(np.maximum(close * bars["volume"], 1))
    return {
        "ret_1": returns,
        "ret_5": close / _lagged(close, 5) - 1,
        "momentum_60_5": _lagged(close, 5) / _lagged(close, 60) - 1,
        "vol_20": np.sqrt(_trailing(returns**2, 20)),
        "size": _trailing(dollars, 20),
        "position": (close - bars["low"]) / np.maximum(bars["high"] - bars["low"], 1e-9),
    }


def universe(bars: dict[str, Array]) -> Bool:
    """Codes whose mean dollar volume of the last 20 days, up to the day's close, is above a limit."""
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(_trailing(bars["close"] * bars["volume"], 20)) > 8e5


def _trailing(values: Array, days: int) -> Array:
    """Mean over the last days that a code has, its own included."""
    here = np.isfinite(values)
    total, count = np.cumsum(np.where(here, values, 0), 0), np.cumsum(here, 0).astype(float)
    total[days:], count[days:] = total[days:] - total[:-days], count[days:] - count[:-days]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(here, total / count, np.nan)


def _lagged(values: Array, days: int) -> Array:
    return np.vstack([np.full((days, values.shape[1]), np.nan), values[:-days]])


def _persistent(rng: np.random.Generator, shape: tuple[int, int], phi: float) -> Array:
    """Autoregressive of order 1, variance 1."""
    found = rng.normal(size=shape)
    for t in range(1, shape[0]):
        found[t] = phi * found[t - 1] + np.sqrt(1 - phi**2) * found[t]
    return found


def _filings(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Bool, Array]:
    """Days of publication, about one a quarter and code, and the surprise of each."""
    filed = np.zeros(shape, bool)
    for s in range(shape[1]):
        day = int(rng.integers(0, FILING_DAYS))
        while day < shape[0]:
            filed[day, s] = True
            day += FILING_DAYS + int(rng.integers(-5, 6))
    return filed, rng.normal(size=shape)


def _lives(rng: np.random.Generator, shape: tuple[int, int], style: Style) -> Bool:
    """Days on which each code is listed: some from the start, others later; delisted at a constant rate."""
    days, codes = shape
    first = np.where(rng.random(codes) < 0.75, 0, rng.integers(0, int(days * 0.8), codes))
    rate = style.exits / (252 if style.week == 5 else 365)
    last = first + 60 + (rng.exponential(1 / rate, codes).astype(int) if rate > 0 else days)
    day = np.arange(days)[:, None]
    return (day >= first) & (day < last)


def _before_the_end(listed: Bool) -> Bool:
    """The 40 days before a code is delisted."""
    days = len(listed)
    last = days - listed[::-1].argmax(0)
    day = np.arange(days)[:, None]
    return (last < days) & (day < last) & (day >= last - 40)


def _calendar(days: int, week: int) -> npt.NDArray[np.datetime64]:
    first = np.datetime64("2010-01-04", "D")
    return first + np.arange(days) if week == 7 else np.busday_offset(first, np.arange(days))


def _days(market: Market, start: int, stop: int) -> Market:
    """The days start..stop-1. Labels of the last days, whose ends are not yet known, are dropped."""
    cut = {h: each[start:stop].copy() for h, each in market.labels.items()}
    for h, each in cut.items():
        each[len(each) - h :] = np.nan
    return replace(
        market,
        calendar=market.calendar[start:stop],
        bars={name: each[start:stop] for name, each in market.bars.items()},
        features={name: each[start:stop] for name, each in market.features.items()},
        labels=cut,
        scored=market.scored[start:stop],
        filed=market.filed[start:stop],
    )


def _transformed(market: Market, values: Array) -> Array:
    """Features as a cache stores them: uniform ranks within the day, mean 0 and deviation 1, or as they are."""
    if market.style.transform == "none":
        return values
    order = rankdata(values, axis=1, nan_policy="omit")
    count = np.isfinite(values).sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return ((order - 0.5) / count - 0.5) * np.sqrt(12)
