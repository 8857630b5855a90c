"""A folder appears complete or not at all, whatever happens while it is filled."""

import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from loaders.cache.atomic import atomic_folder
from loaders.cache.format import MANIFEST
from loaders.errors import InputError
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
from loaders.cache.atomic import atomic_folder
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
