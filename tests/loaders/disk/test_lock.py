"""One command at a time writes to a folder; the second says who does, and a process that is gone holds nothing."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from loaders.cache.atomic import atomic_folder, write_atomically
from loaders.cache.format import MANIFEST
from loaders.disk.beginning import beginning
from loaders.disk.lock import alone_in, alone_with, release, take
from loaders.errors import InputError, WriteError

HOLDS = """
import sys, time
from pathlib import Path
from loaders.disk.lock import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def refused(folder):
    with pytest.raises(InputError, match="is in use by ") as error, alone_in(folder):
        pytest.fail("never entered")
    return str(error.value)


def test_another_process_and_its_end(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "held\n"
        line = refused(tmp_path)
        assert line.startswith(f"{tmp_path}: is in use by process {child.pid} on {os.uname().nodename} since 2")
        assert line.endswith(" UTC. Wait until that has ended, or stop it")
        os.kill(child.pid, signal.SIGKILL)
    assert (tmp_path / ".lock").exists()
    with alone_in(tmp_path):
        assert f"process {os.getpid()} " in refused(tmp_path)
    assert not list(tmp_path.iterdir())


def test_many_threads_and_one_place(tmp_path):
    """Files of locks come and go meanwhile; never are two inside."""
    inside, most, entered = [], [], []

    def enter():
        for _ in range(50):
            lock = take(tmp_path / ".lock", wait=True)
            inside.append(1)
            most.append(len(inside))
            entered.append(1)
            inside.pop()
            release(tmp_path / ".lock", lock)

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (len(entered), max(most)) == (200, 1)


def test_what_is_in_a_lock_of_somebody_else(tmp_path):
    for content in (b"", b"\x1b[31mred\n" * 100):
        (tmp_path / ".lock").write_bytes(content)
        with (tmp_path / ".lock").open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            assert "in use by another process." in refused(tmp_path)


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with alone_in(tmp_path):
        assert (
            capsys.readouterr().err == f"{tmp_path}: its file system has no locks, so keep other commands out of it\n"
        )


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EMFILE, errno.EIO, errno.ENOSPC])
def test_a_lock_that_cannot_be_taken_is_one_line(tmp_path, monkeypatch, number):
    real = os.open

    def fail(path, *more, **named):
        if str(path).endswith(".lock"):
            raise OSError(number, os.strerror(number))
        return real(path, *more, **named)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(WriteError, match=os.strerror(number)), alone_in(tmp_path):
        pytest.fail("never entered")


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(WriteError, match="symbolic links"), alone_in(tmp_path):
        pytest.fail("never entered")
    assert (tmp_path / "mine").read_text() == "mine"


def test_two_builds_into_one_folder(tmp_path):
    out = tmp_path / "cache"
    with atomic_folder(out) as folder:
        (folder / MANIFEST).write_text("{}")
        with pytest.raises(InputError, match=f"in use by process {os.getpid()}"), atomic_folder(out):
            pytest.fail("never entered")
        with alone_with(tmp_path / "other"):  # is in nobody's way
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_writers_of_one_file_come_one_after_the_other(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([65 + i]) * 50_000 for i in range(4)]
    stop, seen = threading.Event(), set()

    def read():
        while not stop.is_set():
            if path.exists():
                seen.add(path.read_bytes())

    def write(content):
        for _ in range(10):
            write_atomically(path, content)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join(60)
    stop.set()
    reader.join(60)
    assert seen | {path.read_bytes()} <= set(contents)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


LEFT = ("inside", "inside/half", "event.*")


def begin(folder, last=True):
    with beginning(folder, "last", LEFT):
        assert {path.name for path in folder.iterdir()} == {".lock"}
        (folder / "inside").mkdir()
        (folder / "inside" / "half").write_text("half")
        if not last:
            raise KeyError
        (folder / "last").write_text("whole")


def test_a_beginning_that_was_cut_short_is_begun_anew(tmp_path):
    for number, left in enumerate(([], ["inside/"], ["inside/", "inside/half"], ["event.1", ".lock"])):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in left:
            (folder / name).mkdir() if name.endswith("/") else (folder / name).write_text("x")
        begin(folder)
        assert (folder / "last").read_text() == "whole"
    begin(tmp_path / "deep" / "new")
    with pytest.raises(InputError, match=r"not empty. Pass --resume"):
        begin(tmp_path / "0")


def test_an_error_in_a_beginning_leaves_nothing(tmp_path):
    with pytest.raises(KeyError):
        begin(tmp_path / "new", last=False)
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with pytest.raises(KeyError):
        begin(tmp_path / "old", last=False)
    assert not list((tmp_path / "old").iterdir())


def test_what_is_somebody_elses_is_not_touched(tmp_path):
    for name in ("thesis.tex", "inside/best"):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / "out" / "inside").mkdir(parents=True)
        (tmp_path / "out" / "inside" / "half").write_text("mine")
        (tmp_path / "out" / name).write_text("mine")
        with pytest.raises(InputError, match="not empty"):
            begin(tmp_path / "out")
        assert (tmp_path / "out" / "inside" / "half").read_text() == (tmp_path / "out" / name).read_text() == "mine"
