"""What has a file's name and is no plain file is refused at once; what cannot be opened is one line that names it."""

import errno
import os
import shutil
import socket

import numpy as np
import pytest

from loaders.cache import columns
from loaders.cache.append import append
from loaders.cache.build import build
from loaders.cache.format import MANIFEST, chunk_checksums, open_source, read_manifest, verify
from loaders.disk import regular
from loaders.disk.regular import NotPlain, open_plain
from loaders.errors import InputError
from loaders.panel import open_panel
from tests.loaders.cache.conftest import write


def pipe(path):
    os.mkfifo(path)


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket is short
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


def device(path):
    path.symlink_to("/dev/zero")


def folder(path):
    path.mkdir()


KINDS = {"pipe": pipe, "socket": a_socket, "device": device, "folder": folder}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [MANIFEST, "panel.arrow", "rows.npy", "source.arrow"])
def test_a_cache_with_something_else_under_a_file_s_name(name, kind, built, tmp_path):
    cache = shutil.copytree(built, tmp_path / "cache")
    manifest = read_manifest(cache)
    (cache / name).unlink()
    KINDS[kind](cache / name)
    works = [lambda: verify(cache), lambda: append(cache, [built.parent / "next.parquet"])]
    works.append(
        (lambda: open_source(cache, manifest.built_from)) if name == "source.arrow" else lambda: open_panel(cache)
    )
    for work in works:
        with pytest.raises(InputError, match=rf"{name}: cannot be read \(it is a {kind}, not a plain file") as refused:
            work()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_a_source_or_score_file_that_is_none(kind, tmp_path, run_command, small_cache):
    path = tmp_path / "rows.parquet"
    KINDS[kind](path)
    with pytest.raises(InputError, match="not a plain file"):
        build("columns", [path], tmp_path / "cache", {"features": ["f*"], "targets": ["fwd_*"]})
    code, _, error = run_command("evaluate", path, "--arrow", small_cache)
    assert (code, error.count("\n")) == (2, 1)
    assert f"it is a {kind}, not a plain file" in error


def test_what_takes_its_place_after_a_look_is_refused_too(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "file")
    monkeypatch.setattr(regular, "check_plain", lambda path: None)
    with pytest.raises(NotPlain):
        open_plain(tmp_path / "file")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO, errno.ENOMEM])
@pytest.mark.parametrize("name", [MANIFEST, "panel.arrow", "rows.npy"])
def test_an_error_of_the_system_is_one_line_that_names_the_file(name, number, built, monkeypatch):
    real = os.open

    def fail(path, *arguments, **named):
        if os.path.basename(path) == name:
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(InputError, match=rf"{name}: cannot be read \({os.strerror(number)}\)[.] \w+") as refused:
        open_panel(built)
    assert "\n" not in str(refused.value)


def test_no_memory_to_map_is_one_line(built, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(columns.map_plain.__globals__["mmap"], "mmap", fail)
    with pytest.raises(
        InputError, match=r"(rows\.npy|panel\.arrow): cannot be read \(Cannot allocate memory\)[.] Free"
    ):
        open_panel(built)


REPLACED = {
    "a zip": lambda content: b"PK\x03\x04" + content[4:],
    "a pickle": lambda content: b"\x80\x04" + content[2:],
    "a header of another shape": lambda content: content.replace(b"(2, ", b"(3, "),
    "a header that says Fortran": lambda content: content.replace(b"False", b"True "),
    "a long header": lambda content: content[:8] + b"\xff\xff" + content[10:],
    "a header that is no text": lambda content: content[:10] + b"{[(" * 39 + content[127:],
    "one word less": lambda content: content[:-8],
}


@pytest.mark.parametrize("agreeing", [False, True], ids=["checksums of before", "checksums of it"])
@pytest.mark.parametrize("name", REPLACED)
def test_rows_of_another_form_are_refused(name, agreeing, built, tmp_path):
    cache = shutil.copytree(built, tmp_path / "cache")
    (cache / "rows.npy").write_bytes(REPLACED[name]((cache / "rows.npy").read_bytes()))
    if agreeing:
        content = read_manifest(cache).model_dump()
        write(cache, content | {"rows_checksums": chunk_checksums(cache / "rows.npy")})
    with pytest.raises(InputError, match=r"rows\.npy: (checksum differs|does not hold)") as refused:
        open_panel(cache)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("position", [8, 520, 568, 601, 647, 679])
def test_arrow_s_own_metadata_is_read_by_verify_alone_and_after_its_checksum(position, built, tmp_path):
    cache = shutil.copytree(built, tmp_path / "cache")
    panel = np.memmap(cache / "panel.arrow", np.uint8, "r+")
    panel[position] ^= 0x80
    panel.flush()
    open_panel(cache)
    with pytest.raises(InputError, match=r"panel\.arrow: checksum differs in chunk 0"):
        verify(cache)
