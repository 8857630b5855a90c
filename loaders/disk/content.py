"""Files that are read back: plain ones, whole, and with the checksum that they were written with.

What cannot be read is said as what it is: absent, of another kind, forbidden (regular.py). JSON holds finite numbers,
and nothing nested too deeply. Its checksum is SHA-256 over the values, whatever blanks stand between them:

    sha256(json.dumps(content without its entry "checksum", sort_keys=True, separators=(",", ":")))[:16]
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from loaders.disk.regular import read_plain, refusal
from loaders.errors import InputError

CHECKSUM = "checksum"  # entry of JSON objects
DIGITS = 16  # of a checksum, hexadecimal


def is_there(path: Path) -> bool:
    """Whether there is something of that name. Raises InputError where that cannot be told."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})", "Give yourself access to it") from error
    return True


def find_file(path: Path, cure: str) -> bytes | None:
    """The content of a plain file; None where there is none. Raises InputError where it cannot be read."""
    try:
        return read_plain(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise refusal(path, error, cure) from error


def read_file(path: Path, cure: str, absent: str = "no such file") -> bytes:
    """The content of a plain file. Raises InputError where it cannot be read.

    Args:
        cure: how to mend that.
        absent: what is wrong where there is none.
    """
    content = find_file(path, cure)
    if content is None:
        raise InputError(str(path), absent, cure)
    return content


def parse_json(content: bytes | str, where: str, cure: str) -> Any:
    """The value that JSON in UTF-8 stands for. Raises InputError for anything else, and for what is not finite."""
    try:
        text = content.decode() if isinstance(content, bytes) else content
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise InputError(where, f"not readable as JSON (byte {error.start} is no UTF-8)", cure) from error
    except RecursionError as error:
        raise InputError(where, "not readable as JSON (it is nested too deeply)", cure) from error
    except ValueError as error:  # of the parser, and for an integer of thousands of digits
        raise InputError(where, f"not readable as JSON ({str(error).splitlines()[0]:.200})", cure) from error


def canonical(value: Any) -> bytes:
    """A JSON value as the one text that checksums are of. Raises ValueError for what is not finite, or too deep."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def with_checksum(content: dict[str, Any]) -> dict[str, Any]:
    """The same JSON object, with its checksum as the last entry. Raises as `canonical`."""
    content = {key: value for key, value in content.items() if key != CHECKSUM}
    return content | {CHECKSUM: hashlib.sha256(canonical(content)).hexdigest()[:DIGITS]}


def checked_json(content: bytes | str, where: str, cure: str) -> dict[str, Any]:
    """The JSON object that `with_checksum` wrote. Raises InputError for anything else, such as an edited one."""
    value = parse_json(content, where, cure)
    if not isinstance(value, dict) or CHECKSUM not in value:
        raise InputError(where, "holds no checksum: damaged, or written by an earlier version", cure)
    try:
        expected = with_checksum(value)[CHECKSUM]
    except ValueError as error:
        raise InputError(where, f"not readable as JSON ({error})", cure) from error
    if expected != value[CHECKSUM]:
        raise InputError(where, "its checksum differs: it is damaged, or was edited", cure)
    return value


def in_words(error: ValidationError) -> str:
    """The first thing that is wrong with a value, in a few words."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))} is {first['input']!r:.100} ({first['msg'].lower()})"


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text:.50} is no number of JSON")
    return value
