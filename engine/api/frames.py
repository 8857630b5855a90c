"""What the API's frames have in common: Polars, imported where it is used, and messages that name arguments."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from loaders.errors import InputError

_OPTION = re.compile(r"`[^`]*`|(?<![\w/.-])--([a-z][a-z-]*)")  # a command in backticks stays a command
_RENAMED = {"arrow": "cache"}  # options whose argument has another name


def polars(where: str) -> ModuleType:
    """The module, which the extra `build` installs. Raises InputError, which names `where` it is needed."""
    try:
        import polars as pl
    except ModuleNotFoundError as error:
        if error.name != "polars":
            raise
        raise InputError(where, "polars is not installed", "pip install 'atft-engine[build]'") from error
    return pl


@contextmanager
def naming_arguments() -> Iterator[None]:
    """Messages of the command line's functions, with `--min-codes` written as the argument `min_codes=`."""
    try:
        yield
    except InputError as error:
        parts = [_OPTION.sub(_argument, part) for part in (error.where, error.what, error.cure)]
        raise InputError(*parts) from error


def _argument(found: "re.Match[str]") -> str:
    name = found[1]
    return found[0] if name is None else f"{_RENAMED.get(name, name).replace('-', '_')}="
