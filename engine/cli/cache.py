"""`atft-engine cache`: build, append to, inspect and verify caches."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from engine.cli.options import AsJson, console, finite, usable
from engine.screen.progress import showing
from loaders.errors import InputError

Folder = Annotated[Path, typer.Argument(callback=usable, help="Cache, or folder of shards.")]


def cache_build(
    sources: Annotated[
        list[Path], typer.Argument(callback=usable, help="Parquet, CSV or Arrow files, or folders of them.")
    ],
    out: Annotated[Path, typer.Option(callback=usable, help="Folder to write.")],
    recipe: Annotated[str, typer.Option(help="columns: ready features; ohlcv: daily bars.")] = "columns",
    date: Annotated[str, typer.Option(help="Column of dates.")] = "date",
    code: Annotated[str | None, typer.Option(help="Column of codes (default: code, or ticker for ohlcv).")] = None,
    rename: Annotated[list[str] | None, typer.Option(help="old=new, a column's name; may be repeated.")] = None,
    features: Annotated[list[str] | None, typer.Option(help="Names or patterns, comma-separated (columns).")] = None,
    targets: Annotated[
        list[str] | None, typer.Option(help="Names or patterns, comma-separated (columns); none: a cache to score.")
    ] = None,
    categories: Annotated[list[str] | None, typer.Option(help="Features that are ids, stored as is (columns).")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Features to leave out: names or patterns.")] = None,
    horizons: Annotated[str | None, typer.Option(help="Rows ahead, such as 1,5, in the order of --targets.")] = None,
    trust_horizons: Annotated[
        bool, typer.Option("--trust-horizons", help="Do not check horizons against the targets (columns).")
    ] = False,
    transform: Annotated[
        Literal["rank", "zscore", "none"], typer.Option(help="Of features, within each date over the universe.")
    ] = "rank",
    entry: Annotated[
        Literal["close", "next_open", "next_close"] | None, typer.Option(help="Where labels begin (ohlcv).")
    ] = None,
    delisting_returns: Annotated[
        Path | None, typer.Option(callback=usable, help="File of code, date, return after a code's last bar (ohlcv).")
    ] = None,
    dtype: Annotated[Literal["float16", "float32"], typer.Option(help="Stored type of features.")] = "float16",
    shards: Annotated[int, typer.Option(min=1, help="Write this many caches, of some of the codes each.")] = 1,
    keep_source: Annotated[
        bool, typer.Option("--keep-source/--no-keep-source", help="Keep the columns read, to append days.")
    ] = True,
    start: Annotated[str | None, typer.Option(help="First date, YYYY-MM-DD.")] = None,
    end: Annotated[str | None, typer.Option(help="Last date, YYYY-MM-DD.")] = None,
    period: Annotated[str | None, typer.Option(help="day, week, month or era (default: as the calendar says).")] = None,
    periods_per_year: Annotated[
        float | None, typer.Option(callback=finite, help="Dates a year (default: the calendar's).")
    ] = None,
    min_codes: Annotated[int | None, typer.Option(help="Leave out dates with fewer codes.")] = None,
    min_price: Annotated[
        float | None, typer.Option(min=0, callback=finite, help="Universe: lowest close (ohlcv).")
    ] = None,
    min_dollar_volume: Annotated[
        float | None, typer.Option(min=0, callback=finite, help="Universe: 20-day mean (ohlcv).")
    ] = None,
) -> None:
    """Build a cache from files, in any row order."""
    with _needs_polars("cache build"):
        from loaders.cache.build import build

    settings = {
        "date": date, "code": code, "features": _names(features), "targets": _names(targets),
        "categories": _names(categories), "exclude": _names(exclude), "rename": rename,
        "horizons": None if horizons is None else _horizons(horizons), "trust_horizons": trust_horizons or None,
        "transform": transform, "entry": entry, "delisting_returns": delisting_returns, "dtype": dtype,
        "shards": shards, "keep_source": keep_source, "start": start, "end": end, "period": period,
        "periods_per_year": periods_per_year, "min_codes": min_codes, "min_price": min_price,
        "min_dollar_volume": min_dollar_volume,
    }  # fmt: skip
    with showing(console) as progress:
        manifest = build(recipe, sources, out, settings, console.print, progress)
    console.print(f"{out}: {manifest.rows:,} rows, cache {manifest.cache_id}")


def cache_append(
    cache: Annotated[
        Path, typer.Argument(callback=usable, help="Folder of a cache made by `cache build`, which is replaced.")
    ],
    files: Annotated[
        list[Path], typer.Argument(callback=usable, help="Parquet, CSV or Arrow files, or folders of them.")
    ],
    end: Annotated[str | None, typer.Option(help="Last date to take, YYYY-MM-DD.")] = None,
    delisting_returns: Annotated[
        Path | None,
        typer.Option(callback=usable, help="File of code, date, return that were not known before (ohlcv)."),
    ] = None,
) -> None:
    """Append the days after a cache's last one, by the recipe and settings that built it."""
    with _needs_polars("cache append"):
        from loaders.cache.append import append

    manifest = append(cache, files, console.print, end=end, delisting_returns=delisting_returns)
    console.print(f"{cache}: {manifest.rows:,} rows to {manifest.calendar[-1]}, cache {manifest.cache_id}")


@contextmanager
def _needs_polars(command: str) -> Iterator[None]:
    from loaders.cache.sources.room import check_room

    if "polars" not in sys.modules:
        check_room()
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "polars":
            raise
        raise InputError(command, "polars is not installed", "pip install 'atft-engine[build]'") from error


def cache_simulate(
    out: Annotated[Path, typer.Option(callback=usable, help="Folder to write.")],
    codes: Annotated[int, typer.Option(help="Number of codes.")] = 500,
    days: Annotated[int, typer.Option(help="Number of trading days.")] = 1000,
    features: Annotated[int, typer.Option(help="Number of features.")] = 16,
    ic: Annotated[
        float, typer.Option(callback=finite, help="RankIC that a perfect model reaches at the first horizon.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    horizons: Annotated[str, typer.Option(help="Days ahead, such as 1,5.")] = "1,5",
    dtype: Annotated[Literal["float16", "float32"], typer.Option(help="Stored type of features.")] = "float16",
) -> None:
    """Build a cache of a simulated market whose attainable RankIC is known."""
    from loaders.cache.simulation.simulate import simulate

    ahead = _horizons(horizons)
    with showing(console) as progress:
        manifest = simulate(out, codes, days, features, ic, seed, ahead, dtype, console.print, progress)
    console.print(f"{out}: {manifest.rows:,} rows, cache {manifest.cache_id}")


def cache_inspect(folder: Folder, as_json: AsJson = False) -> None:
    """Show what a cache holds."""
    from loaders.cache.shards import read_manifests

    if as_json:
        print(json.dumps(read_manifests(folder)[-1].model_dump()))
        return
    from engine.inputs import resolve_device
    from loaders.panel import open_panel
    from loaders.tiers.choose import probe
    from loaders.tiers.inspect import inspect_cache

    panel = open_panel(folder)
    console.print(inspect_cache(panel, probe(panel, resolve_device("auto"))))


def cache_verify(folder: Folder) -> None:
    """Read every byte of a cache and compare it with the manifest's checksums."""
    from loaders.cache.format import verify
    from loaders.cache.shards import shard_folders

    for path in shard_folders(folder):
        with showing(console) as progress:
            manifest = verify(path, progress)
        console.print(f"{path}: {len(manifest.checksums)} chunks agree with the manifest, cache {manifest.cache_id}")


def _horizons(text: str) -> list[int]:
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError("--horizons", f"{text!r} is no list of integers", "Write for example 1,5") from error
    if min(values) < 1 or len(set(values)) < len(values):
        raise InputError("--horizons", f"{text!r} is not distinct and 1 or more", "Write for example 1,5")
    return values


def _names(texts: list[str] | None) -> list[str]:
    return [name.strip() for text in texts or [] for name in text.split(",") if name.strip()]
