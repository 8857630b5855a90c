"""Names that survive a loss of power: the one place that renames, makes folders, and syncs them.

The content of a file is on the disk once the file is synced; its name, once the folder that holds it is. So whatever is
reported as done has been synced first, then renamed, and the folder of the name synced last.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from loaders.errors import WriteError

# What file systems without a sync of folders answer (SMB, some in user space): names are as safe there as they can be.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


@contextmanager
def folder_sync(folder: Path) -> Iterator[Callable[[], None]]:
    """A function that syncs a folder. It is opened now, so that a lack of file handles shows before names change.

    Where the file system cannot sync a folder, or it may be written to and not read, the function does nothing.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        yield lambda: None
        return

    def sync() -> None:
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise

    try:
        yield sync
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last. Raises OSError."""
    with folder_sync(folder) as sync:
        sync()


def sync_tree(folder: Path) -> None:
    """Make all that a folder holds last: contents and names. Links are not followed. Raises OSError."""
    for place, _, files in os.walk(folder):
        for name in files:
            path = Path(place) / name
            if not path.is_symlink():
                _sync_file(path)
        sync_folder(Path(place))


def make_folder(folder: Path, cure: str = "Choose another --out") -> None:
    """Make a folder and those above it that are missing, all of which last; one that exists stays as it is.

    Raises WriteError where that cannot be.
    """
    try:
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for each in missing:
            sync_folder(each.parent)
    except OSError as error:
        raise WriteError(str(folder), f"cannot be made ({error.strerror})", cure) from error


def move(old: Path, new: Path) -> None:
    """Give a file or folder another name, in place of what has that name. Raises OSError; then names are as they were,
    but where it is the sync that failed, after which they may be."""
    with folder_sync(new.parent) as sync_new, folder_sync(old.parent) as sync_old:
        os.replace(old, new)
        sync_new()
        if old.parent != new.parent:
            sync_old()


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
