"""Compiled loops run wherever the engine is installed, and their code is kept where only this user can put it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kernels.jit.compile as compiling
from kernels.jit.compile import code_folder

ROOT = Path(compiling.__file__).parents[2]
PROGRAM = """
import numpy as np
from loaders.cache import rows
bits = rows.row_bits(np.arange(100) % 2 == 0)
print(rows.row_set(bits).between(np.array([0]), np.array([100])))
print({name for name in dir(rows) if hasattr(getattr(rows, name), 'stats') and getattr(rows, name).stats.cache_hits})
"""


@pytest.fixture
def installation(tmp_path):
    """A copy of the packages whose __pycache__ folders cannot be made, for root neither."""
    site = tmp_path / "site"
    for package in ("kernels", "loaders"):
        shutil.copytree(ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [path.parent for path in site.rglob("__init__.py")]:
        (folder / "__pycache__").write_text("")

    def run(**environment):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", **environment}, cwd=tmp_path,
        )  # fmt: skip
        return *done.stdout.splitlines(), done.stderr

    return run


def test_a_read_only_installation_without_a_home(installation, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "tmp").mkdir()
    nowhere = {"HOME": str(tmp_path / "file" / "home")}
    temporary = nowhere | {"TMPDIR": str(tmp_path / "tmp")}
    assert installation(**temporary) == ("[50]", "set()", "")
    (folder,) = (tmp_path / "tmp").iterdir()
    assert folder.name == f"atft-engine-{os.geteuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert installation(**temporary)[1] != "set()"  # the second time it is loaded

    folder.chmod(0o777)  # somebody else may put code there
    result, loaded, error = installation(**temporary)
    assert (result, loaded) == ("[50]", "set()")
    assert len(error.splitlines()) == 1
    assert "compiles them anew" in error


def test_code_beside_the_sources_is_preferred(tmp_path):
    assert code_folder(tmp_path) == tmp_path / "__pycache__"


def test_a_folder_of_another_user_or_a_link_is_refused(tmp_path, monkeypatch):
    assert compiling._private(tmp_path / "mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "file").touch()
    assert not compiling._private(tmp_path / "link")
    assert not compiling._private(tmp_path / "file")
    assert not compiling._private(tmp_path / "file" / "below")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert not compiling._private(tmp_path / "mine")


def test_a_changed_source_has_another_folder(tmp_path):
    (tmp_path / "inner.py").write_text("a = 1")
    before = compiling._hash((tmp_path,))
    (tmp_path / "inner.py").write_text("a = 2")
    assert compiling._hash((tmp_path,)) != before


def test_a_full_disk_costs_the_kept_code_alone(tmp_path, monkeypatch, capsys):
    import numba.core.caching

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(numba.core.caching.Cache, "_save_overload", full)
    source = tmp_path / "one.py"
    source.write_text("def one(x):\n    return x + 1\n")
    space: dict = {}
    exec(compile(source.read_text(), str(source), "exec"), space)
    loop = compiling.jit(nogil=True)(space["one"])
    assert (loop(1), loop(1.0)) == (2, 2.0)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "No space left" in error
