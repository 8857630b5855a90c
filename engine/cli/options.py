"""Options that several commands share, and the console they print to."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from engine.screen.console import make_console
from loaders.errors import InputError, check_path

console = make_console()


def usable(parameter: typer.CallbackParam, value: Any) -> Any:
    """The value of a path's option or argument. Raises InputError where it can name nothing."""
    for path in value if isinstance(value, list | tuple) else [value]:
        if path is not None:
            check_path(path, parameter.opts[0])
    return value


def new_file(parameter: typer.CallbackParam, value: Any) -> Any:
    """The value of the option of a file to write. Raises InputError where it can name none: now, not after the work."""
    if value is not None and usable(parameter, value).is_dir():
        raise InputError(parameter.opts[0], f"{str(value)!r} is a folder", "Name a file in it")
    return value


def finite(parameter: typer.CallbackParam, value: Any) -> Any:
    """The value of a number's option. Raises InputError for nan and infinity."""
    if value is not None and not math.isfinite(value):
        raise InputError(parameter.opts[0], f"{value} is no finite number", "Give one")
    return value


Arrow = Annotated[str, typer.Option(help="Cache: a folder, a folder of shards, or a URL.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="A setting, section.key=value; may be repeated.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", callback=usable, help="Settings as a TOML file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Cost = Annotated[
    float,
    typer.Option(
        min=0,
        max=10_000,
        callback=finite,
        help="For sharpe_net: cost in basis points of turnover, which is half of what is traded (a wholly new book: 2 "
        "of 4). So each unit traded costs half of it.",
    ),
]
Periods = Annotated[
    float | None,
    typer.Option(min=0.1, callback=finite, help="Dates in a year, for Sharpe ratios (default: the cache's own)."),
]
SplitName = Literal["train", "valid", "test"]
Start = Annotated[str | None, typer.Option(help="First day to score, YYYY-MM-DD (default: the first of the test).")]
End = Annotated[str | None, typer.Option(help="Last day to score, YYYY-MM-DD (default: the last of the cache).")]
InSample = Annotated[bool, typer.Option("--in-sample", help="Also days at or before the last validation day.")]
