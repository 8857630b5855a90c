"""The standard streams of a command: any encoding, a full disk, a reader that has gone, a stream that is closed.

What a command writes to files is what it was started for, so its screen never ends it: what cannot be printed is lost,
and said once the work is done.
"""

import codecs
import errno
import os
import sys
from typing import Any, TextIO, cast

PLAIN = "atft-engine-plain"  # how a character is printed that the stream's encoding lacks
_PLAIN = str.maketrans({"–": "-", "—": "-", "·": "-", "×": "x", "±": "+-", "…": "...", "≤": "<=", "≥": ">=", "→": "->"})
_LINES = {"-": "─━═╌╍┄┅┈┉╸╺╴╶╼╾", "|": "│┃║╎╏┆┇┊┋╹╻╵╷"}  # of the box drawing characters; all others are corners


def _plain(error: UnicodeError) -> tuple[str, int]:
    """ASCII that says the same: lines, dashes, and for the rest an escape that JSON, TOML and Python read alike."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_in_ascii, error.object[error.start : error.end])), error.end


def _in_ascii(character: str) -> str:
    if (plain := character.translate(_PLAIN)).isascii():
        return plain
    code = ord(character)
    if 0x2500 <= code < 0x2580:
        return next((line for line, characters in _LINES.items() if character in characters), "+")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


codecs.register_error(PLAIN, _plain)


class Output:
    """A stream for text whose failures do not raise. The first one is in `failure`.

    Args:
        stream: that is written to; None, as Python has it, for one that was closed when the command began.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self.failure: OSError | None = None
        if hasattr(stream, "reconfigure"):
            cast(Any, stream).reconfigure(errors=PLAIN)

    def write(self, text: str) -> int:
        """Write what can be written; gives the length of the text."""
        if self.stream is None:
            self.failure = self.failure or OSError(errno.EBADF, os.strerror(errno.EBADF))
        elif self.failure is None:
            try:
                self.stream.write(text)
            except OSError as error:
                self._failed(error)
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        if self.stream is None or self.failure is not None:
            return
        try:
            self.stream.flush()
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        self.failure = error
        discard(self.stream)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self.stream is not None and self.stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def discard(stream: TextIO | None) -> None:
    """Send what a broken stream still holds nowhere; Python would fail on it when it ends."""
    try:
        number = cast(TextIO, stream).fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
    except (OSError, AttributeError, ValueError):  # no file of the system's
        pass


def open_closed() -> None:
    """Open /dev/null for standard streams that are closed: the next file would take their number, and their output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, for as long as the process lives
