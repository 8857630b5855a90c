"""Reading plain files: a pipe, a socket or a device under a file's name is refused at once, and never waited for."""

import errno
import mmap
import os
import stat
from pathlib import Path
from typing import BinaryIO

from loaders.errors import InputError

_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip
_CURES = {
    errno.EACCES: "Give yourself access to it",
    errno.EPERM: "Give yourself access to it",
    errno.EMFILE: "Allow more open files (ulimit -n)",
    errno.ENFILE: "Close other programs' files",
    errno.ENOMEM: "Free some memory, or raise its limit (ulimit -v)",
    errno.EIO: "Check the disk, and restore the file",
}


class NotPlain(OSError):
    """What has a file's name is no plain file."""


def check_plain(path: Path) -> None:
    """Raise NotPlain where a path that exists, links followed, is no plain file; other OSErrors as `os.stat` does."""
    _check(os.stat(path).st_mode, path)


def open_plain(path: Path) -> BinaryIO:
    """Open a plain file to read. Raises NotPlain for anything else, and other OSErrors as `open` does."""
    check_plain(path)  # before it is opened: that alone has effects on some devices
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        _check(os.fstat(file.fileno()).st_mode, path)  # it may have been replaced since
    except BaseException:
        file.close()
        raise
    return file


def read_plain(path: Path) -> bytes:
    """Content of a plain file. Raises as `open_plain`."""
    with open_plain(path) as file:
        return file.read()


def map_plain(path: Path) -> tuple[mmap.mmap, os.stat_result]:
    """A plain file mapped read-only, and what it was on opening. Raises as `open_plain`; ValueError: it is empty."""
    with open_plain(path) as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), os.fstat(file.fileno())


def refusal(path: Path, error: OSError, cure: str) -> InputError:
    """The line for a file that cannot be opened or read; `cure` where the error itself suggests none."""
    return InputError(str(path), f"cannot be read ({error.strerror})", _CURES.get(error.errno or 0, cure))


def _check(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "of another kind")
        raise NotPlain(errno.EINVAL, f"it is {kind}, not a plain file", str(path))
