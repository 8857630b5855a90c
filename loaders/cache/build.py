"""Build a cache from files by a recipe. A new recipe is a file in recipes/ and an entry of RECIPES."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from loaders.cache.format import Manifest
from loaders.cache.recipes.columns import ColumnsOptions, build_columns
from loaders.cache.recipes.common import Options, Progress
from loaders.cache.recipes.ohlcv import OhlcvOptions, build_ohlcv
from loaders.cache.shards import read_manifests
from loaders.errors import InputError


class Recipe(NamedTuple):
    """Its settings, and the function that builds a cache: of files or folders, the cache's folder and the settings."""

    options: type[Options]
    build: Callable[[list[Path], Path, Any, Progress], None]


RECIPES = {"columns": Recipe(ColumnsOptions, build_columns), "ohlcv": Recipe(OhlcvOptions, build_ohlcv)}


def build(
    recipe: str, paths: list[Path], out: Path, settings: dict[str, Any], on_progress: Progress = lambda line: None
) -> Manifest:
    """Build a cache in `out` of files, or folders of them, in any row order; gives its manifest.

    Args:
        recipe: a key of RECIPES.
        settings: fields of its options; those that are None, or empty lists, count as not given.
        on_progress: receives lines to show.

    Raises InputError for an unknown recipe, a setting that it does not have, and what the recipe refuses; nothing is
    written then.
    """
    if recipe not in RECIPES:
        raise InputError("--recipe", f"no recipe {recipe!r}", f"Use {', '.join(RECIPES)}")
    kind, run = RECIPES[recipe]
    given = {name: value for name, value in settings.items() if value is not None and value != []}
    known = {field.name for field in fields(kind)}
    for name in given:
        if name not in known:
            option = "--" + name.replace("_", "-")
            raise InputError(option, f"recipe {recipe} does not take it", "Leave it out, or use another --recipe")
    run(paths, out, kind(**given), on_progress)
    return read_manifests(out)[-1]
