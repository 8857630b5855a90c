"""The engine's commands in one application. A command reads its options, calls one function and prints the result.

Exit codes: 0 done, 1 failed, 2 bad input or configuration (one line on stderr: what, where, how to mend it).
"""

import sys

import typer

from engine.cli.baseline import baseline_command
from engine.cli.cache import cache_build, cache_inspect, cache_simulate, cache_verify
from engine.cli.evaluate import evaluate_command
from engine.cli.predict import predict_command
from engine.cli.train import train_command
from engine.errors import RunFailed, Stopped
from loaders.errors import InputError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
cache = typer.Typer(no_args_is_help=True, help="Build, inspect and verify caches.")
app.add_typer(cache, name="cache")
cache.command("build")(cache_build)
cache.command("simulate")(cache_simulate)
cache.command("inspect")(cache_inspect)
cache.command("verify")(cache_verify)
app.command("train")(train_command)
app.command("evaluate")(evaluate_command)
app.command("predict")(predict_command)
app.command("baseline")(baseline_command)


def main() -> None:
    """Entry point of the console script: turns the engine's exceptions into one line and an exit code."""
    try:
        app(prog_name="atft-engine")
    except InputError as error:
        _fail(f"error: {error}", 2)
    except (RunFailed, Stopped) as error:
        _fail(f"failed: {error}", 1)
    except KeyboardInterrupt:
        _fail("stopped", 1)


def _fail(line: str, code: int) -> None:
    print(line, file=sys.stderr)
    sys.exit(code)
