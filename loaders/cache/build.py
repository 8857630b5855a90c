"""Build a cache from files: survey them, stream the rows into place, write the manifest."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from loaders.cache import sources
from loaders.cache.atomic import atomic_folder
from loaders.cache.format import ABSENT, CONTEXT, SCORED, Columns, Manifest, create_columns, write_manifest
from loaders.cache.layout import Layout, survey
from loaders.cache.recipes import columns as ready
from loaders.cache.recipes import ohlcv
from loaders.errors import InputError


def build_columns(
    paths: list[Path],
    out: Path,
    date: str,
    code: str,
    features: list[str],
    targets: list[str],
    horizons: list[int] | None,
    dtype: str,
    start: str | None,
    end: str | None,
    on_progress: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Build a cache of a ready panel: its feature and target columns as they are.

    Args:
        paths: files, or folders of them, in any row order.
        date, code: columns of dates and codes.
        features, targets: names or patterns (`*`, `?`, `[...]`) of columns; patterns never take a target, the date or
            the code as a feature.
        horizons: days ahead of each target in the order of `targets`; None: the last integer in each name.
        dtype: of the stored features.
        start, end: ISO dates, both included; None: all.

    A missing feature is stored as 0 and counted, a missing target as NaN. Raises InputError naming file, column, code
    or date for bad input; nothing is written then.
    """
    _check_dates(start, end)
    files = sources.find_files(paths)
    names = sources.column_names(files)
    chosen = ready.choose(names, date, code, features, targets, horizons)
    table = sources.scan(files, date, code, chosen.features + chosen.targets, start, end)
    source = str(paths[0]) if len(paths) == 1 else f"{len(files)} files"
    layout = survey(table, source, date, code)
    on_progress(_heading(layout, len(chosen.features), len(files)))
    with atomic_folder(out) as folder:
        columns = create_columns(folder, layout.rows, len(chosen.features), len(chosen.horizons), dtype)
        counts = ready.fill(columns, table, layout, chosen, source)
        recipe = {"name": "columns", "date": date, "code": code, "start": start, "end": end, "targets": chosen.targets}
        manifest = _manifest(columns, layout, chosen.features, chosen.horizons, dtype, counts, recipe, "none")
        write_manifest(folder, manifest)
    return manifest


def build_ohlcv(
    paths: list[Path],
    out: Path,
    date: str,
    code: str,
    horizons: list[int],
    dtype: str,
    start: str | None,
    end: str | None,
    min_price: float | None,
    min_dollar_volume: float | None,
    on_progress: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Build a cache of daily bars: causal features, rank-normalised within each date, and forward returns.

    Args:
        paths, date, code, dtype, start, end: as for `build_columns`; the files also have open, high, low, close and
            volume. Features of the first days look back before `start` where the files do.
        horizons: days ahead, ascending.
        min_price: lowest close of the universe.
        min_dollar_volume: least mean of close x volume over the last 20 calendar days of the universe.

    Rows outside the universe are context: never scored, nor ranked among the others. Raises InputError naming file,
    column, code or date for bad input; nothing is written then.
    """
    _check_dates(start, end)
    files = sources.find_files(paths)
    warm_up = None if start is None else str(np.datetime64(start, "D") - ohlcv.WARM_UP_DAYS)
    table = sources.scan(files, date, code, list(ohlcv.BARS), warm_up, end)
    source = str(paths[0]) if len(paths) == 1 else f"{len(files)} files"
    layout = survey(table, source, date, code)
    on_progress(_heading(layout, len(ohlcv.FEATURES), len(files)))
    universe = ohlcv.Universe(min_price, min_dollar_volume)
    bars, counts = ohlcv.read_bars(table, layout, source)
    kept = ohlcv.keep_from(layout, bars, start, source)
    on_progress(f"features of {kept.rows:,} rows")
    raw, presence, targets = ohlcv.compute(bars, layout, kept, universe, horizons, counts)
    with atomic_folder(out) as folder:
        columns = create_columns(folder, kept.rows, len(ohlcv.FEATURES), len(horizons), dtype)
        columns.presence[:] = presence
        columns.targets[:] = targets
        on_progress("ranks within each date")
        counts["missing_features"] = ohlcv.rank_within_dates(raw, presence, kept, columns.features)
        recipe = {
            "name": "ohlcv", "date": date, "code": code, "start": start, "end": end, **asdict(universe),
        }  # fmt: skip
        manifest = _manifest(columns, kept, list(ohlcv.FEATURES), horizons, dtype, counts, recipe, ohlcv.NORMALISATION)
        write_manifest(folder, manifest)
    return manifest


def _check_dates(start: str | None, end: str | None) -> None:
    for option, text in (("--start", start), ("--end", end)):
        try:
            if text is not None and str(np.datetime64(text, "D")) != text:
                raise ValueError
        except ValueError as error:
            raise InputError(option, f"{text!r} is no date", "Write it as YYYY-MM-DD") from error
    if start is not None and end is not None and start > end:
        raise InputError("--end", f"{end} is before --start {start}", "Swap them")


def _heading(layout: Layout, n_features: int, n_files: int) -> str:
    days = f"{len(layout.calendar):,} days from {layout.calendar[0]} to {layout.calendar[-1]}"
    return f"{n_files:,} files: {len(layout.codes):,} codes, {days}, {n_features} features"


def _manifest(
    columns: Columns,
    layout: Layout,
    features: list[str],
    horizons: list[int],
    dtype: str,
    counts: dict[str, int],
    recipe: dict[str, Any],
    normalisation: str,
) -> Manifest:
    kinds = {"absent": ABSENT, "context": CONTEXT, "scored": SCORED}
    return Manifest(
        features=features,
        horizons=horizons,
        dtype=dtype,
        calendar=[str(day) for day in layout.calendar],
        codes=layout.codes,
        first=layout.first.tolist(),
        days=layout.days.tolist(),
        rows=layout.rows,
        counts={name: int((columns.presence == kind).sum()) for name, kind in kinds.items()}
        | {"one_day_codes": int((layout.days == 1).sum())}
        | counts,
        recipe=recipe,
        normalisation=normalisation,
    )
