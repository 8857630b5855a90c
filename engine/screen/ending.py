"""How a command ends: with what it printed, or with one line on stderr and an exit code.

    0   done
    1   failed: a training that cannot go on, a signal, memory or open files that ran out, or an error of the program
        itself, whose traceback is in a log file that the line names
    2   bad input or configuration, or a file that could not be written

Whatever a user can mend is an InputError by the time it comes here: each boundary turns its own errors into one.
"""

import errno
import os
import platform
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, cast

from engine.errors import RunFailed, Stopped
from engine.screen.streams import Output, discard, open_closed
from loaders.errors import InputError, WriteError, out_of_memory

_PANIC = "PanicException"  # of libraries in Rust, such as polars; it is no Exception
LONGEST = 500  # characters of an error's own text in a line


@contextmanager
def ended() -> Iterator[None]:
    """Run a command in it; what it raises becomes a line on stderr and an exit code, and so does a failing stdout.

    Raises SystemExit alone, and nothing where the command is done, also by an exit code of 0.
    """
    open_closed()
    before, output = sys.stdout, Output(sys.stdout)
    sys.stdout = cast(Any, output)
    try:
        with _lines():
            try:
                yield
            except SystemExit as stop:
                if stop.code:
                    raise
            output.flush()
            if output.failure is not None:
                raise _not_printed(output.failure)
    finally:
        output.flush()
        sys.stdout = before


@contextmanager
def _lines() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        _end(f"error: {error}", 2)
    except (RunFailed, Stopped) as error:
        _end(f"failed: {error}", 1)
    except KeyboardInterrupt:
        _end("stopped", 1)
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            _end(f"failed: too many open files ({str(error)[:LONGEST]}). Allow more of them (ulimit -n)", 1)
        what = out_of_memory(error)
        if what is None:
            unforeseen(error)
        cure = "Free memory, raise its limit (ulimit -v), or take less at a time: fewer rows, codes or workers"
        _end(f"failed: out of memory ({what}). {cure}", 1)


def unforeseen(error: BaseException) -> NoReturn:
    """End with what nobody foresaw: one line, and the traceback in a log file, or below where none can be written."""
    text = "".join(traceback.format_exception(error))
    last = " ".join(traceback.format_exception_only(error)[-1].split())
    line = f"failed: an error of atft-engine itself, {last[:LONGEST]}"
    try:
        path = _log(text)
    except OSError:
        _end(f"{line}. Please report it with what follows\n{text}", 1, whole=True)
    _end(f"{line}. Please report it with {path}", 1)


def one_line(text: str) -> str:
    """The text with characters that are not printable, such as newlines, as their escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _log(trace: str) -> str:
    """Write a log file of its own; gives its path."""
    number, path = tempfile.mkstemp(prefix="atft-engine-", suffix=".log")
    lines = [
        f"time      {time.strftime('%Y-%m-%d %H:%M:%S %z')}", f"version   {_version()}",
        f"system    Python {platform.python_version()}, {platform.platform()}",
        f"folder    {_folder()}", f"command   {shlex.join(sys.argv)}", "", trace,
    ]  # fmt: skip
    try:
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("\n".join(lines))
    except OSError:
        os.unlink(path)
        raise
    return path


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("atft-engine")
    except PackageNotFoundError:
        return "not installed"


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError as error:
        return f"gone ({error.strerror})"


def _not_printed(error: OSError) -> Exception:
    """What to raise for a stdout that could not be written."""
    if error.errno == errno.EPIPE:
        return Stopped("stdout: its reader ended before all was printed. Files are complete")
    what = f"could not be written ({error.strerror})"
    return WriteError("stdout", what, "Files are complete; send stdout to another place")


def _end(line: str, code: int, whole: bool = False) -> NoReturn:
    """Print a line and exit.

    Args:
        whole: print the text as it is.
    """
    with suppress(OSError, ValueError, UnicodeError):
        sys.stdout.flush()
    try:
        print(line if whole else one_line(line), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        discard(sys.stderr)
    sys.exit(code)
