"""Build a cache from files or frames, and append days to it."""

import datetime
from collections.abc import Callable, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from engine.api.frames import naming_arguments, polars
from engine.api.panels import Date, Panel, open_panel
from loaders.errors import InputError

if TYPE_CHECKING:
    from loaders.cache.sources.frames import Source

_NAMES = ("features", "targets", "categories", "exclude")  # settings that are names or patterns of columns


def build_cache(
    source: Any,
    out: str | Path,
    *,
    recipe: str = "columns",
    tell: Callable[[str], None] | None = print,
    **settings: Any,
) -> Panel:
    """Build a cache from files or frames, and open it. Rows may come in any order.

    A frame gives the cache that the same rows give as a Parquet file, with the same `cache_id`. It is not changed, and
    it is copied at most once: Polars and pyarrow are read where they are. An index of pandas becomes columns. Its named
    levels are columns of these names; of levels without a name, the one that holds dates is the date and the one that
    holds text is the code. A range index is none.

    Args:
        source: a file, a folder, or a frame; or a list of them. A frame is a Polars DataFrame or LazyFrame, or anything
            with the Arrow C stream: a pandas DataFrame, a pyarrow Table, a DuckDB relation.
        out: folder to write. It appears when the cache is complete.
        recipe: "columns" for ready features and targets, "ohlcv" for daily bars.
        tell: receives lines about what was read and left out. None: they are not shown.
        settings: options of `atft-engine cache build`, by their names: `features=["f_*"]`, `targets=["fwd_5"]`,
            `horizons=[1, 5]`, `min_price=3`, `start="2010-01-04"`. `date` and `code` name the columns of dates and
            codes. `rename` also takes {old: new}, `delisting_returns` also a frame, and `start` and `end` also dates.

    Raises InputError for what `atft-engine cache build` refuses, naming file or frame, column, code or date; nothing is
    written then.
    """
    polars("build_cache")
    from loaders.cache.build import RECIPES, build

    with naming_arguments():
        sources = _sources(source)
        options = get_type_hints(RECIPES[recipe].options) if recipe in RECIPES else {}
        given = {name: _checked(name, _plain(name, value), options.get(name)) for name, value in settings.items()}
        build(recipe, sources, Path(out), given, tell or (lambda line: None))
    return open_panel(out)


def append_cache(
    cache: str | Path | Panel,
    source: Any,
    *,
    end: Date | None = None,
    delisting_returns: Any = None,
    tell: Callable[[str], None] | None = print,
) -> Panel:
    """Add the days that files or frames hold after a cache's last one, and open the new cache.

    It is the cache that a rebuild from all files gives, bit for bit; panels that were opened before keep their rows.

    Args:
        cache: made by `build_cache` or `atft-engine cache build`; it is replaced.
        source: as of `build_cache`, with the columns the cache was built from. Days that the cache has must be as they
            were.
        end: last date that is taken; default: all.
        delisting_returns: a file or frame of returns that were not known before (recipe "ohlcv").
        tell: receives lines about what was added. None: they are not shown.

    Raises InputError for what `atft-engine cache append` refuses, such as a past that differs; the cache stays as it is
    then.
    """
    polars("append_cache")
    from loaders.cache.append import append

    folder = cache.folder if isinstance(cache, Panel) else Path(cache)
    with naming_arguments():
        returns = _plain("delisting_returns", delisting_returns)
        append(folder, _sources(source), tell or (lambda line: None), end=_plain("end", end), delisting_returns=returns)
    return open_panel(folder)


def _sources(source: Any) -> "list[Source]":
    from loaders.cache.sources.frames import as_frame, is_frame

    several = source if isinstance(source, list | tuple) else [source]
    if not several:
        raise InputError("source", "the list of sources is empty", "Give files or frames")
    found: list[Source] = []
    for number, each in enumerate(several, 1):
        if is_frame(each):
            found.append(as_frame(each, number if len(several) > 1 else None))
        elif isinstance(each, str | PathLike):
            found.append(Path(each))
        else:
            cure = "Give a path, or a frame of Polars, pandas 2.2, pyarrow or DuckDB"
            raise InputError("source", f"{type(each).__name__} is neither a path nor a frame", cure)
    return found


def _plain(name: str, value: Any) -> Any:
    """A setting as the command line would give it."""
    from loaders.cache.sources.frames import as_frame, is_frame

    if name in _NAMES:
        names = value.split(",") if isinstance(value, str) else value
        return None if names is None else [each.strip() if isinstance(each, str) else each for each in names]
    if name == "rename" and isinstance(value, Mapping):
        return [f"{old}={new}" for old, new in value.items()]
    if name == "rename" and isinstance(value, str):
        return [value]
    if name in ("start", "end") and isinstance(value, datetime.date):
        return value.strftime("%Y-%m-%d")
    if name == "horizons" and value is not None:
        return [value] if isinstance(value, int) else list(value)
    if name == "delisting_returns" and value is not None:
        return as_frame(value) if is_frame(value) else Path(fspath(value))
    return value


def _checked(name: str, value: Any, kind: Any) -> Any:
    """The setting as its type; None stands for the default. Raises InputError for a value of another type."""
    if value is None or kind is None:  # `build` refuses a setting that the recipe does not have
        return value
    try:
        value = TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{first['input']!r} is not accepted ({first['msg'].lower()})"
        raise InputError(f"--{name.replace('_', '-')}", what, "docs/cache.md has all settings") from error
    if name == "horizons" and (min(value, default=0) < 1 or len(set(value)) < len(value)):
        raise InputError("--horizons", f"{value} is not distinct and 1 or more", "Give for example [1, 5]")
    return value
