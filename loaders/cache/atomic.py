"""Files and folders that appear under their final name complete or not at all."""

import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loaders.cache.format import MANIFEST
from loaders.errors import InputError, WriteError

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk is full (for this user)",
    errno.EFBIG: "a file is larger than the system allows (ulimit -f)",
}
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old content or the new, never a part. Raises WriteError on a full disk."""
    if not path.name:
        raise WriteError(str(path), "could not be written (it is a folder)", "Name a file in it")
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise WriteError(
            str(path), f"could not be written ({error.strerror})", "Make room or choose another folder"
        ) from error


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Give an empty folder beside `out` to fill; when the block ends it becomes `out`, on any exception it is removed.

    The folder is `.{name}.partial-{pid}`. An `out` that is a cache is replaced (readers that mapped the old one keep
    their rows); a killed process leaves the partial folder and never a half-filled `out`.

    Raises InputError where `out` holds something that is no cache, WriteError where the folder cannot be made, and
    where the disk fills up while the block runs.
    """
    try:
        out = out.resolve()
        _check_replaceable(out)
    except OSError as error:  # such as a name that is too long
        raise WriteError(str(out), f"cannot be written ({error.strerror})", "Pass another --out") from error
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    except OSError as error:
        raise WriteError(str(out), f"cannot be written ({error.strerror})", "Pass another --out") from error
    try:
        yield partial
        _check_replaceable(out)
        _publish(partial, out)
    except OSError as error:
        if error.errno in FULL:
            cure = "Free some space, or pass an --out on another disk"
            raise WriteError(str(out.parent), FULL[error.errno], cure) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_replaceable(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(str(out), "is a file, not a folder", "Pass another --out")
    if any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise InputError(str(out), "holds files and is no cache (no manifest.json)", "Pass another --out, or empty it")


def _publish(partial: Path, out: Path) -> None:
    """Rename `partial` to `out`. An old cache there ends up under the partial's name, to be removed."""
    if not out.exists() or not any(out.iterdir()):
        partial.rename(out)
    elif not _exchange(partial, out):
        old = partial.with_name(partial.name.replace(".partial-", ".old-"))
        out.rename(old)
        partial.rename(out)
        shutil.rmtree(old, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Swap the names of two folders in one step; False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0)
