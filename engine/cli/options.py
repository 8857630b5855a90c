"""Options that several commands share, and the console they print to."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from engine.screen.console import make_console

console = make_console()

Arrow = Annotated[str, typer.Option(help="Cache: a folder, a folder of shards, or a URL.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="A setting, section.key=value; may be repeated.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Settings as a TOML file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Cost = Annotated[
    float,
    typer.Option(
        min=0,
        help="For sharpe_net: cost in basis points of turnover, which is half of what is traded (a wholly new book: 2 "
        "of 4). So each unit traded costs half of it.",
    ),
]
Periods = Annotated[
    float | None, typer.Option(min=0.1, help="Dates in a year, for Sharpe ratios (default: the cache's own).")
]
SplitName = Literal["train", "valid", "test"]
Start = Annotated[str | None, typer.Option(help="First day to score, YYYY-MM-DD (default: the first of the test).")]
End = Annotated[str | None, typer.Option(help="Last day to score, YYYY-MM-DD (default: the last of the cache).")]
InSample = Annotated[bool, typer.Option("--in-sample", help="Also days at or before the last validation day.")]
