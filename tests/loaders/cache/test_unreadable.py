"""Files and folders that may not be read are one line in every command that needs them."""

import errno
import io
import os

import pytest

from loaders.cache.format import MANIFEST, PANEL, ROWS


@pytest.fixture
def unreadable(monkeypatch):
    """Let a path be refused, to root too, who may read everything."""

    def refuse(path):
        def refused(real):
            def call(name, *more, **named):
                if str(name).startswith(str(path)):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(name))
                return real(name, *more, **named)

            return call

        monkeypatch.setattr(io, "open", refused(io.open))
        monkeypatch.setattr(os, "open", refused(os.open))
        if path.is_dir():
            monkeypatch.setattr(os, "stat", refused(os.stat))

    return refuse


@pytest.mark.parametrize("command", [["cache", "verify"], ["cache", "inspect"], ["train", "--arrow"]], ids=str)
@pytest.mark.parametrize("name", [ROWS, PANEL, MANIFEST, ""])
def test_a_cache(small_cache, unreadable, run_command, command, name):
    unreadable(small_cache / name)
    code, _, err = run_command(*command, small_cache)
    assert (code, err.count("\n")) == (2, 1), err
    assert str(small_cache / name) in err
    assert "Permission denied" in err


def test_a_run_folder(tmp_path, unreadable, run_command):
    run = tmp_path / "run"
    run.mkdir()
    unreadable(run)
    for command in (["train", "--resume", "--out", run], ["train", "--out", run]):
        code, _, err = run_command(*command, "--arrow", tmp_path / "cache")
        assert (code, err.count("\n")) == (2, 1), err
