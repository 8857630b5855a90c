"""SIGKILL at any write of `cache build` leaves, under the final name, what was there before, or the whole new cache.

A build is a fork of a process that has imported the command line, since importing takes longer than a small build.
Every function that writes is wrapped, and the fork kills itself as it enters or leaves the one whose turn it is. Two
more kills hit `python -m engine` itself.
"""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest

from loaders.cache.format import MANIFEST, PANEL, verify
from loaders.panel import open_panel

# Reads a line a command: its arguments and the number of the moment to be killed at. Prints the fork's process number,
# how it ended, and how many moments there were.
SERVER = """
import json, os, signal, sys
import numba, polars, engine.training.loop, loaders.cache.append, loaders.cache.build
from engine.cli.app import main
from loaders.cache import append, atomic, format
from loaders.cache.recipes import common, ohlcv, source_rows, tail

WRITES = [(common, "create_columns"), (ohlcv, "store"), (common, "write_manifest"), (format.np, "save"),
          (format, "chunk_checksums"), (format.json, "dump"), (format.os, "fsync"), (atomic, "_publish"),
          (source_rows, "create_columns"), (append, "_copy_runs"), (append, "put_files"), (append, "create_columns"),
          (tail, "store"), (append, "write_manifest")]
passed = 0
numba.njit(lambda: 0)()  # so that no fork has to prepare the compiler

def moment(kill_at):
    global passed
    if passed == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    passed += 1

def watched(function, kill_at):
    def call(*arguments, **more):
        moment(kill_at)
        result = function(*arguments, **more)
        moment(kill_at)
        return result
    return call

for line in sys.stdin:
    command, kill_at = json.loads(line)
    read, write = os.pipe()
    fork = os.fork()
    if fork == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        for module, name in WRITES:
            setattr(module, name, watched(getattr(module, name), kill_at))
        sys.argv = ["atft-engine", *command]
        try:
            main()
        finally:
            os.write(write, str(passed).encode())
    os.close(write)
    status = os.waitpid(fork, 0)[1]
    print(json.dumps([fork, status, int(os.read(read, 16) or -1)]), flush=True)
    os.close(read)
"""


def write_bars(path, seed):
    rng = np.random.default_rng(seed)
    codes, days = 25, 100
    close = 20 * np.exp(np.cumsum(0.02 * rng.standard_normal((codes, days)), 1)).reshape(-1)
    frame = {
        "date": np.tile(np.busday_offset("2010-01-01", np.arange(days), "forward"), codes),
        "ticker": np.repeat([f"s{i:02d}" for i in range(codes)], days),
        "open": close,
        "high": 1.01 * close,
        "low": 0.99 * close,
        "close": close,
        "volume": rng.integers(1_000, 1_000_000, codes * days),
    }
    pl.DataFrame(frame).write_parquet(path)
    return path


def arguments(bars, out):
    return ["cache", "build", str(bars), "--recipe", "ohlcv", "--out", str(out)]


def partial_of(out):
    return out.parent / f".{out.name}.partial"


@pytest.fixture(scope="module")
def server():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", SERVER], **pipes) as process:
        yield process
        process.stdin.close()


def run(server, command, kill_at=-1):
    """Process number and exit status of a command, and the moments it passed (-1 where it was killed)."""
    print(json.dumps([command, kill_at]), file=server.stdin, flush=True)
    return json.loads(server.stdout.readline())


def build(server, bars, out, kill_at=-1):
    """The same of a build."""
    return run(server, arguments(bars, out), kill_at)


@pytest.mark.parametrize("before", ["nothing", "an old cache"])
def test_a_build_killed_at_every_write(server, tmp_path, before):
    bars, old_bars = write_bars(tmp_path / "new.parquet", 2), write_bars(tmp_path / "old.parquet", 1)
    build(server, old_bars, tmp_path / "old")
    _, status, moments = build(server, bars, tmp_path / "new")
    assert status == 0
    assert moments == 32  # two of each of 16 calls
    old, new = (verify(tmp_path / name).cache_id for name in ("old", "new"))
    expected = old if before == "an old cache" else None
    # Without an old cache there is less to lose: the first write, one inside, and both sides of the rename.
    for moment in range(moments) if before == "an old cache" else (0, 9, moments - 4, moments - 3):
        out = tmp_path / str(moment) / "cache"
        out.parent.mkdir()
        if before == "an old cache":
            shutil.copytree(tmp_path / "old", out)
        _, status, _ = build(server, bars, out, kill_at=moment)
        assert status == signal.SIGKILL
        found = verify(out).cache_id if out.exists() else None
        published = moment >= moments - 3  # the cache has its final name before its folder is synced
        assert found == (new if published else expected), moment
        assert partial_of(out).exists() == (not published or before == "an old cache")
        if found is not None:
            assert open_panel(out).manifest.cache_id == found
        # The next build removes what the killed one left.
        if moment in (0, moments - 4):
            assert build(server, bars, out)[1] == 0
            assert verify(out).cache_id == new
            assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_the_command_itself_killed_as_it_begins_and_ends_to_write(tmp_path):
    bars = write_bars(tmp_path / "bars.parquet", 2)
    for name in (PANEL, MANIFEST):
        out = tmp_path / name / "cache"
        with subprocess.Popen(
            [sys.executable, "-m", "engine", *arguments(bars, out)], stdout=subprocess.DEVNULL
        ) as child:
            partial = partial_of(out)
            while not (partial / name).exists() and not out.exists():
                assert child.poll() is None
                time.sleep(0.0002)
            child.kill()
        assert child.returncode == -signal.SIGKILL
        assert partial.exists() or verify(out)
