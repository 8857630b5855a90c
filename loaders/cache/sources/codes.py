"""Codes as they are kept: text without blanks around it, and one spelling for each."""

from collections.abc import Iterable


def two_spellings(codes: Iterable[str]) -> tuple[str, str] | None:
    """Two codes that are the same number, such as `1` and `000001`, or None.

    They are most likely one security, that one file kept as a number and another as text.
    """
    seen: dict[int, str] = {}
    for code in codes:
        if code.isascii() and code.isdecimal():
            other = seen.setdefault(int(code), code)
            if other != code:
                return other, code
    return None


SPELLINGS_CURE = "Write each code in one way"
