"""What a user can mend: what is wrong, where, and how. Only the CLI turns it into exit code 2."""

import errno
import os
from pathlib import Path


class InputError(Exception):
    """Bad input or configuration.

    Args:
        where: the file, column, key or option at fault.
        what: what is wrong with it, naming the value and what is allowed.
        cure: how to mend it, as an imperative.
    """

    def __init__(self, where: str, what: str, cure: str) -> None:
        self.where, self.what, self.cure = where, what, cure
        super().__init__(f"{where}: {what}. {cure}")


class WriteError(InputError):
    """What could not be written, or read on the way, such as on a full disk. Nothing is wrong with the work itself: it
    can be repeated."""


class Interrupted(Exception):
    """Work was stopped by whoever asked for it, whatever its inputs are like."""


def check_memory(error: BaseException) -> None:
    """Raise MemoryError where that is what an error is about: the file that was being read is not at fault."""
    if (what := out_of_memory(error)) is not None:
        raise MemoryError(what) from error


def check_path(path: str | Path, where: str) -> None:
    """Raise InputError for a path that can name nothing: a blank or too long one, one below a file, a loop of links.

    Args:
        where: the option or setting that holds it.
    """
    text, reason = os.fspath(path), None
    try:
        if text.strip():
            os.stat(text)
        else:
            reason = "it is blank"
    except FileNotFoundError:
        pass
    except OSError as error:
        reason = error.strerror
    except ValueError:  # a NUL, or half a character
        reason = "no file can have such a name"
    if reason is not None:
        shown = repr(text if len(text) <= 80 else f"{text[:40]}...{text[-30:]}")
        raise InputError(where, f"{shown} is no path to use ({reason})", "Name another one")


_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "bad allocation",
    "bad_alloc",
    "can't start new thread",
    "can't spawn worker thread",
    "failed to map segment",
)


def out_of_memory(error: BaseException) -> str | None:
    """What an error says of memory that ran out, in a line; None where it is about something else.

    NumPy and Arrow raise a MemoryError, the system an OSError, torch and the threads of Python a RuntimeError, a
    library that cannot be mapped an ImportError.
    """
    text = " ".join(str(error).split())[:300]
    if isinstance(error, MemoryError):
        return text or "no more to be had"
    if isinstance(error, OSError):
        return text if error.errno == errno.ENOMEM else None
    told = isinstance(error, RuntimeError | ImportError) and any(mark in text.lower() for mark in _MEMORY)
    return text if told else None
