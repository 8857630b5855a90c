"""Recipe `ohlcv`: daily bars in, ranked causal features and forward returns out.

What happens to odd bars (each counted in the manifest):

    no usable close (0, negative, missing)   the row stays as context; features see the close before, no label uses it
    no usable open                           the open's features are missing that day
    no usable high or low                    both are taken to be the close
    high below or low above open or close    the range is widened to hold both
    no usable volume (0, negative, missing)  the row stays, with volume 0
    a move beyond tenfold in one day         taken for a bad tick: no label spans it

A label is close[t+h] / close[t] - 1 over calendar days, missing where either day has no bar or the code has ended.

S codes, T days, F features, H horizons, n days of a code's span
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numba import njit

from loaders.cache.atomic import atomic_folder
from loaders.cache.format import ABSENT, CONTEXT, SCORED, Manifest, create_columns, write_manifest
from loaders.cache.layout import Layout, stream
from loaders.cache.recipes.common import Options, Progress, manifest_of, open_files, summary, survey_columns
from loaders.cache.recipes.features import FEATURES, daily_features
from loaders.cache.sources.table import Table, in_any_case
from loaders.errors import InputError

Float = npt.NDArray[np.float32]

BARS = ("open", "high", "low", "close", "volume")
WARM_UP_DAYS = 400  # calendar days, read before --start: 250 trading days and some holidays
BAD_TICK = 10.0  # times the close before, up or down
CLIP = 0.5  # limit of daily log returns in volatilities and betas
LIQUIDITY_DAYS = 20
NORMALISATION = (
    "rank within the date among scored rows (all rows where fewer than 20 are), uniform with mean 0 and deviation 1; "
    "missing is 0"
)
FEWEST_RANKED = 20


@dataclass(frozen=True)
class OhlcvOptions(Options):
    """Settings of recipe `ohlcv`. Features of the first days look back before `start` where the files do.

    Args:
        horizons: days ahead, ascending; None: 1 and 5.
        min_price: lowest close of the universe.
        min_dollar_volume: least mean of close x volume over the last 20 calendar days of the universe.
    """

    code: str = "ticker"
    min_price: float | None = None
    min_dollar_volume: float | None = None


def build_ohlcv(paths: list[Path], out: Path, options: OhlcvOptions, on_progress: Progress) -> Manifest:
    """Build a cache of daily bars: causal features, rank-normalised within each date, and forward returns.

    The files have open, high, low, close and volume. Rows outside the universe are context: never scored, nor ranked
    among the others. Raises InputError naming file, column, code or date for bad input; nothing is written then.
    """
    options = options.checked()
    start, horizons = options.start, options.horizons or [1, 5]
    warm_up = None if start is None else str(np.datetime64(start, "D") - WARM_UP_DAYS)
    sources = in_any_case(open_files(paths, options, on_progress), list(BARS), on_progress)
    found, _ = survey_columns(sources, list(BARS), options, warm_up, on_progress)
    layout, source = found.layout, sources.name
    on_progress(summary(layout, len(FEATURES), len(sources.files)))
    universe = Universe(options.min_price, options.min_dollar_volume)
    bars, counts = read_bars(found.table, layout)
    counts |= found.counts
    kept = keep_from(layout, bars, start, source)
    on_progress(f"features of {kept.rows:,} rows")
    raw, presence, targets = compute(bars, layout, kept, universe, horizons, counts)
    with atomic_folder(out) as folder:
        columns = create_columns(folder, kept.rows, len(FEATURES), len(horizons), options.dtype)
        columns.presence[:] = presence
        columns.targets[:] = targets
        on_progress("ranks within each date")
        counts["missing_features"] = rank_within_dates(raw, presence, kept, columns.features)
        recipe = {"name": "ohlcv", **options.as_read(), **asdict(universe)}
        manifest = manifest_of(columns, kept, list(FEATURES), horizons, options.dtype, counts, recipe, NORMALISATION)
        write_manifest(folder, manifest)
    return manifest


@dataclass(frozen=True)
class Universe:
    """Which rows are scored, by what is known on their date; None: no limit."""

    min_price: float | None  # of the close
    min_dollar_volume: float | None  # mean of close x volume over the last 20 days


@dataclass(frozen=True)
class Bars:
    """Cleaned bars on a layout's rows, float32 [rows] each; a day without a bar repeats the close before."""

    open: Float  # NaN: unknown
    high: Float
    low: Float
    close: Float
    volume: Float
    present: npt.NDArray[np.bool_]  # the source has a bar
    usable: npt.NDArray[np.bool_]  # and a close in it


def read_bars(table: Table, layout: Layout) -> tuple[Bars, dict[str, int]]:
    """Stream `BARS` into place and clean them; also gives counts of what was odd."""
    raw = np.full((len(BARS), layout.rows), np.nan, np.float32)
    present = np.zeros(layout.rows, np.bool_)
    for rows, numbers in stream(table, layout):
        for column, values in zip(raw, numbers.T, strict=True):
            column[rows] = values
        present[rows] = True
    raw[~(np.isfinite(raw) & (raw > 0))] = np.nan
    open_, high, low, close, volume = raw
    usable = ~np.isnan(close)
    has_range = ~(np.isnan(high) | np.isnan(low))
    counts = {
        "bars": int(present.sum()),
        "bars_without_close": int((present & ~usable).sum()),
        "bars_without_open": int((usable & np.isnan(open_)).sum()),
        "bars_without_range": int((usable & ~has_range).sum()),
        "bars_without_volume": int((usable & np.isnan(volume)).sum()),
    }
    _carry(close, layout.offset, layout.days)
    known_range = has_range & usable
    high[~known_range] = close[~known_range]
    low[~known_range] = close[~known_range]
    widened = (np.fmax(open_, close) > high) | (np.fmin(open_, close) < low)
    counts["ranges_widened"] = int((known_range & widened).sum())
    np.fmax(high, np.fmax(open_, close), out=high)
    np.fmin(low, np.fmin(open_, close), out=low)
    volume[~usable | np.isnan(volume)] = 0
    open_[~usable] = np.nan
    return Bars(open_, high, low, close, volume, present, usable), counts


@njit(cache=True)
def _carry(close, offset, days):  # type: ignore[no-untyped-def]
    """Repeat the last known close over days without one."""
    for s in range(len(offset)):
        for row in range(offset[s] + 1, offset[s] + days[s]):
            if np.isnan(close[row]):
                close[row] = close[row - 1]


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


def compute(
    bars: Bars, layout: Layout, kept: Layout, universe: Universe, horizons: list[int], counts: dict[str, int]
) -> tuple[Float, npt.NDArray[np.uint8], Float]:
    """Features [rows, F] (NaN: missing), presence [rows] and targets [rows, H] on the kept rows; extends `counts`."""
    returns, jump = _log_returns(bars, layout)
    scored = bars.usable & _in_universe(bars, layout, universe)
    market = _market(returns, scored, layout)
    raw = np.empty((kept.rows, len(FEATURES)), np.float32)
    presence = np.empty(kept.rows, np.uint8)
    targets = np.empty((kept.rows, len(horizons)), np.float32)
    dropped = np.zeros(len(layout.codes), np.int64)
    source_of = {code: s for s, code in enumerate(layout.codes)}

    def one(k: int) -> None:
        s = source_of[kept.codes[k]]
        rows = slice(layout.offset[s], layout.offset[s] + layout.days[s])
        out = slice(kept.offset[k], kept.offset[k] + kept.days[k])
        calendar = slice(layout.first[s], layout.first[s] + layout.days[s])
        n = kept.days[k]
        columns = daily_features(
            bars.open[rows], bars.high[rows], bars.low[rows], bars.close[rows], bars.volume[rows],
            returns[rows], market[calendar],
        )  # fmt: skip
        for i, name in enumerate(FEATURES):
            raw[out, i] = columns[name][-n:]
        kinds = np.where(scored[rows], SCORED, np.where(bars.present[rows], CONTEXT, ABSENT))
        presence[out] = kinds[-n:]
        labels, dropped[s] = _labels(bars.close[rows], bars.usable[rows], jump[rows], horizons, n)
        targets[out] = labels

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, range(len(kept.codes)), chunksize=16))
    counts["bad_ticks"] = int(jump.sum())
    counts["targets_dropped_for_bad_ticks"] = int(dropped.sum())
    return raw, presence, targets


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


def _labels(
    close: Float, usable: npt.NDArray[np.bool_], jump: npt.NDArray[np.bool_], horizons: list[int], n: int
) -> tuple[Float, int]:
    """Forward returns [n, H] of a code's last n days, and how many a bad tick took."""
    labels = np.full((len(close), len(horizons)), np.nan, np.float32)
    ticks = np.cumsum(jump)
    dropped = 0
    for i, h in enumerate(horizons):
        if h >= len(close):
            continue
        known = usable[h:] & usable[:-h]
        spoiled = known & (ticks[h:] > ticks[:-h])
        forward = close[h:].astype(np.float64) / close[:-h] - 1
        labels[:-h, i] = np.where(known & ~spoiled, forward, np.nan)
        dropped += int(spoiled[-n:].sum()) if len(spoiled) > n else int(spoiled.sum())
    return labels[-n:], dropped


def rank_within_dates(
    raw: Float, presence: npt.NDArray[np.uint8], layout: Layout, out: npt.NDArray[np.float16] | Float
) -> int:
    """Write each date's ranks of raw [rows, F] to out [rows, F]; gives the number of missing features.

    A rank is the share of the date's scored rows that lie below, ties by half, as the value of a uniform distribution
    with mean 0 and deviation 1. A context row gets the value of the place where it would stand.
    """
    first, days, offset = layout.first, layout.days, layout.offset

    def one(day: int) -> int:
        codes = np.flatnonzero((first <= day) & (day < first + days))
        rows = offset[codes] + day - first[codes]
        rows = rows[presence[rows] != ABSENT]
        counted = presence[rows] == SCORED
        if counted.sum() < FEWEST_RANKED:
            counted[:] = True
        keys = np.empty((raw.shape[1], len(rows)), np.uint64)
        missing = int(_sort_keys(raw, rows, keys))
        keys.sort(1)
        ranked = np.empty((len(rows), raw.shape[1]), np.float32)
        _place(keys, counted, ranked)
        out[rows] = ranked
        return missing

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return sum(pool.map(one, range(len(layout.calendar)), chunksize=16))


@njit(nogil=True, cache=True)
def _sort_keys(raw, rows, keys):  # type: ignore[no-untyped-def]
    """keys [F, n]: the value's bits, ordered like the value, above its position; missing values last. Their number."""
    missing = 0
    last = np.uint32(0xFFFFFFFF)
    sign = np.uint32(0x80000000)
    for i in range(len(rows)):
        bits = raw[rows[i]].view(np.uint32)
        for f in range(len(bits)):
            value = raw[rows[i], f]
            if np.isnan(value):
                key = last
                missing += 1
            elif value == 0:
                key = sign
            else:
                key = ~bits[f] if bits[f] & sign else bits[f] | sign
            keys[f, i] = (np.uint64(key) << np.uint64(32)) | np.uint64(i)
    return missing


@njit(nogil=True, cache=True)
def _place(keys, counted, ranked):  # type: ignore[no-untyped-def]
    """ranked [n, F] from sorted keys [F, n]: where each value stands among the counted ones."""
    n = keys.shape[1]
    for f in range(keys.shape[0]):
        known = 0
        total = 0
        while known < n and keys[f, known] >> np.uint64(32) != np.uint64(0xFFFFFFFF):
            total += counted[keys[f, known] & np.uint64(0xFFFFFFFF)]
            known += 1
        below = 0
        i = 0
        while i < n:
            value = keys[f, i] >> np.uint64(32)
            stop = i
            equal = 0
            while stop < n and keys[f, stop] >> np.uint64(32) == value:
                equal += counted[keys[f, stop] & np.uint64(0xFFFFFFFF)]
                stop += 1
            place = 0.0
            if i < known and total > 0:
                place = ((below + 0.5 * equal) / total - 0.5) * np.sqrt(12.0)
            for j in range(i, stop):
                ranked[keys[f, j] & np.uint64(0xFFFFFFFF), f] = place
            below += equal
            i = stop
