"""The end of a cache of daily bars, computed anew where days are appended to it.

Of each code the last bars are cleaned and looked at twice: as they were, and with the new days. The first tells what
the counts of the cache hold of them, the second what comes in its place. The bars begin so far back that the features
of the new days, and the labels that they complete, are those of the whole history.

S codes
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loaders.cache.cross_sections import collecting, store
from loaders.cache.format import Manifest
from loaders.cache.layout import Int, Layout
from loaders.cache.recipes.bars import BARS
from loaders.cache.recipes.features import LOOKBACK_DAYS
from loaders.cache.recipes.growth import Growth
from loaders.cache.recipes.labels import delistings_of, read_delistings
from loaders.cache.recipes.ohlcv import LIQUIDITY_DAYS, Market, OhlcvOptions, collect_features, fill_targets
from loaders.cache.recipes.source_rows import SourceRows
from loaders.cache.sources.frames import Source
from loaders.cache.statistics import RunningStats
from loaders.errors import InputError


def extend_ohlcv(growth: Growth, options: OhlcvOptions, delisting_returns: Source | None) -> Manifest:
    """Fill in the new rows of a cache that days are appended to, and the targets that they complete; describes it.

    Raises InputError for delisting returns that contradict those given before, or the bars.
    """
    if options.untargeted and delisting_returns is not None:
        raise InputError("--delisting-returns", "the cache has no targets", "Leave it out")
    given, where = growth.built.delistings, str(delisting_returns or "the delisting returns of the build")
    known_before = delistings_of(growth.before.layout, given, where)
    if delisting_returns is not None:
        given = sorted({*given, *read_delistings(delisting_returns)}, key=lambda found: (found.code, found.date))
    known = delistings_of(growth.now.layout, given, where)

    changed = {code for code in known if known_before.get(code) != known[code]}
    tail = _tail(growth, changed, max(options.sorted_horizons, default=0) + 2)
    old, new = growth.empty(tail.part_before, 0), growth.empty(tail.part, 0)
    market = Market.of(tail.now, options)
    of_before = fill_targets(old, tail.part_before, Market.of(tail.before, options), options, known_before)
    of_now = fill_targets(new, tail.part, market, options, known)
    if lacking := sorted(of_now.keys() - growth.manifest.counts):
        what = f"its manifest counts no {', '.join(lacking)}"
        raise InputError(growth.table.sources.name, what, "Build the cache again from all files")
    counts = {
        name: growth.manifest.counts[name] - int(of_before[name].sum()) + int(of_now[name].sum()) for name in of_now
    }
    rows = growth.kept.last_rows(tail.part)
    growth.columns.targets[rows], growth.columns.presence[rows] = new.targets, new.presence

    fresh, features = growth.fresh, growth.manifest.features
    rows, new = growth.kept.last_rows(fresh), growth.empty(fresh, len(features))
    new.presence[:] = growth.columns.presence[rows]
    with collecting(growth.folder, fresh, len(features)) as collected:
        collect_features(collected, market, features)
        stats = store(collected, options.transform, new, before=RunningStats.resume(growth.built.moments))
    growth.columns.features[rows] = new.features
    return growth.described(options, counts, stats, given, delisting_returns=len(known))


@dataclass(frozen=True)
class _Tail:
    """The last bars of some codes, and of these days the rows of the cache whose targets and presence may change."""

    before: SourceRows
    now: SourceRows
    part_before: Layout
    part: Layout


def _tail(growth: Growth, changed: set[str], reach: int) -> _Tail:
    """The end of every code that has a new day, or ended so late that it counts in what a new day sees.

    Args:
        changed: codes whose delisting return has become known; theirs too.
        reach: days before a code's last close on which its labels may look beyond it.
    """
    before, now, kept, first_new = growth.before.layout, growth.now.layout, growth.kept, growth.first_new
    n, first, stop = len(now.codes), now.first, now.first + now.days
    back = max(LOOKBACK_DAYS, reach + LIQUIDITY_DAYS) + 1
    old = now.places(before.codes)
    stop_before = np.zeros(n, np.int64)
    stop_before[old] = before.first + before.days
    kept_before, kept_now = now.places(growth.kept_before.codes), now.places(kept.codes)
    kept_first = np.zeros(n, np.int64)
    kept_first[kept_now] = kept.first + len(now.calendar) - len(kept.calendar)

    in_cache = np.zeros(n, np.bool_)  # before
    in_cache[kept_before] = True
    begin, part_first = first.copy(), kept_first.copy()  # whole where the cache did not have the code
    close = BARS.index("close")
    for s, (offset, days) in zip(old, zip(before.offset, before.days, strict=True), strict=True):
        if in_cache[s]:
            closes = growth.before.values[int(offset) : int(offset + days), close]
            usable = np.flatnonzero(np.isfinite(closes) & (closes > 0)) + first[s]
            anchor = int(usable[-1]) + 1 if len(usable) else int(first[s])
            part_first[s] = max(kept_first[s], anchor - reach)
            # The first bar of the tail is a close to carry on, where the code has one so early.
            early = usable[: np.searchsorted(usable, anchor - back, "right")]
            begin[s] = max(first[s], int(early[-1]) if len(early) else anchor - back)

    active = (stop > first_new) | (stop_before > first_new - back) | np.isin(now.codes, list(changed))
    was = active & (stop_before > 0)
    return _Tail(
        _rows(growth.before, _layout(before.calendar, now.codes, begin, stop_before, was)),
        _rows(growth.now, _layout(now.calendar, now.codes, begin, stop, active)),
        _layout(before.calendar, now.codes, part_first, stop_before, was & in_cache),
        _layout(now.calendar, now.codes, part_first, stop, active & _mask(n, kept_now)),
    )


def _mask(n: int, places: Int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(n, np.bool_)
    mask[places] = True
    return mask


def _layout(
    calendar: npt.NDArray[np.datetime64], codes: list[str], first: Int, stop: Int, chosen: npt.NDArray[np.bool_]
) -> Layout:
    """The spans first..stop-1 of the chosen codes."""
    names = [code for code, is_chosen in zip(codes, chosen, strict=True) if is_chosen]
    return Layout(calendar, names, first[chosen], (stop - first)[chosen])


def _rows(source: SourceRows, part: Layout) -> SourceRows:
    """The last days of some codes, in memory."""
    rows = source.layout.last_rows(part)
    return SourceRows(source.names, part, source.values[rows], source.present[rows], [])
