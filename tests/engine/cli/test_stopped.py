"""Ctrl-C and SIGTERM, wherever they hit: one line, exit code 1, nothing half written, and no traceback."""

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

import atft_engine
import engine.evaluation.evaluate
import engine.live.scoring
import engine.rivals.baseline
import engine.training.loop
import hpo.study
import loaders.cache.atomic
import loaders.cache.format
from engine.checkpoint import LAST, load_checkpoint
from engine.config_file import load_config
from engine.training.loop import train
from engine.training.run import resumed_config
from tests.conftest import SMALL


@pytest.fixture
def stopped(monkeypatch, capsys):
    """Run a command that sends itself a signal as it calls a function; gives exit code and stderr."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(module, name, number, *arguments):
        real, calls = getattr(module, name), []

        def function(*given, **more):
            calls.append(name)
            if len(calls) == 1:
                os.kill(os.getpid(), number)
            return real(*given, **more)

        with monkeypatch.context() as patched:
            patched.setattr(module, name, function)
            patched.setattr(sys, "argv", ["atft-engine", *map(str, arguments)])
            with pytest.raises(SystemExit) as end:
                atft_engine.main()
        assert calls
        return end.value.code, capsys.readouterr().err

    yield call
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "module", "name", "command"),
    [
        (
            signal.SIGTERM,
            loaders.cache.atomic,
            "sync_tree",
            ["cache", "build", "BARS", "--recipe", "ohlcv", "--out", "OUT"],
        ),
        (signal.SIGINT, loaders.cache.format, "chunk_checksums", ["cache", "verify", "CACHE"]),
        (signal.SIGTERM, loaders.cache.atomic.os, "fsync", ["predict", "RUN", "--out", "OUT"]),
        (signal.SIGINT, engine.rivals.baseline, "fit_rival", ["baseline", "--arrow", "CACHE", "--out", "OUT"]),
        (signal.SIGTERM, engine.evaluation.evaluate, "open_sources", ["evaluate", "RUN"]),
        (signal.SIGINT, hpo.study, "open_inputs", ["hpo", "--trials", "2", "--arrow", "CACHE", "--out", "OUT"]),
    ],
    ids=["build", "verify", "predict", "baseline", "evaluate", "hpo"],
)
def test_a_command(stopped, small_cache, small_run, tmp_path, number, module, name, command):
    rng = np.random.default_rng(0)
    bars = {
        "date": np.tile(np.busday_offset("2010-01-01", np.arange(100), "forward"), 20),
        "ticker": np.repeat([f"s{i:02d}" for i in range(20)], 100),
        **dict.fromkeys(("open", "high", "low", "close", "volume"), 20 + rng.random(2000)),
    }
    pl.DataFrame(bars).write_parquet(tmp_path / "bars.parquet")
    places = {"BARS": tmp_path / "bars.parquet", "OUT": tmp_path / "out", "CACHE": small_cache, "RUN": small_run}
    code, error = stopped(module, name, number, *(places.get(each, each) for each in command))
    assert (code, error.splitlines()[-1]) == (1, f"stopped by {signal.Signals(number).name}")
    assert len(error.splitlines()) == 1
    left = {path.name for path in tmp_path.iterdir()} - {"bars.parquet"}
    assert left <= ({"out"} if "hpo" in command else set())  # a study resumes


def test_a_training_before_and_after_it_has_something_to_save(stopped, small_cache, small_run, tmp_path):
    run = tmp_path / "run"
    command = ["train", "--arrow", small_cache, "--out", run, *(part for each in SMALL for part in ("--set", each))]
    code, error = stopped(engine.training.run, "save_last", signal.SIGTERM, *command)
    assert (code, error) == (1, "stopped by SIGTERM\n")
    assert not list(tmp_path.iterdir())
    code, error = stopped(engine.training.loop, "score_part", signal.SIGINT, *command, "--set", "train.epochs=1")
    assert (code, error.splitlines()) == (1, [error.strip()])
    assert "stopped by SIGINT after the last epoch. Resume" in error  # it was in the only validation
    state, _ = load_checkpoint(run / "checkpoints" / LAST)
    train(resumed_config(run, [], None), run, True, Console(quiet=True))
    assert state.run_id in (run / "summary.json").read_text()


def test_during_imports():
    """The first callback of a weak reference stands for those of the locks of imports, where Python cannot raise."""
    program = """
import os, signal, sys, weakref
import atft_engine
class Finder:
    def find_spec(self, name, *_):
        if name == "loaders.panel":
            thing = Finder()
            keep.append(weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM)))
            del thing
keep = []
sys.meta_path.insert(0, Finder())
sys.argv = ["atft-engine", "evaluate", "nowhere"]
atft_engine.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(atft_engine.__file__).parent
    )
    assert (done.returncode, done.stderr) == (1, "stopped by SIGTERM\n")


def test_a_training_in_a_thread(small_cache, tmp_path):
    """Signals are the main thread's; a training beside it takes none and touches no handler."""
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    config, found = load_config(None, [*SMALL, "train.epochs=1"], str(small_cache)), []

    def run():
        found.append(train(config, tmp_path / "run", False, Console(quiet=True)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert (found[0] / "summary.json").exists()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_a_callback_that_swallows_it(capsys):
    """What Python would print and forget is sent again."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def swallow():
        with atft_engine.ends_in_one_line():
            thing = type("Thing", (), {})()
            keep = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
            del thing
            assert keep() is None
            for _ in range(10):
                time.sleep(0.5)  # it comes in a millisecond
            pytest.fail("went on")

    try:
        with pytest.raises(SystemExit):
            swallow()
        assert capsys.readouterr().err == "stopped by SIGINT\n"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
