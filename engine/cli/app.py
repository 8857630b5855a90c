"""The engine's commands in one application. A command reads its options, calls one function and prints the result."""

import sys
from typing import Annotated

import typer

from engine.cli.audit import audit_command
from engine.cli.baseline import baseline_command
from engine.cli.cache import cache_append, cache_build, cache_inspect, cache_simulate, cache_verify
from engine.cli.config import config_schema, config_show
from engine.cli.evaluate import evaluate_command
from engine.cli.export import export_command
from engine.cli.predict import predict_command
from engine.cli.report import report_command
from engine.cli.train import train_command
from engine.screen.ending import ended
from engine.screen.usage import run

# At the end of each --help, by the name of the command.
EXAMPLES = {
    "train": (
        "train --arrow cache/ --set train.epochs=4 --out runs/first",
        "train --out runs/first --resume",
        "train --arrow cache/ --dry-run",
        "train --config mine.toml --seeds 5",
        "train --arrow cache/ --folds 3",
    ),
    "evaluate": (
        "evaluate runs/first",
        "evaluate runs/first --against ridge.parquet",
        "evaluate runs/first runs/second --split valid --json",
    ),
    "predict": (
        "predict runs/first --out scores.parquet",
        "predict runs/first --arrow newer/ --start 2024-01-02 --out scores.parquet",
        "predict runs/first --arrow newer/ --date latest --top 20",
    ),
    "export": ("export runs/first --to onnx --out first.onnx --check",),
    "report": (
        "report runs/first",
        "report runs/first --against ridge.parquet --out first.html",
        "report hpo/first",
    ),
    "audit": (
        "audit cache/",
        "audit cache/ runs/first",
        "audit cache/ hpo/first --json",
        "audit cache/ --vintage older/",
    ),
    "baseline": (
        "baseline --arrow cache/ --kind ridge --out ridge.parquet",
        "baseline --arrow cache/ --kind reversal --feature ret_1",
    ),
    "cache build": (
        "cache build bars.parquet --recipe ohlcv --out cache/ --min-price 3",
        "cache build panel/ --features 'f_*' --targets fwd_1,fwd_5 --out cache/",
    ),
    "cache append": ("cache append cache/ today.parquet",),
    "cache simulate": ("cache simulate --codes 300 --days 800 --ic 0.1 --out cache/",),
    "cache inspect": ("cache inspect cache/", "cache inspect cache/ --json"),
    "cache verify": ("cache verify cache/",),
    "config show": (
        "config show runs/first",
        "config show --config mine.toml --set train.epochs=4",
    ),
    "config schema": ("config schema > settings.json", "config schema --section train"),
}


def examples(command: str) -> str:
    """What stands below a command's options."""
    return "\n".join(["\b", "Examples:", *(f"  atft-engine {line}" for line in EXAMPLES[command])])


# Plain help: it costs half the time of rich's, can be copied, and takes no [section] for a style.
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
cache = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Build, append to, inspect and verify caches.")
config = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show settings, and what settings there are.")
app.add_typer(cache, name="cache")
app.add_typer(config, name="config")
cache.command("build", epilog=examples("cache build"))(cache_build)
cache.command("append", epilog=examples("cache append"))(cache_append)
cache.command("simulate", epilog=examples("cache simulate"))(cache_simulate)
cache.command("inspect", epilog=examples("cache inspect"))(cache_inspect)
cache.command("verify", epilog=examples("cache verify"))(cache_verify)
config.command("show", epilog=examples("config show"))(config_show)
config.command("schema", epilog=examples("config schema"))(config_schema)
app.command("train", epilog=examples("train"))(train_command)
app.command("evaluate", epilog=examples("evaluate"))(evaluate_command)
app.command("predict", epilog=examples("predict"))(predict_command)
app.command("export", epilog=examples("export"))(export_command)
app.command("baseline", epilog=examples("baseline"))(baseline_command)
app.command("audit", epilog=examples("audit"))(audit_command)
app.command("report", epilog=examples("report"))(report_command)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"atft-engine {version('atft-engine')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train models that rank a cross-section of stocks, and score and evaluate them."""


def main() -> None:
    """Entry point of the console script; ends as engine/screen/ending.py says."""
    with ended():
        run(app)
    sys.exit(0)
