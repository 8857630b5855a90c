"""How a command ends: one line whatever happens, the right exit code, and a screen that cannot end the work."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine.cli import app as application
from engine.cli import config as of_config
from engine.screen import ending
from loaders.errors import InputError, out_of_memory
from tests.panels import rewritten, write_panel

PROGRAM = "import sys; sys.argv[0] = 'atft-engine'; from atft_engine import main; main()"


def shell(command, tmp_path, **environment):
    """A shell command in which `atft-engine` is $A, in an empty folder."""
    root = str(Path(application.__file__).parents[2])
    known = {"A": f'{sys.executable} -c "{PROGRAM}"', "PYTHONPATH": root}
    done = subprocess.run(
        ["bash", "-c", command.replace("$A", known["A"])], cwd=tmp_path, env=os.environ | known | environment,
        capture_output=True,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr.decode()


def raising(error):
    def schema(*_):
        raise error

    return schema


@pytest.fixture
def fails(monkeypatch, run_command):
    """fails(error): what `config schema` ends with where it raises that."""

    def call(error):
        monkeypatch.setattr(of_config, "settings_class", raising(error))
        return run_command("config", "schema")

    return call


def test_the_unforeseen_is_one_line_and_its_traceback_in_a_file(fails, tmp_path, monkeypatch):
    monkeypatch.setattr(ending.tempfile, "tempdir", str(tmp_path))
    code, out, err = fails(KeyError("odd\nname"))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "KeyError" in err
    (log,) = tmp_path.iterdir()
    assert err.rstrip().endswith(str(log))
    text = log.read_text()
    assert "Traceback" in text
    assert "in schema" in text
    assert re.search(r"^version +\S", text, re.M)
    assert re.search(r"^command +atft-engine config schema$", text, re.M)


def test_without_a_place_for_a_log_the_traceback_follows_the_line(fails, tmp_path, monkeypatch):
    monkeypatch.setattr(ending.tempfile, "tempdir", str(tmp_path / "missing"))
    code, _, err = fails(ZeroDivisionError("x"))
    first, *rest = err.splitlines()
    assert code == 1
    assert first.startswith("failed: ")
    assert rest[0].startswith("Traceback")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7 TiB"),
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_memory_that_runs_out_is_called_so(fails, error):
    code, _, err = fails(error)
    assert (code, err.count("\n")) == (1, 1)
    assert "out of memory" in err
    assert out_of_memory(ValueError("out of memory")) is None


def test_a_line_is_one_line_whatever_a_path_holds(fails):
    code, _, err = fails(InputError("a\nb\x1b[31m\udcff", "is bad", "Mend it"))
    assert (code, err) == (2, "error: a\\nb\\x1b[31m\\udcff: is bad. Mend it\n")


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), EOFError("end")])
def test_what_typer_would_end_without_a_word_is_told(fails, error, tmp_path, monkeypatch):
    monkeypatch.setattr(ending.tempfile, "tempdir", str(tmp_path))
    code, _, err = fails(error)
    assert code == 1
    assert type(error).__name__ in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--sett", "x"], ["no such option: --sett", "--set"]),
        (["trian"], ["'trian'", "did you mean 'train'?"]),
        (["cache", "biuld"], ["'biuld'", "did you mean 'build'?"]),
        (["cache", "build", "--shards", "x"], ["--shards", "integer"]),
        (["evaluate"], ["atft-engine evaluate", "missing argument"]),
        (["evaluate", "a", "--split", "b"], ["--split", "'train', 'valid', 'test'"]),
        (["evaluate", "a", "--cost-bps"], ["--cost-bps", "requires an argument"]),
        (["cache", "inspect", "a", "b"], ["unexpected", "b"]),
        (["config", "schema", "--nonsense"], ["--nonsense"]),
        (["hpo"], ["atft-engine hpo", "--trials"]),
        (["hpo", "--trials", "0"], ["--trials", "1"]),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_one_line(run_command, arguments, words):
    import hpo.cli  # noqa: F401, adds its command

    code, out, err = run_command(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("error: atft-engine")
    assert err.rstrip().endswith("--help`")
    for word in words:
        assert word.casefold() in err.casefold(), err


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["cache", "inspect", ""], "argument 3 is blank"),
        (["cache", "inspect", "--", " "], "argument 4 is blank"),
        (["report", "scores.parquet", "--out= "], "--out: the value is blank"),
        (["evaluate", "run", "--arrow", ""], "--arrow: the value is blank"),
        (["train", "--out", "\t"], "--out: the value is blank"),
        (["train", "--set", ""], "--set: the value is blank"),
    ],
)
def test_a_blank_value_is_refused(run_command, arguments, where):
    """It is what a variable of a script is that was never set, and as a path it would name the working folder."""
    code, out, err = run_command(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert where in err


def test_a_setting_that_names_a_blank_path_is_refused(run_command):
    code, out, err = run_command("train", "--set", "data.arrow= ")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "blank" in err


def test_without_a_command_the_help_is_shown(run_command):
    code, out, err = run_command("cache")
    assert (code, err) == (2, "")
    assert "Commands:" in out


def test_a_full_disk_or_a_closed_stdout_is_one_line(tmp_path):
    full = shell("$A config schema > /dev/full", tmp_path)
    closed = shell("$A config schema >&-", tmp_path)
    for code, _, err in (full, closed):
        assert (code, err.count("\n")) == (2, 1)
        assert err.startswith("error: stdout: could not be written")


def test_a_reader_that_ends_is_one_line(tmp_path):
    code, out, err = shell("set -o pipefail; $A config schema | true", tmp_path)  # which ends before Python has begun
    assert (code, out, err.count("\n")) == (1, b"", 1)
    assert err.startswith("failed: stdout")


def test_a_broken_stderr_changes_no_exit_code(tmp_path):
    assert shell("$A trian 2> /dev/full", tmp_path)[0] == 2
    assert shell("$A trian 2>&-", tmp_path)[0] == 2


def test_a_screen_that_fails_does_not_end_the_work(tmp_path):
    """Nor does a file take the number of a stream that is closed."""
    simulate = "cache simulate --codes 30 --days 80 --out"
    code, _, err = shell(f"$A {simulate} a > /dev/full", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert shell(f"$A {simulate} b >&- 2>&-", tmp_path)[0] == 2
    assert shell(f"$A {simulate} c", tmp_path)[0] == 0
    panels = {(tmp_path / name / "panel.arrow").read_bytes() for name in "abc"}
    assert len(panels) == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_any_encoding_prints_tables_and_paths(run_command, small_cache, tmp_path, monkeypatch, encoding):
    named = tmp_path / "数ä[x].parquet"
    assert run_command("baseline", "--arrow", small_cache, "--kind", "reversal", "--out", named)[0] == 0
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen, encoding=encoding))
    code, _, err = run_command("evaluate", named, "--arrow", small_cache)
    assert (code, err) == (0, "")
    text = screen.getvalue().decode(encoding)
    assert "-+---" in text
    assert ("\\u6570\\u00e4[x]" if encoding == "ascii" else "\\u6570ä[x]") in text


def test_json_is_ascii(run_command, tmp_path):
    made = write_panel(tmp_path / "made", n_codes=20, n_days=60)
    codes = [f"数{code}" for code in made.manifest.codes]
    rewritten(made, tmp_path / "c", {"codes": codes})
    out = run_command("cache", "inspect", tmp_path / "c", "--json")[1]
    assert out.isascii()
    assert json.loads(out)["codes"] == codes
