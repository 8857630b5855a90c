"""Build a cache from files by a recipe. A new recipe is a file in recipes/ and an entry of RECIPES."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from loaders.cache.format import Manifest
from loaders.cache.recipes.columns import ColumnsOptions, build_columns, extend_columns
from loaders.cache.recipes.common import Options, Tell
from loaders.cache.recipes.growth import Growth
from loaders.cache.recipes.ohlcv import OhlcvOptions, build_ohlcv
from loaders.cache.recipes.tail import extend_ohlcv
from loaders.cache.shards import read_manifests
from loaders.cache.sources.frames import Source
from loaders.errors import InputError
from loaders.progress import Progress, quiet


class Recipe(NamedTuple):
    """What a recipe takes and does.

    `build` takes files, folders or frames, the cache's folder, the settings, what takes lines to show, and the
    progress. `extend` fills in and describes a
    cache to which days are appended (see `append`); it takes its settings and a file of new delisting returns.
    """

    options: type[Options]
    build: Callable[[Sequence[Source], Path, Any, Tell, Progress], None]
    extend: Callable[[Growth, Any, Source | None], Manifest] | None = None  # None: days cannot be appended


RECIPES = {
    "columns": Recipe(ColumnsOptions, build_columns, extend_columns),
    "ohlcv": Recipe(OhlcvOptions, build_ohlcv, extend_ohlcv),
}


def build(
    recipe: str,
    paths: Sequence[Source],
    out: Path,
    settings: dict[str, Any],
    on_progress: Tell = lambda line: None,
    progress: Progress = quiet,
) -> Manifest:
    """Build a cache in `out` of files, folders of them, or frames, in any row order; gives its manifest.

    Args:
        recipe: a key of RECIPES.
        settings: fields of its options; those that are None, or empty lists, count as not given.
        on_progress: receives lines to show.
        progress: of the whole build.

    Raises InputError for an unknown recipe, a setting that it does not have, and what the recipe refuses; nothing is
    written then.
    """
    if recipe not in RECIPES:
        raise InputError("--recipe", f"no recipe {recipe!r}", f"Use {', '.join(RECIPES)}")
    kind, run, _ = RECIPES[recipe]
    given = {name: value for name, value in settings.items() if value is not None and value != []}
    known = {field.name for field in fields(kind)}
    for name in given:
        if name not in known:
            option = "--" + name.replace("_", "-")
            raise InputError(option, f"recipe {recipe} does not take it", "Leave it out, or use another --recipe")
    run(paths, out, kind(**given), on_progress, progress)
    return read_manifests(out)[-1]
