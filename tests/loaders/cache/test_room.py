"""Polars is imported where there is room for it; where there is not, one line says what is missing."""

import subprocess
import sys
import threading

import pytest

from loaders.cache.sources import room

# The limit is set once Python and the command line are there, as `ulimit` in a shell that is near its own.
COMMAND = """
import resource, sys
from engine.cli.app import main
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit({limit})
sys.argv = ["atft-engine", "cache", "build", "missing.parquet", "--out", "cache"]
main()
"""


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("resource.RLIMIT_AS, (size + (1 << 30),) * 2", "out of memory"),
        ("resource.RLIMIT_NOFILE, (10, 10)", "too many open files"),
    ],
)
def test_a_build_without_room_is_one_line(tmp_path, limit, words):
    command = [sys.executable, "-c", COMMAND.format(limit=limit)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert f"failed: {words}" in done.stderr


def test_threads_that_cannot_start_are_told_and_those_that_did_end(monkeypatch):
    before, real, started = threading.active_count(), threading.Thread.start, []

    def start(thread):
        started.append(thread)
        if len(started) == 5:
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        room.check_room()
    assert threading.active_count() == before
