"""A folder appears complete or not at all, whatever happens while it is filled."""

import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from loaders.cache.atomic import atomic_folder, write_atomically
from loaders.cache.format import MANIFEST
from loaders.errors import InputError, WriteError
from tests.panels import write_panel


def test_it_appears_when_the_block_ends(tmp_path):
    out = tmp_path / "deep" / "cache"
    with atomic_folder(out) as folder:
        (folder / MANIFEST).write_text("{}")
        assert not out.exists()
    assert [p.name for p in out.iterdir()] == [MANIFEST]
    assert [p.name for p in out.parent.iterdir()] == ["cache"]


def test_an_exception_leaves_nothing(tmp_path):
    def interrupted():
        with atomic_folder(tmp_path / "cache") as folder:
            (folder / "half").write_text("x")
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_an_old_cache_is_replaced_and_its_readers_keep_their_rows(tmp_path):
    panel = write_panel(tmp_path / "cache", seed=1)
    before = panel.features.copy()
    with atomic_folder(tmp_path / "cache") as folder:
        other = write_panel(folder, n_codes=7, seed=2)
    np.testing.assert_array_equal(panel.features, before)
    assert len(list(tmp_path.iterdir())) == 1
    assert (tmp_path / "cache" / MANIFEST).stat().st_size > 0
    assert other.manifest.cache_id in (tmp_path / "cache" / MANIFEST).read_text()


def test_what_is_no_cache_is_never_replaced(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    for name, words in (("file", "is a file"), ("folder", "is no cache")):
        with pytest.raises(InputError, match=words), atomic_folder(tmp_path / name):
            pytest.fail("never entered")
    (tmp_path / "empty").mkdir()
    with atomic_folder(tmp_path / "empty") as folder:
        (folder / MANIFEST).write_text("{}")

    # Something may also appear while the folder is being filled.
    def overtaken():
        with atomic_folder(tmp_path / "late"):
            (tmp_path / "late").mkdir()
            (tmp_path / "late" / "thesis.tex").write_text("mine")

    with pytest.raises(InputError, match="is no cache"):
        overtaken()
    assert (tmp_path / "late" / "thesis.tex").read_text() == "mine"
    assert (tmp_path / "folder" / "thesis.tex").read_text() == (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="disk is full"), atomic_folder(tmp_path / "cache"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_out_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be made"), atomic_folder(tmp_path / "file" / "cache"):
        pytest.fail("never entered")


def test_sigkill_leaves_no_half_cache_under_the_final_name(tmp_path):
    program = """
import sys, time
from pathlib import Path
from loaders.cache.atomic import atomic_folder, write_atomically
with atomic_folder(Path(sys.argv[1])) as folder:
    (folder / "manifest.json").write_text("{}")
    print("half", flush=True)
    time.sleep(600)
"""
    old = write_panel(tmp_path / "old").manifest.cache_id
    for name in ("old", "new"):
        arguments = [sys.executable, "-c", program, str(tmp_path / name)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "half\n"
            os.kill(child.pid, signal.SIGKILL)
    assert not (tmp_path / "new").exists()
    assert old in (tmp_path / "old" / MANIFEST).read_text()
    with atomic_folder(tmp_path / "new") as folder:  # and the name is free
        (folder / MANIFEST).write_text("{}")
    assert (tmp_path / "new" / MANIFEST).exists()


def test_a_link_that_the_user_names_stays_and_its_place_is_replaced(tmp_path):
    write_panel(tmp_path / "disk" / "cache", seed=1)
    (tmp_path / "cache").symlink_to(tmp_path / "disk" / "cache")
    with atomic_folder(tmp_path / "cache") as folder:
        other = write_panel(folder, n_codes=7, seed=2).manifest.cache_id
    assert (tmp_path / "cache").is_symlink()
    assert other in (tmp_path / "disk" / "cache" / MANIFEST).read_text()
    (tmp_path / "new").symlink_to(tmp_path / "disk" / "file")
    write_atomically(tmp_path / "new", b"content")
    assert (tmp_path / "new").is_symlink()
    assert (tmp_path / "disk" / "file").read_bytes() == b"content"


def test_where_links_are_refused_they_are(tmp_path):
    write_panel(tmp_path / "other", seed=1)
    (tmp_path / "copy").symlink_to(tmp_path / "other")
    before = (tmp_path / "other" / MANIFEST).read_bytes()
    with pytest.raises(InputError, match="is a link to"), atomic_folder(tmp_path / "copy", follow=False):
        pytest.fail("never entered")
    assert (tmp_path / "other" / MANIFEST).read_bytes() == before


FAULTS = [errno.EMFILE, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES]


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("step", ["open", "ftruncate", "write", "fsync", "replace"])
def test_a_file_whose_write_fails_at_any_step_is_as_it_was(tmp_path, monkeypatch, step, number):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, step, fail)
        with pytest.raises(WriteError, match=os.strerror(number)):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("step", ["open", "mkdir", "fsync", "replace"])
def test_a_folder_whose_write_fails_at_any_step_is_one_line(tmp_path, monkeypatch, step, number):
    out = tmp_path / "cache"

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    def make():
        with atomic_folder(out) as folder:
            (folder / MANIFEST).write_text("{}")

    with monkeypatch.context() as patched:
        patched.setattr(os, step, fail)
        with pytest.raises(WriteError, match=f"{os.strerror(number)}|the disk is full"):
            make()
    assert not out.exists()
    make()
    assert [each.name for each in tmp_path.iterdir()] == ["cache"]


def test_a_folder_that_cannot_be_synced_is_as_safe_as_it_can_be(tmp_path, monkeypatch):
    real = os.fsync

    def sync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_name_that_is_too_long_or_no_plain_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name in ("x" * 300, "x" * 255, "fifo", "../" + tmp_path.name):
        with pytest.raises(WriteError, match="could not be written"):
            write_atomically(tmp_path / name, b"")
    for name in ("x" * 300, "x" * 250):
        with pytest.raises(InputError, match="cannot be written"), atomic_folder(tmp_path / name):
            pytest.fail("never entered")
    assert [each.name for each in tmp_path.iterdir()] == ["fifo"]
