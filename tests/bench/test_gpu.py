"""The checks that need a GPU: their commands are understood here, and their figures are kept whatever happens."""

import json
import subprocess
import sys
import time
from collections import Counter
from contextlib import chdir
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer.main

from bench.gpu import __main__ as gpu
from bench.gpu import parts as plan
from bench.gpu import report, results
from bench.gpu.parts import HALVES, Part, command_of, parts_of
from bench.gpu.running import outcomes, run
from bench.measurement.busy import Work, busy_seconds, longest
from bench.measurement.here import record_of
from bench.measurement.record import add_to_record, read_history
from engine.config_file import load
from hpo.cli import app
from hpo.config import StudyConfig
from tests.conftest import SMALL

ROOT = Path(__file__).parents[2]
LIMIT, READY = 1e6, Path()  # of a part; its log
STEP = {"median_s": 0.02, "rounds": 15, "step_s": 0.001, "samples_per_s": 2e6, "busy_share": 0.9, "prepare_s": 2.0}


def every_part(half, tmp_path):
    """With a cache that is made, with one that is given, and with prices."""
    given = [{}, {"cache": tmp_path / "given"}, {"prices": tmp_path / "bars.parquet"}]
    return [part for options in given for part in parts_of(half, tmp_path, tmp_path, **options)]


def a_part(command, name="part", limit=60.0, read=lambda well, seconds: {}, cold=False):
    return Part(name, ("-c", command), limit, read, cold)


class Counted:
    """A plugin of pytest that counts what it collects."""

    def pytest_collection_finish(self, session):
        self.found = Counter(item.location[0] for item in session.items)


def collected(*arguments):
    """How many tests of each file pytest would run. In this process, which has imported what they import."""
    counted = Counted()
    with chdir(ROOT):
        options = ["-o", "addopts=", "-p", "no:cacheprovider", "--collect-only", "-qq"]
        assert pytest.main([*options, *arguments], plugins=[counted]) == 0
    return dict(counted.found)


def chosen_by(part):
    """The files and the expression of a part that runs pytest."""
    return part.command[part.command.index("-k") + 1], [word for word in part.command if word.endswith(".py")]


@pytest.mark.parametrize("half", HALVES)
def test_the_command_line_understands_every_command(half, tmp_path):
    """Options are parsed, settings are read; nothing is run."""
    root = typer.main.get_command(app)
    seen = set()
    for part in every_part(half, tmp_path):
        if part.command[1] not in ("engine", "hpo"):
            assert part.command[1] == "pytest"
            continue
        words, command = list(part.command[2:]), root
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        if "build" in part.name:
            (tmp_path / "bars.parquet").touch()
        context = command.make_context(part.name, words)
        load(StudyConfig, None, context.params.get("settings") or [], "cache")
        seen.add(part.name)
    assert seen >= ({*plan.TIERS, "seeds2", "dry-run"} if half == "first" else {"whole", "seeds5", "hpo", "build"})


def test_commands_run_here_too(tmp_path, small_cache, run_command):
    """With small blocks, and on the tier of a CPU; the dry run may find that a few blocks teach nothing."""
    commands = {part.name: part for half in HALVES for part in parts_of(half, tmp_path, tmp_path / "runs", small_cache)}
    small = [*SMALL, "train.epochs=1", "train.blocks=4", "data.tier=auto", "train.device=cpu", "train.compile=off"]
    settings = [word for setting in small for word in ("--set", setting)]
    for name in ("resident", "seeds2", "accumulate2", "whole"):
        code, _, err = run_command(*commands[name].command[2:], *settings)
        assert code == 0, err
        (found,) = commands[name].read(True, 1.0).values()
        assert found["samples_per_s"] > 0
    code, out, _ = run_command(*commands["dry-run"].command[2:], *settings)
    assert code in (0, 1)
    assert "data wait" in out
    (simulate,) = [part for part in parts_of("first", tmp_path, tmp_path) if part.name == "simulate"]
    assert run_command(*simulate.command[2:], "--codes", "30", "--days", "80", "--features", "4")[0] == 0
    assert (tmp_path / "cache" / "manifest.json").exists()


def test_the_tests_that_are_chosen_exist_and_are_the_ones_that_failed():
    (tests,) = [part for part in parts_of("first", Path(), Path()) if part.name == "tests"]
    chosen, files = chosen_by(tests)
    assert set(collected(*files, "-k", chosen)) == set(files)
    failed = (
        "nan_has_no_pairs or infinite_target_is_the_first or spoils_its_horizon or few_names_and_constant or left_out"
    )
    again = collected(*files, "-k", f"({chosen}) and ({failed})")
    assert again == {name: again[name] for name in plan.TESTS[:2]}
    assert min(again.values()) >= 1


def test_the_benchmarks_that_are_chosen_exist():
    parts = [part for half in HALVES for part in parts_of(half, Path(), Path()) if "--figures" in part.command]
    assert len(parts) == 4
    for part in parts:
        chosen, files = chosen_by(part)
        assert sum(collected(*files, "-k", chosen).values()) >= 1, part.name


@pytest.mark.parametrize("half", HALVES)
def test_a_part_says_where_it_reads(half, tmp_path):
    """Before anything has run there is nothing to read, but for the log, and that is no error."""
    (tmp_path / "tests.log").touch()
    for part in every_part(half, tmp_path):
        assert part.read(False, 1.0) == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it takes minutes")
def test_the_step_is_measured_here_too(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # pytest-benchmark measures nothing in a worker
    (part,) = [part for part in parts_of("first", tmp_path, tmp_path) if part.name == "steps"]
    log = tmp_path / "log"
    assert run(part, 600, log) == 0, log.read_text()
    (found,) = part.read(True, 1.0).values()
    assert {"step_s", "samples_per_s", "prepare_s", "share_of_limit"} <= set(found)


class Late(subprocess.Popen):
    """A process whose limit is over as soon as it has said that it is ready."""

    def wait(self, timeout=None):
        if timeout != LIMIT:
            return super().wait(timeout)
        while not READY.read_text():
            time.sleep(0.01)
        raise subprocess.TimeoutExpired(self.args, timeout)


@pytest.mark.parametrize("deaf", [False, True])
def test_a_part_that_takes_too_long_is_interrupted_and_then_killed(tmp_path, monkeypatch, deaf):
    log, module = tmp_path / "log", sys.modules[__name__]
    monkeypatch.setattr(module, "READY", log)
    monkeypatch.setattr("bench.gpu.running.subprocess.Popen", Late)
    if deaf:
        monkeypatch.setattr("bench.gpu.running.GRACE", 0.1)
    listens = (
        "import signal, time\nsignal.signal(signal.SIGINT, {})\nprint('ready', flush=True)\nwhile True: time.sleep(1)"
    )
    hears = "signal.SIG_IGN" if deaf else "lambda *_: exit('interrupted')"
    assert run(a_part(listens.format(hears)), LIMIT, log) is None
    assert log.read_text().split() == (["ready"] if deaf else ["ready", "interrupted"])


def test_a_cold_part_finds_nothing_that_was_compiled(tmp_path):
    asks = "import os; print(os.listdir(os.environ['TRITON_CACHE_DIR']), os.environ['TORCHINDUCTOR_CACHE_DIR'])"
    assert run(a_part(asks, cold=True), 60.0, tmp_path / "log") == 0
    assert (tmp_path / "log").read_text().startswith("[] /")
    assert command_of(a_part(asks))[0] == sys.executable


def test_a_part_that_fails_or_comes_too_late_does_not_stop_the_others(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("bench.gpu.running.time.monotonic", lambda: clock[0])
    limits = []

    def start(part, limit, log):
        limits.append(limit)
        clock[0] += limit if part.name == "slow" else 10.0
        return {"fails": 1, "slow": None}.get(part.name, 0)

    def read(well, seconds):
        return {"x": {"well": well, "median_s": seconds}}

    parts = [a_part("", name, 60.0, read) for name in ("fails", "slow", "good", "late")]
    ended = list(outcomes(parts, tmp_path, 90.0, start))
    assert [(outcome.name, outcome.code) for outcome in ended] == [
        ("fails", 1), ("slow", None), ("good", 0), ("late", None),
    ]  # fmt: skip
    assert limits == [60.0, 60.0, 12.0]  # of the 90 seconds 70 are gone, and 8 are left for an interruption
    assert [outcome.figures["x"]["well"] for outcome in ended[:3]] == [False, False, True]
    assert ended[3].figures == {}
    assert "no time was left" in str(ended[3])


def test_an_interruption_keeps_the_figures_and_ends_with_the_table(tmp_path, capsys):
    kept, history = tmp_path / "kept", tmp_path / "history"
    history.mkdir()

    def start(part, limit, log):
        log.touch()
        if part.name == "steps":
            line = json.dumps({"name": "test_captured[K1-D32-S64-eager]", "figures": STEP})
            (kept / "steps.jsonl").write_text(f'{line}\n{{"name": "torn')
            raise KeyboardInterrupt
        return 0

    assert gpu.measure("first", kept, None, None, history, start) == 1
    for folder in (kept, history):
        (found,) = read_history(folder)
        assert found.benchmarks == {"test_captured[K1-D32-S64-eager]": STEP}
    out = capsys.readouterr().out
    assert out.index("== steps: interrupted") < out.index("resident: not begun") < out.index("targets")
    assert "1.00" in out.partition("targets")[2]
    assert "MISSED" in out
    assert (kept / "first.txt").read_text().rstrip() in out


def test_both_halves_of_a_commit_are_one_run(tmp_path):
    for name in ("a", "b", "a"):
        add_to_record(tmp_path, record_of({name: {"median_s": 1.0, "rounds": 1}}))
    (found,) = read_history(tmp_path)
    assert list(found.benchmarks) == ["a", "b"]


def test_figures_of_tests_trainings_and_studies(tmp_path, small_run):
    log = tmp_path / "log"
    log.write_text("tests/a.py:3: error in 2 lines\n16 failed, 670 passed, 14 warnings in 129.31s (0:02:09)\n")
    counts = {"tests_passed": 670, "tests_failed": 16, "tests_error": 0, "tests_skipped": 0}
    assert results.of_tests(log, True, 130.0) == {"tests": {"median_s": 130.0, "rounds": 1, **counts}}
    found = results.of_training("train[a]", small_run, True, 9.0)["train[a]"]
    summary = json.loads((small_run / "summary.json").read_text())
    assert found["rank_ic_h1"] == summary["splits"]["test"]["1"]["rank_ic"]
    assert found["samples_per_s"] == summary["throughput"]["samples_per_s"]
    assert "device_utilization" not in found  # nothing where nothing was measured
    columns = {"number": [0, 1, 2], "state": ["COMPLETE", "FAIL", "COMPLETE"], "value": [0.1, None, 0.3]}
    pq.write_table(pa.table(columns), tmp_path / "trials.parquet")
    assert results.of_study(tmp_path, True, 7.0) == {"hpo": {"median_s": 7.0, "rounds": 1, "trials": 2, "best": 0.3}}
    assert results.of_command("x", False, 7.0) == {}


def test_targets_are_met_missed_or_not_measured():
    captured = "test_captured[K{}-D32-S64-{}]".format
    benchmarks = {
        captured(1, "eager"): STEP,
        captured(1, "compiled"): STEP | {"step_s": 0.0008, "busy_share": 0.5, "prepare_s": 20.0},
        captured(20, "eager"): STEP | {"samples_per_s": 9e6},
        "tests": {"tests_failed": 0, "tests_error": 1},
        "train[whole]": {"median_s": 20.0},
        "train[seeds5]": {"median_s": 30.0},
        "train[large-blocks]": {"samples_per_s": 9e6},
        "hpo": {"median_s": 60.0, "trials": 19},
        "test_soft_rank[plain-G64-N4000]": {"share_of_limit": 0.6},
    }
    rows = {row[0]: row[1:] for row in (target.row(benchmarks) for target in report.TARGETS)}
    assert rows == {
        "kernel and tier tests that fail": ["1", "at most 0", "MISSED"],
        "step of one model, 32 x 64, ms": ["0.80", "at most 0.90", "met"],
        "of that step the GPU is busy": ["50%", "at least 85%", "MISSED"],
        "20 models in a step, M samples/s in all": ["9.0", "at least 8.0", "met"],
        "GPU utilisation, tier resident": ["not measured", "at least 85%", ""],
        "soft ranks of 64 x 4,000, of the byte limit": ["60%", "at least 50%", "met"],
        "whole training, cold compiler, s": ["20.0", "at most 30.0", "met"],
        "GPU utilisation, whole training": ["not measured", "at least 85%", ""],
        "--seeds 5 over one model, times": ["1.50", "at most 1.60", "met"],
        "epoch of 9.0M samples at the rate of 64 x 512, s": ["1.00", "at most 2.00", "met"],
        "hpo of 20 trials, s": ["not measured", "at most 120", ""],
    }
    assert all(target.row({})[1] == "not measured" for target in report.TARGETS)


def test_compiling_pays_from_as_many_steps_as_its_gain_needs_for_its_cost():
    of = "test_captured[K1-D32-S64-{}]".format
    slow = STEP | {"step_s": 0.0015, "prepare_s": 20.0}
    (pays,) = report.compile_rules({of("eager"): STEP, of("compiled"): STEP | {"step_s": 0.0008, "prepare_s": 20.0}})
    assert "takes 18.0 s" in pays
    assert pays.endswith("gains 0.200 ms a step, so it pays from 90,000 steps on")
    (never,) = report.compile_rules({of("eager"): STEP, of("compiled"): slow})
    assert never.endswith("so never pays")


def test_a_gpu_is_busy_while_any_work_runs():
    done = [Work("b", 5.0, 7.0), Work("a", 0.0, 4.0), Work("a", 1.0, 2.0), Work("a", 3.0, 4.5)]
    assert busy_seconds(done) == pytest.approx(6.5e-6)  # 0 to 4.5, and 5 to 7
    assert busy_seconds([]) == 0
    assert longest(done, 2) == "3.2 us in 1.5: a; 1.0 us in 0.5: b"


@pytest.mark.skipif(torch.cuda.is_available(), reason="pretends that there is no device")
def test_without_a_device_it_says_so_in_one_line(capsys):
    assert gpu.main(["first"]) == 2
    assert capsys.readouterr().err.splitlines() == ["error: no CUDA device here. Run it on a machine with one"]
