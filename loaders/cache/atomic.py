"""Files and folders that appear under their final name complete or not at all, and stay through a loss of power.

Both are filled under a hidden name beside the final one, synced, and renamed. One writer at a time has that name, by a
lock, so whatever a killed one has left there is overwritten by the next. Where --out is a link, the link stays and what
it points to is replaced.
"""

import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from loaders.cache.format import MANIFEST
from loaders.disk.durable import folder_sync, make_folder, move, sync_folder, sync_tree
from loaders.disk.lock import alone_with, has_name, take
from loaders.errors import InputError, WriteError

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk is full (for this user)",
    errno.EFBIG: "a file is larger than the system allows (ulimit -f)",
}
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old content or the new, never a part; it lasts once this returns.

    Raises WriteError where that fails, such as on a full disk, with the old content in place; where only the sync of
    the folder has failed, that of the new name, the new content may be in place.
    """
    if not path.name:
        raise WriteError(str(path), "could not be written (it is a folder)", "Name a file in it")
    try:
        out = Path(os.path.realpath(path))
        if out.exists() and not out.is_file():
            raise WriteError(str(path), "could not be written (it is no plain file)", "Choose another name")
        partial = out.with_name(f".{out.name}.partial")
        with folder_sync(out.parent) as sync:
            file = take(partial, wait=True)
            try:
                os.ftruncate(file, 0)
                _write(file, content)
                os.fsync(file)
                os.replace(partial, out)
            except BaseException:
                with suppress(OSError):
                    if has_name(file, partial):
                        partial.unlink()
                raise
            finally:
                os.close(file)
            sync()
    except OSError as error:
        raise WriteError(
            str(path), f"could not be written ({error.strerror})", "Make room or choose another folder"
        ) from error


@contextmanager
def atomic_folder(out: Path, *, is_alone: bool = False, follow: bool = True) -> Iterator[Path]:
    """Give an empty folder beside `out` to fill; when the block ends it becomes `out`, on any exception it is removed.

    The folder is `.{name}.partial`. An `out` that is a cache is replaced (readers that mapped the old one keep their
    rows). A killed process leaves the partial folder, which the next one removes, and never a half-filled `out`.

    Args:
        is_alone: the caller holds the lock of `out` (`alone_with`).
        follow: a link is a place that the user chose; False: it is refused.

    Raises InputError where `out` holds something that is no cache, and where another process fills it; WriteError
    where the folder cannot be made, and where the disk fills up while the block runs.
    """
    asked = out
    try:
        if out.is_symlink() and not follow:
            what = f"is a link to {os.readlink(out)}, which does not hold it"
            raise InputError(str(out), what, "Remove the link; nothing is written through it")
        out = Path(os.path.realpath(out))
        _check_replaceable(out)
        make_folder(out.parent)
        partial = out.with_name(f".{out.name}.partial")
        with nullcontext() if is_alone else alone_with(out):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                yield partial
                _check_replaceable(out)
                sync_tree(partial)
                _publish(partial, out)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        if error.errno in FULL:
            cure = "Free some space, or pass an --out on another disk"
            raise WriteError(str(out.parent), FULL[error.errno], cure) from error
        what = f"cannot be written ({error.strerror or error}{f': {error.filename}' if error.filename else ''})"
        raise WriteError(str(asked), what, "Mend that, or pass another --out") from error


def _write(file: int, content: bytes) -> None:
    rest = memoryview(content).cast("B")
    while rest:
        rest = rest[os.write(file, rest) :]


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
        move(partial, out)
    elif _exchange(partial, out):
        sync_folder(out.parent)
    else:
        old = partial.with_name(f".{out.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        move(out, old)
        move(partial, out)
        shutil.rmtree(old, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Swap the names of two folders in one step; False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0)
