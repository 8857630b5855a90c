"""Who is in the universe, computed again from prices and volumes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.audit.finding import Advice, Finding, failed, passed, skipped
from engine.audit.sample import Bool, CacheSample, Float32
from loaders.panel import Int

Float = npt.NDArray[np.float64]

ADVICE = Advice(
    "universe membership",
    "A universe that later prices or volumes explain was not known on its day.",
    "Choose it by prices and volumes up to the day's close, or of the day before.",
)
LIQUIDITY_DAYS = 20  # of recipe ohlcv
ROUNDING = 1e-4
SPANS = (5, 20, 60, 250)
LAGS = (0, 1, 20, 60, 120)
MOST_CELLS = 20_000
MIN_CODES = 20  # that change, or of either side
Z = 3.5  # of codes: 2e-4 one-sided, were either family as good as the other
EXACT, MIN_EXACT = 0.0005, 5  # errors of a rule that was the rule; codes that it explains alone
FEWER = 0.85  # errors of the best later rule over those of the best earlier one
GAIN = 0.002  # of all rows


def membership(sample: CacheSample) -> Finding:
    """Whether prices and volumes of later days say better who is in the universe than those of earlier days.

    Where recipe `ohlcv` made the universe, its limits are applied to the bars again: no row may differ. Else each rule
    of two families is a threshold, on the value or on its rank within the day, of the mean close or close x volume over
    a window of days: windows that end on the day or before it, and windows that reach beyond it, whole lives included.
    The error of a rule is the share of rows that its best threshold puts on the wrong side. The statistic is the
    difference between the errors of the best earlier and the best later rule, a code each; its mean over codes over its
    standard error is normal, and so are the signs (the larger counts). It alarms beyond 3.5 where the later rule has
    15% fewer errors and they are 0.2% of all rows, or where a later rule has none and no earlier one comes near. An
    honest rule of something that is not here is as well explained by either family, or better by the earlier.
    """
    bars = sample.bars
    if "close" not in bars:
        return skipped(ADVICE, "no closes: the cache keeps no bars")
    recipe = sample.panel.manifest.recipe
    if recipe["name"] == "ohlcv":
        return _by_recipe(sample, recipe.get("min_price"), recipe.get("min_dollar_volume"))
    return _by_rules(sample)


def _by_recipe(sample: CacheSample, min_price: float | None, min_dollar_volume: float | None) -> Finding:
    close, volume = (np.nan_to_num(sample.bars[name].astype(np.float64)) for name in ("close", "volume"))
    if min_price is None and min_dollar_volume is None:
        return skipped(ADVICE, "recipe ohlcv without limits: every row is in the universe")
    inside, near = np.ones(close.shape, bool), np.zeros(close.shape, bool)
    if min_price is not None:
        limit = float(np.float32(min_price))
        inside &= close >= limit
    if min_dollar_volume is not None:
        sums = np.vstack([np.zeros((1, close.shape[1])), np.cumsum(close * np.maximum(volume, 0), 0)])
        day = np.arange(len(close))
        mean = (sums[day + 1] - sums[np.maximum(day + 1 - LIQUIDITY_DAYS, 0)]) / LIQUIDITY_DAYS
        inside &= mean >= min_dollar_volume
        near = np.abs(mean / min_dollar_volume - 1) < ROUNDING if min_dollar_volume > 0 else mean < ROUNDING
    checked = sample.present & ~near & (close > 0)
    checked[:LIQUIDITY_DAYS] = False  # bars before the first day are not here
    wrong = checked & (inside != sample.scored)
    told = f"{int(wrong.sum()):,} of {int(checked.sum()):,} rows differ from the recipe's own limits"
    if wrong.any():
        return failed(
            ADVICE, told, [sample.names[s] for s in np.argsort(-wrong.sum(0))[: np.count_nonzero(wrong.any(0))]]
        )
    return passed(ADVICE, told)


@dataclass(frozen=True)
class _Rule:
    name: str
    error: float
    wrong: Bool  # [N]


def _by_rules(sample: CacheSample) -> Finding:
    usable = sample.present.copy()
    usable[-1] = False
    step = max(int(usable.sum() // MOST_CELLS), 1)
    grid = np.zeros(sample.days, bool)
    grid[::step] = True
    day, code = np.nonzero(usable & grid[:, None] & np.isfinite(sample.bars["close"]))
    flag = sample.scored[day, code]
    sides = np.array([len(np.unique(code[flag == side])) for side in (False, True)])
    if sides.min() < MIN_CODES:
        return skipped(
            ADVICE, f"{sides[1]} codes are in the universe at times and {sides[0]} outside, too few to compare"
        )
    values = {"price": sample.bars["close"]}
    if "volume" in sample.bars:
        values["dollar volume"] = sample.bars["close"] * sample.bars["volume"]
    calendar = sample.panel.calendar.astype("datetime64[Y]")
    year = np.searchsorted(calendar, calendar[day]), np.searchsorted(calendar, calendar[day], "right")
    best: dict[bool, _Rule] = {}
    for later in (False, True):
        rules = (
            _rule(name, kind, flag)
            for what, value in values.items()
            for window, means in _windows(value, day, code, year, later)
            for name, kind in _kinds(f"{what}, {window}", means, day)
        )
        best[later] = min(rules, key=lambda rule: rule.error)
    before, after = best[False], best[True]
    gains: Float = np.bincount(code, before.wrong.astype(np.float64) - after.wrong, len(sample.codes)).astype(float)
    z = _z(gains[np.unique(code)])
    told = f"{before.name}: {before.error:.2%} of rows wrong; {after.name}: {after.error:.2%}, z {z:.1f} (limit {Z})"
    better = after.error < FEWER * before.error and before.error - after.error > GAIN
    exact = after.error < EXACT and before.error > 10 * EXACT and np.count_nonzero(gains > 0) >= MIN_EXACT
    if better and (z > Z or exact):
        order = np.argsort(-gains, kind="stable")
        return failed(ADVICE, told, [sample.names[s] for s in order[: np.count_nonzero(gains > 0)]])
    return passed(ADVICE, told)


def _z(gains: Float) -> float:
    """Of the mean over codes, or of the signs where few codes have much; the larger."""
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    more, fewer = int((gains > 0).sum()), int((gains < 0).sum())
    of_mean = float(gains.mean() / error) if error > 0 else 0.0
    return max(of_mean, (more - fewer) / float(np.sqrt(max(more + fewer, 1))))


def _windows(value: Float32, day: Int, code: Int, year: tuple[Int, Int], later: bool) -> Iterator[tuple[str, Float]]:
    """Means [N] over windows around the day of each row, of the days that the code has; each with its name.

    Args:
        value: [T, S].
        day, code: [N] the rows.
        year: [N] first day of the row's calendar year, and of the next year.
        later: windows that reach beyond the day, else those that do not.
    """
    here, days = np.isfinite(value), len(value)
    sums = np.vstack([np.zeros((1, value.shape[1])), np.cumsum(np.where(here, value, 0), 0, dtype=np.float64)])
    counts = np.vstack([np.zeros((1, value.shape[1]), np.int32), np.cumsum(here, 0, dtype=np.int32)])
    first, last = here.argmax(0)[code], (days - here[::-1].argmax(0))[code]

    def mean(start: Int, stop: Int) -> Float:
        low, high = np.clip(start, 0, days), np.clip(stop, 0, days)
        n = counts[high, code] - counts[low, code]
        return np.asarray((sums[high, code] - sums[low, code]) / np.where(n > 0, n, np.nan))

    if not later:
        for span in (1, *SPANS):
            for lag in LAGS:
                yield f"{span} days to {lag} days before", mean(day - lag - span + 1, day - lag + 1)
        yield "all days before", mean(first, day + 1)
        yield f"first {SPANS[1]} days", mean(first, first + SPANS[1])
        yield f"last {SPANS[2]} days of the year before", mean(year[0] - SPANS[2], year[0])
        return
    for ahead in (1, *SPANS):
        yield f"the day {ahead} days later", mean(day + ahead, day + ahead + 1)
    for span in SPANS:
        for ahead in sorted({max(span // 4, 1), span // 2, span}):
            yield f"{span} days to {ahead} days later", mean(day + ahead - span + 1, day + ahead + 1)
        for ahead in (span * 2, span * 4):
            yield f"{ahead} days later on", mean(day + 1, day + ahead + 1)
    yield "all days", mean(first, last)
    yield f"last {SPANS[2]} days", mean(last - SPANS[2], last)
    yield f"last {SPANS[2]} days of the year", mean(year[1] - SPANS[2], year[1])


def _kinds(name: str, value: Float, day: Int) -> Iterator[tuple[str, Float]]:
    """The value, and its share of the day's largest rank; the least where it is missing."""
    value = np.nan_to_num(value, nan=-np.inf)
    yield f"{name}", value
    order = np.lexsort((value, day))
    count = np.bincount(day)
    place = np.empty(len(day))
    place[order] = np.arange(len(day)) - np.repeat(np.cumsum(count) - count, count)
    yield f"rank of {name}", place / count[day]


def _rule(name: str, value: Float, flag: Bool) -> _Rule:
    """The threshold with the fewest errors; members are above it."""
    order = np.argsort(value, kind="stable")
    inside, ascending = flag[order], value[order]
    members, others = (np.concatenate([[0], np.cumsum(side)]) for side in (inside, ~inside))
    errors = members + others[-1] - others  # where the first i are said to be outside
    splits = np.concatenate([[True], ascending[1:] > ascending[:-1], [True]])  # equal values are on one side
    cut = int(np.argmin(np.where(splits, errors, len(flag) + 1)))
    wrong = np.empty(len(flag), bool)
    wrong[order] = np.where(np.arange(len(flag)) < cut, inside, ~inside)
    return _Rule(name, float(wrong.mean()), wrong)
