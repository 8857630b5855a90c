"""Append days to a cache: what a rebuild from all files gives, to the last bit, from the new files alone.

A cache keeps the columns that its recipe read (source.arrow). The rows of new files are put to them, and rows of the
past are compared. What the recipe makes of a day depends on days before it, as far back as its features look, and on
the days after it as far as its labels reach. So the rows that a cache has are copied, code by code, since each code's
run grows; new rows, and the targets of the last ones, are computed from the end of the source.

The new cache takes the place of the old one by a rename: a kill leaves the one or the other, and open readers keep the
one that they have mapped.

S codes, N rows, F features, H horizons
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from loaders.cache.atomic import atomic_folder
from loaders.cache.build import RECIPES, Recipe
from loaders.cache.columns import as_columns, create_columns
from loaders.cache.format import (
    CURE,
    MANIFEST,
    BuiltFrom,
    Manifest,
    open_columns,
    read_manifest,
    verify,
    write_manifest,
)
from loaders.cache.layout import Layout, keep_from, survey
from loaders.cache.recipes.common import Tell
from loaders.cache.recipes.growth import Growth
from loaders.cache.recipes.past import grown_layout, put_files
from loaders.cache.recipes.source_rows import kept_source, new_source
from loaders.cache.shards import read_manifests, shard_folders
from loaders.cache.sources.frames import Source
from loaders.cache.sources.table import open_table
from loaders.disk.lock import alone_with
from loaders.disk.regular import open_plain, refusal
from loaders.errors import InputError


def append(
    cache: Path,
    paths: Sequence[Source],
    on_progress: Tell = lambda line: None,
    *,
    end: str | None = None,
    delisting_returns: Source | None = None,
) -> Manifest:
    """Add the days after a cache's last one that files hold, by the recipe and settings it was built with.

    Args:
        cache: a folder made by `build`, which is replaced.
        paths: files, folders of them, or frames, with the new days, or with days of the past too, which must be as
            they were.
        on_progress: receives lines to show.
        end: last date that is taken; None: all. It replaces the `end` of the build.
        delisting_returns: file of returns that were not known before (recipe ohlcv).

    Gives the new manifest. Raises InputError for a cache that keeps no source, is damaged or is being appended to, for
    files without a new day, for a past that differs, and for what the recipe refuses; the cache stays as it is then.
    """
    with _alone_with(cache) as is_there:
        manifest = read_manifest(cache)
        built, name = _built_from(cache, manifest), manifest.recipe["name"]
        recipe = RECIPES.get(name)
        if recipe is None or recipe.extend is None:
            raise InputError(str(cache), f"recipe {name} cannot append days", "Build it again from all files")
        verify(cache)
        options = replace(_options_of(cache, recipe, built), end=None)
        options = replace(options, end=options.iso("--end", end))
        before = kept_source(cache, built)

        sources = options.open(paths, on_progress)
        read = open_table(sources, built.columns, options.first_read, options.end, on_progress)
        found = survey(read, options.min_codes, on_progress)
        layout = grown_layout(before.layout, built.left_out, found)
        if options.end is None and manifest.recipe.get("end") is not None:
            options = replace(options, end=str(layout.calendar[-1]))
        days, codes = len(layout.calendar) - len(before.layout.calendar), len(layout.codes) - len(before.layout.codes)
        on_progress(f"new: {days:,} days, to {layout.calendar[-1]}, and {codes:,} codes")

        with atomic_folder(cache, is_alone=True) as folder:
            now = new_source(folder, built.columns, layout)
            _copy_runs([(before.values, now.values), (before.present, now.present)], before.layout, layout)
            targets = sum(name in manifest.targets for name in built.columns)
            completed = put_files(now, before, found.table, targets)

            kept_before = keep_from(before.layout, before.present, options.start, str(cache))
            kept = keep_from(layout, now.present, options.start, str(cache))
            columns = create_columns(folder, kept.days, len(manifest.features), len(manifest.horizons), manifest.dtype)
            on_progress(f"copying {kept_before.rows:,} rows")
            old = as_columns(open_columns(cache, manifest).batches, manifest.batches)
            parts = ("features", "targets", "presence")
            _copy_runs([(getattr(old, part), getattr(columns, part)) for part in parts], kept_before, kept)
            on_progress(f"new rows: {kept.rows - kept_before.rows:,}")
            left_out = built.left_out | found.left_out
            growth = Growth(manifest, built, before, now, kept_before, kept, columns, read, completed, folder, left_out)
            new = recipe.extend(growth, options, delisting_returns)
            write_manifest(folder, new)
            if not is_there():
                what = "another cache took its place meanwhile"
                raise InputError(str(cache), what, "Run the command again, if that one lacks the days")
    return new


def _built_from(cache: Path, manifest: Manifest) -> BuiltFrom:
    """What the cache keeps of its source. Raises InputError where it keeps none."""
    if manifest.built_from is not None:
        return manifest.built_from
    if manifest.simulation is not None:
        raise InputError(str(cache), "is simulated, there are no files to append to it", "Simulate more days")
    why = (
        "format 3 kept no source"
        if manifest.format_version == 3
        else "it was built as a shard or with --no-keep-source"
    )
    raise InputError(str(cache), f"days cannot be appended: {why}", "Build it again from all files")


def _options_of(cache: Path, recipe: Recipe, built: BuiltFrom) -> Any:
    """The options that a cache was built with. Raises InputError for a setting that is none, or of another type."""
    kinds = get_type_hints(recipe.options)
    for name, value in built.settings.items():
        try:
            TypeAdapter(kinds[name], config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
        except (KeyError, ValidationError) as error:
            what = f"the manifest was altered: {name!a} of the settings that built it is no setting of the recipe"
            raise InputError(str(cache / MANIFEST), what, "Build it again from all files") from error
    return recipe.options(**built.settings)


@contextmanager
def _alone_with(cache: Path) -> Iterator[Callable[[], bool]]:
    """Keep other builds and appends from a cache; gives whether it still is the one under that name.

    Raises InputError where there is no cache, and where another process writes to it.
    """
    if len(shard_folders(cache)) > 1 or not (cache / MANIFEST).exists():
        read_manifests(cache)
        raise InputError(str(cache), "days cannot be appended to shards", "Build it again from all files")
    with alone_with(Path(os.path.realpath(cache))), _opened(cache / MANIFEST) as file:

        def is_there() -> bool:
            try:
                return os.path.samestat(os.stat(cache / MANIFEST), os.fstat(file.fileno()))
            except FileNotFoundError:
                return False

        yield is_there


def _opened(path: Path) -> BinaryIO:
    try:
        return open_plain(path)
    except OSError as error:
        raise refusal(path, error, CURE) from error


def _copy_runs(pairs: list[tuple[Any, Any]], old: Layout, new: Layout) -> None:
    """Copy each code's rows of arrays by row of `old` to the beginning of its run in arrays by row of `new`."""
    start, days = new.offset[new.places(old.codes)], old.days

    def copy(s: int) -> None:
        for source, target in pairs:
            target[int(start[s]) : int(start[s] + days[s])] = source[int(old.offset[s]) : int(old.offset[s] + days[s])]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(copy, range(len(old.codes)), chunksize=16))
