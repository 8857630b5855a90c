"""A folder whose beginning can be repeated.

Its last file says that the beginning is finished; whoever writes it has written all that it needs before. Until then
the folder holds a few known names alone. So a kill at any moment leaves no folder, or one that the same command begins
anew, or a finished beginning; an error leaves nothing.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

from loaders.disk.durable import make_folder
from loaders.disk.lock import LOCK, alone_in
from loaders.errors import InputError, WriteError


@contextmanager
def beginning(folder: Path, last: str, left: Sequence[str]) -> Iterator[None]:
    """An empty folder to begin in, made where it is missing; the caller has it alone until the block ends.

    Args:
        last: name of the file that ends the beginning.
        left: patterns of the paths inside that are written before; what is there of them is removed.

    Raises InputError where the folder holds anything else or another process is at it, WriteError where it cannot be
    made or written to.
    """
    with _written(folder):
        is_new = not folder.exists()
        if not is_new:
            _left(folder, left)
    make_folder(folder)
    try:
        with alone_in(folder):
            with _written(folder):
                _clear(folder, left)
            try:
                yield
            except BaseException:
                with suppress(OSError, InputError):
                    if not (folder / last).exists():
                        _clear(folder, left)
                raise
    finally:
        with suppress(OSError):  # it is not empty
            if is_new:
                folder.rmdir()


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(str(folder), f"cannot be written to ({error.strerror})", "Choose another --out") from error


def _clear(folder: Path, left: Sequence[str]) -> None:
    for path in _left(folder, left):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)  # with what it holds, which is of the list too
        else:
            path.unlink(missing_ok=True)


def _left(folder: Path, left: Sequence[str]) -> list[Path]:
    """What a folder holds. Raises InputError where that is not all of `left`."""
    if not folder.is_dir():
        raise InputError(str(folder), "is a file, not a folder", "Choose another --out")
    found = [path for path in folder.rglob("*") if path != folder / LOCK]
    for path in found:
        if not any(fnmatch(str(path.relative_to(folder)), pattern) for pattern in left):
            raise InputError(str(folder), "the folder is not empty", "Pass --resume, or another --out")
    return found
