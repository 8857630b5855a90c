"""Names, dates and other text of a cache: what can be shown on one line, and written to TOML, JSON and Arrow."""

import unicodedata
from collections.abc import Iterable
from datetime import date

from loaders.errors import InputError

# Control characters (DEL and C1 too), halves of surrogate pairs, separators of lines and of paragraphs.
REFUSED = ("Cc", "Cs", "Zl", "Zp")


def odd_character(text: str) -> str | None:
    """The first character that no name may have, as `U+007F`; None: all are fine."""
    if text.isprintable():
        return None
    return next((f"U+{ord(c):04X}" for c in text if unicodedata.category(c) in REFUSED), None)


def iso_date(text: str) -> str:
    """The text, where it is a date as YYYY-MM-DD. Raises ValueError for any other, also in another form of ISO 8601."""
    if date.fromisoformat(text).isoformat() != text:
        raise ValueError("write a date as YYYY-MM-DD")
    return text


def check_names(where: str, what: str, names: Iterable[str]) -> None:
    """Raise InputError for the first name with a character that none may have.

    Args:
        where: the file or option.
        what: they are, such as "feature".
    """
    for name in names:
        if (odd := odd_character(name)) is not None:
            cure = "Rename it, without control characters and line separators"
            raise InputError(where, f"{what} {name!a} holds {odd}", cure)
