"""Locks on files: one command at a time writes to a folder.

The system holds a lock for as long as the process that took it lives, so none is ever stale. A lock's file holds who
has it, in words, and is removed with the lock; what a killed process leaves locks nothing.
"""

import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from loaders.errors import InputError, WriteError

LOCK = ".lock"  # in a folder
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # what file systems without locks answer
_WORDS = 200  # most bytes of who holds a lock


class Held(Exception):
    """Another process, or thread, holds the lock; the message says which."""


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other commands from writing to a folder that exists.

    Raises InputError where one is at it, and WriteError where the folder cannot be written to.
    """
    with _alone(folder / LOCK, folder):
        yield


@contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """The same of a folder, or file, that may have to be made or replaced; the lock lies beside it."""
    with _alone(path.with_name(f".{path.name}{LOCK}"), path):
        yield


@contextmanager
def _alone(lock: Path, what: Path) -> Iterator[None]:
    try:
        descriptor = take(lock)
    except Held as held:
        raise InputError(str(what), f"is in use by {held}", "Wait until that has ended, or stop it") from held
    except OSError as error:
        raise WriteError(str(what), f"cannot be written to ({error.strerror})", "Choose another --out") from error
    try:
        with suppress(OSError):  # a full disk: then nobody can tell who it is
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _me().encode()[:_WORDS], 0)
        yield
    finally:
        release(lock, descriptor)


def take(lock: Path, wait: bool = False) -> int:
    """A descriptor of a lock's file, made where it is missing, with the lock on it.

    Args:
        wait: until it is free.

    Raises Held, and OSError where the file cannot be made. On a file system without locks a line says so.
    """
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            words = os.pread(descriptor, _WORDS, 0).decode(errors="replace")
            os.close(descriptor)
            raise Held(words if words.isprintable() and words else "another process") from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise
            if not wait:  # a command's lock, rather than a file's: one line is enough
                print(f"{lock.parent}: its file system has no locks, so keep other commands out of it", file=sys.stderr)
            return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        if has_name(descriptor, lock):
            return descriptor
        os.close(descriptor)  # whoever had it has removed or renamed the file meanwhile


def release(lock: Path, descriptor: int) -> None:
    """Remove a lock's file and let go of the lock."""
    try:
        with suppress(OSError):  # what stays locks nothing
            if has_name(descriptor, lock):
                lock.unlink()
    finally:
        os.close(descriptor)


def has_name(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one under that name."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
