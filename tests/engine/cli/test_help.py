"""Help: quick to load, complete with examples that parse, and shown as it is written."""

import json
import shlex
import subprocess
import sys

import pytest
import typer.main

from engine.cli.app import EXAMPLES
from hpo.cli import app

HEAVY = ("torch", "numba", "polars", "optuna", "numpy", "pyarrow", "tensorboard")


def commands(group=None, before=""):
    """Every command, by its name."""
    found = {}
    for name, command in (group or typer.main.get_command(app)).commands.items():
        if hasattr(command, "commands"):
            found |= commands(command, f"{name} ")
        else:
            found[before + name] = command
    return found


@pytest.fixture(scope="module")
def helps():
    """The help of every command and of the whole, from one process, and what that has imported."""
    program = f"""
import io, json, sys
from contextlib import redirect_stdout
import hpo.cli
found = {{}}
for name in {["", *commands()]!r}:
    sys.argv = ["atft-engine", *name.split(), "--help"]
    with redirect_stdout(io.StringIO()) as text:
        try:
            hpo.cli.main()
        except SystemExit as stop:
            assert not stop.code
    found[name] = text.getvalue()
print(json.dumps([found, sorted(sys.modules)]))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_help_imports_nothing_heavy(helps):
    assert not set(HEAVY) & set(helps[1])


def test_help_fits_a_terminal_and_shows_sections_in_brackets(helps):
    for name, text in helps[0].items():
        lines = [line for line in text.splitlines() if "atft-engine" not in line]
        assert max(map(len, lines)) <= 80, name
        assert text.isprintable() or not any(ord(sign) < 32 for sign in text.replace("\n", "")), name
    assert "[hpo]" in helps[0]["hpo"]


def test_every_command_has_examples_and_its_help_shows_them(helps):
    assert sorted(EXAMPLES) == sorted(commands())
    for name, lines in EXAMPLES.items():
        for line in lines:
            assert f"  atft-engine {line}\n" in helps[0][name] + "\n"


def test_examples_parse():
    known = commands()
    for lines in EXAMPLES.values():
        for line in lines:
            words = shlex.split(line.partition(" >")[0])
            size = 2 if " ".join(words[:2]) in known else 1
            name = " ".join(words[:size])
            known[name].make_context(name, words[size:])  # raises for a usage error


def test_version(run_command):
    from importlib.metadata import version

    assert run_command("--version") == (0, f"atft-engine {version('atft-engine')}\n", "")


def test_completion():
    environment = {"_ATFT_ENGINE_COMPLETE": "complete_bash", "COMP_WORDS": "atft-engine ca", "COMP_CWORD": "1"}
    program = [sys.executable, "-c", "from hpo.cli import main; main()"]
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["cache"], done.stderr
