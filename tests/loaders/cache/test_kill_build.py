"""SIGKILL at any moment of `cache build` leaves, under the final name, nothing, the old cache or a whole new one.

Moments are spread over the whole run and, again, over the short time in which files are written; others are those at
which a file appears. Most runs are forks of a process that has imported the command line, since importing takes
longer than a small build; two are `python -m engine` itself.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import numpy as np
import polars as pl
import pytest

from loaders.cache.format import MANIFEST, PANEL, ROWS, verify
from loaders.panel import open_panel

FINAL = "final name"
AT_ONCE = 2

# Reads two lines a build: its arguments, then `kill` or `wait`. Only this process waits for the fork, so that its
# number cannot have passed to another process when it is killed.
SERVER = """
import json, os, signal, sys
import polars, engine.train.loop, loaders.cache.build
from engine.cli import main
for line in sys.stdin:
    fork = os.fork()
    if fork == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = ["atft-engine", *json.loads(line)]
        main()
        sys.exit()
    print(fork, flush=True)
    if sys.stdin.readline() == "kill\\n":
        os.kill(fork, signal.SIGKILL)
    print(os.waitpid(fork, 0)[1], flush=True)
"""


def write_bars(path, seed):
    rng = np.random.default_rng(seed)
    codes, days = 40, 300
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


def partial_of(out, pid):
    return out.parent / f".{out.name}.partial-{pid}"


def wait_for(name, out, pid):
    """Until a file of that name appears in the build's partial folder, or the build's work under its final name."""
    path = partial_of(out, pid) / name
    before, deadline = inode(out), time.monotonic() + 60
    while not (name != FINAL and path.exists()) and inode(out) == before:
        assert time.monotonic() < deadline, f"{name} never appeared"
        time.sleep(0.0002)


def inode(folder):
    try:
        return folder.stat().st_ino
    except FileNotFoundError:
        return None


class Forks:
    """Builds in forks of processes that have imported the command line; as many at once as there are processes."""

    def __init__(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.servers = [subprocess.Popen([sys.executable, "-c", SERVER], **pipes) for _ in range(AT_ONCE)]
        self.idle = Queue()
        for server in self.servers:
            self.idle.put(server)

    def killed(self, bars, out, moment):
        """A build, killed when moment(out, pid) returns; gives its process number."""
        pid, _ = self._run(bars, out, moment, "kill")
        return pid

    def timed(self, bars, out):
        """A whole build: seconds until its partial folder and until its final name."""
        seconds = []

        def watch(out, pid):
            begun = time.perf_counter()
            for name in (".", FINAL):
                wait_for(name, out, pid)
                seconds.append(time.perf_counter() - begun)

        pid, status = self._run(bars, out, watch, "wait")
        assert status == 0
        assert not partial_of(out, pid).exists()
        return seconds

    def _run(self, bars, out, moment, end):
        server = self.idle.get()
        print(json.dumps(arguments(bars, out)), file=server.stdin, flush=True)
        pid = int(server.stdout.readline())
        try:
            moment(out, pid)
        except AssertionError:
            end = "kill"
            raise
        finally:
            print(end, file=server.stdin, flush=True)
            status = int(server.stdout.readline())
            self.idle.put(server)
        return pid, status

    def close(self):
        for server in self.servers:
            server.stdin.close()
            server.wait()
            server.stdout.close()


@dataclass
class Built:
    """What the tests begin from: bars and caches built from them, old and new, and how long a build takes."""

    forks: Forks
    old: Path
    bars: Path
    old_id: str
    new_id: str
    starts: float  # seconds to the partial folder
    ends: float  # seconds to the final name


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kill_build")
    old_bars, bars = write_bars(folder / "old.parquet", 1), write_bars(folder / "new.parquet", 2)
    forks = Forks()
    try:
        forks.timed(old_bars, folder / "old")  # on a fresh clone this one compiles
        starts, ends = forks.timed(bars, folder / "new")
        ids = [verify(folder / name).cache_id for name in ("old", "new")]
        yield Built(forks, folder / "old", bars, *ids, starts, ends)
    finally:
        forks.close()


def moments(built):
    """{name: moment}: spread over the whole run, over the writing, and at each file's appearance."""

    def after(seconds):
        return lambda out, pid: time.sleep(seconds)

    def writing(seconds):
        def moment(out, pid):
            wait_for(".", out, pid)
            time.sleep(seconds)

        return moment

    whole = {f"{share:.0%} of the run": after(share * built.ends) for share in (0.3, 0.8, 1)}
    wrote = built.ends - built.starts  # alone: two at once take longer
    written = {f"{share:.0%} of the writing": writing(share * wrote) for share in (0.4, 0.7, 0.9, 1.1, 1.3)}
    names = {"the partial folder": ".", PANEL: PANEL, ROWS: ROWS, MANIFEST: MANIFEST, FINAL: FINAL}
    files = {label: lambda out, pid, name=name: wait_for(name, out, pid) for label, name in names.items()}
    return whole | written | files


@pytest.mark.parametrize("before", ["nothing", "an old cache"])
def test_a_build_killed_at_any_moment(built, tmp_path, before):
    allowed = {built.new_id, built.old_id} if before == "an old cache" else {built.new_id, None}

    def kill(item):
        name, moment = item
        out = tmp_path / name / "cache"
        out.parent.mkdir()
        if before == "an old cache":
            shutil.copytree(built.old, out)
        pid = built.forks.killed(built.bars, out, moment)
        found = verify(out).cache_id if out.exists() else None
        assert found in allowed, name
        if found is not None:
            assert open_panel(out).manifest.cache_id == found
        return partial_of(out, pid)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        partials = list(pool.map(kill, moments(built).items()))
    left = [partial for partial in partials if partial.exists()]
    assert len(left) >= 3, "too few kills fell into the writing to prove anything"

    # A build goes through beside what a killed one left, and does not take it for its own.
    out = left[0].parent / "cache"
    built.forks.timed(built.bars, out)
    assert verify(out).cache_id == built.new_id


def test_the_command_itself_killed_as_it_begins_and_ends_to_write(built, tmp_path):
    def kill(name):
        out = tmp_path / name / "cache"
        command = [sys.executable, "-m", "engine", *arguments(built.bars, out)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
            wait_for(name, out, child.pid)
            child.kill()
        assert child.returncode == -signal.SIGKILL
        assert not out.exists() or verify(out).cache_id == built.new_id
        return partial_of(out, child.pid).exists() or out.exists()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert all(pool.map(kill, [PANEL, MANIFEST]))
