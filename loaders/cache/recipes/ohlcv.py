"""Recipe `ohlcv`: daily bars in, causal features and forward returns out. See `bars`, `features` and `labels`.

S codes, T days, F features, H horizons, n days of a code's span
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loaders.cache.atomic import atomic_folder
from loaders.cache.columns import NewColumns
from loaders.cache.cross_sections import Collected, collecting, store
from loaders.cache.format import ABSENT, CONTEXT, SCORED
from loaders.cache.layout import Layout
from loaders.cache.recipes.bars import BARS, Bars, Float, read_bars
from loaders.cache.recipes.common import (
    Content,
    Options,
    PerCode,
    Progress,
    new_columns,
    open_files,
    summary,
    survey_columns,
    write_manifests,
)
from loaders.cache.recipes.features import FEATURES, daily_features
from loaders.cache.recipes.labels import BAD_TICK, ENTRIES, LOSSES, CodeBars, labels, read_delistings
from loaders.cache.sources.names import match_columns
from loaders.cache.sources.table import in_any_case
from loaders.errors import InputError

WARM_UP_DAYS = 400  # calendar days, read before --start: 250 trading days and some holidays
CLIP = 0.5  # limit of daily log returns in volatilities and betas
LIQUIDITY_DAYS = 20


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
    delisting_returns: Path | None = None
    min_price: float | None = None
    min_dollar_volume: float | None = None


def build_ohlcv(paths: list[Path], out: Path, options: OhlcvOptions, on_progress: Progress) -> None:
    """Build a cache of daily bars: causal features, transformed within each date, and forward returns.

    The files have open, high, low, close and volume. Rows outside the universe are context: never scored, nor ranked
    among the others. Raises InputError naming file, column, code or date for bad input; nothing is written then.
    """
    options = options.checked()
    _check(options)
    start, horizons = options.start, sorted(options.horizons or [1, 5])
    warm_up = None if start is None else str(np.datetime64(start, "D") - WARM_UP_DAYS)
    sources = in_any_case(open_files(paths, options, on_progress), list(BARS), on_progress)
    found, period = survey_columns(sources, list(BARS), options, warm_up, on_progress)
    layout, features = found.layout, _features(options)
    on_progress(summary(layout, len(features), len(sources.files)))
    universe = Universe(options.min_price, options.min_dollar_volume)
    delistings: dict[str, float] = {}
    if options.delisting_returns is not None:
        delistings, others = read_delistings(options.delisting_returns, layout)
        on_progress(f"{len(delistings):,} delisting returns; {others:,} more of other codes or later dates")
    bars, counts = read_bars(found.table, layout)
    kept = keep_from(layout, bars, start, sources.name)
    recipe = {
        "name": "ohlcv", **options.as_read(), "entry": options.entry, "delisting_returns": len(delistings),
        **asdict(universe),
    }  # fmt: skip
    names = [f"return over {h} days from the {options.entry.replace('_', ' ')}" for h in horizons]
    known_after = 1 if options.entry == "next_close" else 0
    content = Content(kept, features, horizons, names, recipe, period, found.counts, known_after=known_after)
    with atomic_folder(out) as folder:
        columns, shards = new_columns(folder, content, options)
        with collecting(folder, kept, len(features)) as collected:
            on_progress(f"features of {kept.rows:,} rows")
            own = {code: s for s, code in enumerate(layout.codes)}
            mine = np.array([own[code] for code in kept.codes])
            counts = {name: of_code[mine] for name, of_code in counts.items()}
            counts |= fill(columns, collected, bars, layout, content, universe, options.entry, delistings)
            on_progress(f"transform within each date: {options.transform}")
            stats = store(collected, options.transform, columns)
        write_manifests(shards, content, options, counts, stats)


def _check(options: OhlcvOptions) -> None:
    """Raise InputError naming an option that is out of range."""
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
class Universe:
    """Which rows are scored, by what is known on their date; None: no limit."""

    min_price: float | None  # of the close
    min_dollar_volume: float | None  # mean of close x volume over the last 20 days


def keep_from(layout: Layout, bars: Bars, start: str | None, source: str) -> Layout:
    """The layout of the rows from `start` on: spans begin with a bar, codes that ended before are gone."""
    if start is None:
        return layout
    begin = int(np.searchsorted(layout.calendar, np.datetime64(start, "D")))
    first, ends = layout.first.copy(), layout.first + layout.days
    for s in np.flatnonzero((first < begin) & (ends > begin)):
        row = layout.offset[s] + begin - first[s]
        first[s] = begin + int(np.argmax(bars.present[row : layout.offset[s] + layout.days[s]]))
    kept = ends > begin
    if not kept.any():
        raise InputError(source, f"no row from {start} on", "Move --start")
    codes = [code for code, keep in zip(layout.codes, kept, strict=True) if keep]
    return Layout(layout.calendar[begin:], codes, first[kept] - begin, (ends - first)[kept])


def fill(
    columns: NewColumns,
    collected: Collected,
    bars: Bars,
    layout: Layout,
    content: Content,
    universe: Universe,
    entry: str,
    delistings: dict[str, float],
) -> dict[str, PerCode]:
    """Presence and targets into the columns, features to be transformed; gives counts of each kept code."""
    kept, horizons, features = content.layout, content.horizons, content.features
    returns, jump = _log_returns(bars, layout)
    scored = bars.usable & _in_universe(bars, layout, universe)
    market = _market(returns, scored, layout)
    lost = np.zeros((len(LOSSES), len(kept.codes)), np.int64)
    ticks, real, completed = np.zeros((3, len(kept.codes)), np.int64)
    source_of = {code: s for s, code in enumerate(layout.codes)}

    def one(k: int) -> None:
        s = source_of[kept.codes[k]]
        rows = slice(layout.offset[s], layout.offset[s] + layout.days[s])
        out = slice(int(kept.offset[k]), int(kept.offset[k] + kept.days[k]))
        calendar = slice(layout.first[s], layout.first[s] + layout.days[s])
        n = int(kept.days[k])
        found = daily_features(
            bars.open[rows], bars.high[rows], bars.low[rows], bars.close[rows], bars.volume[rows],
            returns[rows], market[calendar],
        )  # fmt: skip
        raw = np.empty((n, len(features)), np.float32)
        for i, name in enumerate(features):
            raw[:, i] = found[name][-n:]
        collected.put(np.arange(out.start, out.stop), raw)
        kinds = np.where(scored[rows], SCORED, np.where(bars.present[rows], CONTEXT, ABSENT))
        columns.presence[out] = kinds[-n:]
        of_code, moved = jump[rows].copy(), bars.usable[rows]
        last = len(moved) - 1 - int(np.argmax(moved[::-1]))
        real[k] = of_code[last]
        of_code[last] = False
        ticks[k] = of_code[-n:].sum()
        days_left = len(layout.calendar) - calendar.stop
        code_bars = CodeBars(bars.open[rows], bars.close[rows], moved, of_code)
        value = delistings.get(kept.codes[k])
        values, why = labels(code_bars, horizons, entry, days_left, value)
        columns.targets[out] = values[-n:]
        asked = why[-n:][scored[rows][-n:]]
        for i in range(len(LOSSES)):
            lost[i, k] = (asked == i).sum()
        if value is not None:
            without = labels(code_bars, horizons, entry, days_left, None)[1][-n:][scored[rows][-n:]]
            completed[k] = ((asked < 0) & (without >= 0)).sum()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, range(len(kept.codes)), chunksize=16))
    counts = {f"targets_lost_to_{name}": lost[i] for i, name in enumerate(LOSSES)}
    return {"bad_ticks": ticks, "last_moves_beyond_tenfold": real, **counts, "targets_completed": completed}


def _log_returns(bars: Bars, layout: Layout) -> tuple[Float, npt.NDArray[np.bool_]]:
    """Clipped log returns [rows], 0 on a code's first day and on days without a bar, and where a bad tick came."""
    with np.errstate(invalid="ignore"):
        change = np.diff(np.log(bars.close), prepend=np.nan)
    change[layout.offset] = 0
    change[np.isnan(change)] = 0
    return np.clip(change, -CLIP, CLIP).astype(np.float32), np.abs(change) > np.log(BAD_TICK)


def _in_universe(bars: Bars, layout: Layout, universe: Universe) -> npt.NDArray[np.bool_]:
    inside = np.ones(layout.rows, np.bool_)
    if universe.min_price is not None:
        inside &= bars.close >= np.float32(universe.min_price)
    if universe.min_dollar_volume is not None:
        traded = np.where(bars.volume > 0, bars.close.astype(np.float64) * bars.volume, 0)
        for start, days in zip(layout.offset, layout.days, strict=True):
            total = np.concatenate([np.zeros(LIQUIDITY_DAYS), np.cumsum(traded[start : start + days])])
            mean = (total[LIQUIDITY_DAYS:] - total[:-LIQUIDITY_DAYS]) / LIQUIDITY_DAYS
            inside[start : start + days] &= mean >= universe.min_dollar_volume
    return inside


def _market(returns: Float, scored: npt.NDArray[np.bool_], layout: Layout) -> npt.NDArray[np.float64]:
    """Equal-weight mean return [T] of each date's scored rows, 0 where there is none."""
    day = np.arange(layout.rows) - np.repeat(layout.offset - layout.first, layout.days)
    total = np.bincount(day[scored], returns[scored].astype(np.float64), len(layout.calendar))
    return total / np.maximum(np.bincount(day[scored], minlength=len(layout.calendar)), 1)
