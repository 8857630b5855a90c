"""Recipe `ohlcv`: daily bars in, causal features and forward returns out. See `bars`, `features` and `labels`.

S codes, T days, F features, H horizons, n days of a code's span
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loaders.cache.atomic import atomic_folder
from loaders.cache.columns import Columns, NewColumns
from loaders.cache.cross_sections import Collected, collecting, store
from loaders.cache.format import ABSENT, CONTEXT, SCORED
from loaders.cache.layout import Int, Layout, keep_from, stream
from loaders.cache.recipes.bars import BARS, Bars, Float, clean_bars
from loaders.cache.recipes.common import (
    Content,
    Options,
    PerCode,
    Tell,
    check_lengths,
    new_columns,
    summary,
    survey_columns,
    write_manifests,
)
from loaders.cache.recipes.features import FEATURES, LOOKBACK_DAYS, daily_features, trailing_sum
from loaders.cache.recipes.labels import BAD_TICK, ENTRIES, LOSSES, CodeBars, delistings_of, labels, read_delistings
from loaders.cache.recipes.source_rows import SourceRows, new_source
from loaders.cache.sources.frames import Source
from loaders.cache.sources.names import match_columns
from loaders.cache.sources.table import Sources, in_any_case
from loaders.errors import InputError
from loaders.progress import Progress, counted, part_of, quiet

WARM_UP_DAYS = 400  # calendar days, read before --start: 250 trading days and some holidays
CLIP = 0.5  # limit of daily log returns in volatilities and betas
LIQUIDITY_DAYS = 20
CHAINED_ROWS = 1 << 13  # of several codes whose features are computed as one series


@dataclass(frozen=True)
class OhlcvOptions(Options):
    """Settings of recipe `ohlcv`. Features of the first days look back before `start` where the files do.

    Args:
        horizons: days ahead; None: 1 and 5.
        entry: where a label begins, one of labels.ENTRIES.
        delisting_returns: file of code, date and return, of codes that ended.
        min_price: lowest close of the universe.
        min_dollar_volume: least mean of close x volume over the last 20 calendar days of the universe.
    """

    code: str = "ticker"
    entry: str = "close"
    delisting_returns: Source | None = None
    min_price: float | None = None
    min_dollar_volume: float | None = None

    def open(self, paths: Sequence[Source], on_progress: Tell) -> Sources:
        """The files of a build, open, with columns of bars."""
        return in_any_case(super().open(paths, on_progress), list(BARS), on_progress)

    @property
    def first_read(self) -> str | None:
        """The first date that is read, for the history of features: before `start`."""
        return None if self.start is None else str(np.datetime64(self.start, "D") - WARM_UP_DAYS)

    @property
    def sorted_horizons(self) -> list[int]:
        """Ascending; none without targets."""
        return [] if self.untargeted else sorted(self.horizons or [1, 5])


def build_ohlcv(
    paths: Sequence[Source], out: Path, options: OhlcvOptions, on_progress: Tell, progress: Progress = quiet
) -> None:
    """Build a cache of daily bars: causal features, transformed within each date, and forward returns.

    The files have open, high, low, close and volume. Rows outside the universe are context: never scored, nor ranked
    among the others. Raises InputError naming file, column, code or date for bad input; nothing is written then.
    """
    options = options.checked()
    _check(options)
    sources = options.open(paths, on_progress)
    # Shares of the time, as 9 million rows took it.
    progress(0, 1, "reading dates and codes")
    found, period = survey_columns(sources, list(BARS), options, on_progress)
    layout, features, horizons = found.layout, _features(options), options.sorted_horizons
    on_progress(summary(layout, len(features), len(sources.files)))
    given, delistings = [], {}
    if options.delisting_returns is not None:
        given = read_delistings(options.delisting_returns)
        delistings = delistings_of(layout, given, str(options.delisting_returns))
        others = len(given) - len(delistings)
        on_progress(f"{len(delistings):,} delisting returns; {others:,} more of other codes or later dates")
    recipe = {
        "name": "ohlcv", **options.as_read(), "entry": options.entry, "delisting_returns": len(delistings),
        "min_price": options.min_price, "min_dollar_volume": options.min_dollar_volume,
    }  # fmt: skip
    names = [f"return over {h} days from the {options.entry.replace('_', ' ')}" for h in horizons]
    with atomic_folder(out) as folder:
        source = new_source(folder if options.keeps_source else None, list(BARS), layout)
        for rows, numbers in stream(found.table, layout, part_of(progress, 0.02, 0.08)):
            source.put(rows, numbers)
        check_lengths(horizons, layout)
        kept = keep_from(layout, source.present, options.start, sources.name)
        content = Content(
            kept, features, horizons, names, recipe, period, found.left_out, source if options.keeps_source else None,
            known_after=int(options.entry == "next_close"), delistings=given,
        )  # fmt: skip
        columns, shards = new_columns(folder, content, options)
        market = Market.of(source, options)
        odd = {name: int(of_code.sum()) for name, of_code in market.counts.items() if name != "bars"}
        if any(odd.values()):
            told = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in odd.items() if count)
            on_progress(f"odd bars: {told}; see docs/cache.md")
        with collecting(folder, kept, len(features)) as collected:
            on_progress(f"features of {kept.rows:,} rows")
            collect_features(collected, market, features, part_of(progress, 0.08, 0.35))
            counts = fill_targets(columns, kept, market, options, delistings, part_of(progress, 0.35, 0.4))
            on_progress(f"transform within each date: {options.transform}")
            stats = store(collected, options.transform, columns, progress=part_of(progress, 0.4, 0.96))
        write_manifests(shards, content, options, counts, stats, part_of(progress, 0.96, 1))


def _check(options: OhlcvOptions) -> None:
    """Raise InputError naming an option that is out of range."""
    if options.targets and not options.untargeted:
        what = "recipe ohlcv makes its own targets from the bars"
        raise InputError("--targets", what, "Leave it out, or pass none for a cache to score")
    if options.untargeted and (options.entry != "close" or options.delisting_returns is not None):
        what = "there are no labels (--targets none)"
        raise InputError("--entry and --delisting-returns", what, "Leave them out, or leave out --targets")
    if options.entry not in ENTRIES:
        raise InputError("--entry", f"there is no {options.entry!r}", f"Use {', '.join(ENTRIES)}")
    if options.transform == "none" and options.dtype == "float16":
        what = "float16 would turn small features, such as illiquidity_20, into zero"
        raise InputError("--transform", what, "Pass --dtype float32, or another --transform")


def _features(options: OhlcvOptions) -> list[str]:
    """The features that are not left out."""
    if not options.exclude:
        return list(FEATURES)
    left_out = set(match_columns("--exclude", options.exclude, list(FEATURES), set()))
    if len(left_out) == len(FEATURES):
        raise InputError("--exclude", "no feature is left", "Leave fewer out")
    return [name for name in FEATURES if name not in left_out]


@dataclass(frozen=True)
class Market:
    """The bars of all codes, and what comes of them together."""

    layout: Layout
    bars: Bars
    counts: dict[str, PerCode]  # odd bars
    returns: Float  # [rows] clipped log returns
    jump: npt.NDArray[np.bool_]  # [rows] a bad tick came
    scored: npt.NDArray[np.bool_]  # [rows] inside the universe
    mean_return: npt.NDArray[np.float64]  # [T] of the universe

    @classmethod
    def of(cls, source: SourceRows, options: OhlcvOptions) -> "Market":
        """From the bars of a source."""
        layout = source.layout
        bars, counts = clean_bars(source)
        returns, jump = _log_returns(bars, layout)
        scored = bars.usable & _in_universe(bars, layout, options)
        return cls(layout, bars, counts, returns, jump, scored, _mean_return(returns, scored, layout))

    def rows_of(self, s: int) -> slice:
        """The rows of a code."""
        return slice(int(self.layout.offset[s]), int(self.layout.offset[s] + self.layout.days[s]))


def collect_features(collected: Collected, market: Market, features: list[str], progress: Progress = quiet) -> None:
    """Raw features of the last days of codes, as many as `collected.layout` has of each.

    No feature looks back further than LOOKBACK_DAYS. So codes with that many days before are computed as one series: on
    the days that are asked for it cannot be seen where one begins. That saves most of the time of short series.
    """
    kept, layout, bars = collected.layout, market.layout, market.bars
    places = layout.places(kept.codes)
    days, asked = layout.days[places], kept.days
    chained = np.where(days - asked >= LOOKBACK_DAYS, np.cumsum(days) // CHAINED_ROWS, -1)
    groups = [
        *np.flatnonzero(chained < 0)[:, None],
        *(np.flatnonzero(chained == i) for i in np.unique(chained[chained >= 0])),
    ]

    def one(group: Int) -> None:
        own = places[group]
        starts = np.cumsum(days[group]) - days[group]
        step = np.arange(days[group].sum()) - np.repeat(starts, days[group])
        rows, day = (np.repeat(begin[own], days[group]) + step for begin in (layout.offset, layout.first))
        found = daily_features(
            bars.open[rows], bars.high[rows], bars.low[rows], bars.close[rows], bars.volume[rows],
            market.returns[rows], market.mean_return[day],
        )  # fmt: skip
        last = step >= np.repeat(days[group] - asked[group], days[group])
        raw = np.stack([found[name][last] for name in features], 1, dtype=np.float32, casting="same_kind")
        of_days = np.arange(last.sum()) - np.repeat(np.cumsum(asked[group]) - asked[group], asked[group])
        collected.put(np.repeat(kept.offset[group], asked[group]) + of_days, raw)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(counted(pool.map(one, groups), len(groups), progress, "features of codes"))


def fill_targets(
    columns: NewColumns | Columns,
    kept: Layout,
    market: Market,
    options: OhlcvOptions,
    delistings: dict[str, float],
    progress: Progress = quiet,
) -> dict[str, PerCode]:
    """Presence and targets of the last days of codes, as many as `kept` has of each; gives counts of each code."""
    layout, bars, horizons = market.layout, market.bars, options.sorted_horizons
    lost = np.zeros((len(LOSSES), len(kept.codes)), np.int64)
    ticks, real, completed = np.zeros((3, len(kept.codes)), np.int64)
    places = market.layout.places(kept.codes)

    def one(k: int) -> None:
        s, n = places[k], int(kept.days[k])
        rows = market.rows_of(s)
        out = slice(int(kept.offset[k]), int(kept.offset[k]) + n)
        scored, usable, jump = market.scored[rows], bars.usable[rows], market.jump[rows].copy()
        columns.presence[out] = np.where(scored, SCORED, np.where(bars.present[rows], CONTEXT, ABSENT))[-n:]
        last = len(usable) - 1 - int(np.argmax(usable[::-1]))
        real[k] = jump[last]
        jump[last] = False
        ticks[k] = jump[-n:].sum()
        if not horizons:
            return
        days_left = len(layout.calendar) - int(layout.first[s] + layout.days[s])
        code_bars = CodeBars(bars.open[rows], bars.close[rows], usable, jump)
        value = delistings.get(kept.codes[k])
        values, why = labels(code_bars, horizons, options.entry, days_left, value)
        columns.targets[out] = values[-n:]
        asked = why[-n:][scored[-n:]]
        for i in range(len(LOSSES)):
            lost[i, k] = (asked == i).sum()
        if value is not None:
            without = labels(code_bars, horizons, options.entry, days_left, None)[1][-n:][scored[-n:]]
            completed[k] = ((asked < 0) & (without >= 0)).sum()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(counted(pool.map(one, range(len(kept.codes))), len(kept.codes), progress, "targets of codes"))
    counts = {name: of_code[places] for name, of_code in market.counts.items()}
    counts |= {"bad_ticks": ticks, "last_moves_beyond_tenfold": real}
    if horizons:
        counts |= {f"targets_lost_to_{name}": lost[i] for i, name in enumerate(LOSSES)}
        counts["targets_completed"] = completed
    return counts


def _log_returns(bars: Bars, layout: Layout) -> tuple[Float, npt.NDArray[np.bool_]]:
    """Clipped log returns [rows], 0 on a code's first day and on days without a bar, and where a bad tick came."""
    with np.errstate(invalid="ignore"):
        change = np.diff(np.log(bars.close), prepend=np.nan)
    change[layout.offset] = 0
    change[np.isnan(change)] = 0
    return np.clip(change, -CLIP, CLIP).astype(np.float32), np.abs(change) > np.log(BAD_TICK)


def _in_universe(bars: Bars, layout: Layout, options: OhlcvOptions) -> npt.NDArray[np.bool_]:
    inside = np.ones(layout.rows, np.bool_)
    if options.min_price is not None:
        inside &= bars.close >= np.float32(options.min_price)
    if options.min_dollar_volume is not None:
        traded = np.where(bars.volume > 0, bars.close.astype(np.float64) * bars.volume, 0)
        for start, days in zip(layout.offset, layout.days, strict=True):
            mean = trailing_sum(traded[start : start + days], LIQUIDITY_DAYS) / LIQUIDITY_DAYS
            inside[start : start + days] &= mean >= options.min_dollar_volume
    return inside


def _mean_return(returns: Float, scored: npt.NDArray[np.bool_], layout: Layout) -> npt.NDArray[np.float64]:
    """Equal-weight mean return [T] of each date's scored rows, 0 where there is none."""
    day = np.arange(layout.rows) - np.repeat(layout.offset - layout.first, layout.days)
    total = np.bincount(day[scored], returns[scored].astype(np.float64), len(layout.calendar))
    return total / np.maximum(np.bincount(day[scored], minlength=len(layout.calendar)), 1)
