"""Names of columns: renamed on request, found in any case, chosen by patterns."""

import difflib
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from loaders.errors import InputError

PANDAS_INDEX = "__index_level_"  # how pandas names levels of an index that have no name


def parse_renames(texts: list[str]) -> dict[str, str]:
    """{old: new} of `old=new` texts. Raises InputError for another form, and for a name that is given twice."""
    renames: dict[str, str] = {}
    for text in texts:
        old, equals, new = (part.strip() for part in text.partition("="))
        if not (old and equals and new):
            raise InputError("--rename", f"{text!r} is no rename", "Write old=new, such as --rename 'Adj Close=close'")
        if old in renames or new in renames.values():
            raise InputError("--rename", f"{text!r} uses a name that another --rename has", "Give each name once")
        renames[old] = new
    return renames


def resolve(name: str, names: Iterable[str], where: str) -> str | None:
    """The column that `name` means: itself, else the one that differs in case or blanks alone; None: there is none.

    Raises InputError naming two columns that differ from it in case alone.
    """
    names = list(names)
    if name in names:
        return name
    alike = [other for other in names if other.strip().casefold() == name.strip().casefold()]
    if len(alike) > 1:
        what = f"columns {alike[0]!r} and {alike[1]!r} both may be {name!r}"
        raise InputError(where, what, f"Choose one with --rename '{alike[0]}={name}'")
    return alike[0] if alike else None


def listed(name: str, names: Collection[str]) -> str:
    """The columns to offer for one that is not there: those that are alike, else the first twelve."""
    return ", ".join(difflib.get_close_matches(name, names, 3) or list(names)[:12])


def match_columns(option: str, patterns: list[str], names: list[str], reserved: set[str]) -> list[str]:
    """Names that the patterns (`*`, `?`, `[...]`) choose, each once, in the order of the patterns and then the files.

    Columns in `reserved`, and unnamed levels of a pandas index, are matched only where named in full. Raises
    InputError naming a pattern that chooses none.
    """
    chosen: dict[str, None] = {}
    open_to_patterns = [n for n in names if n not in reserved and not n.startswith(PANDAS_INDEX)]
    for pattern in patterns:
        found = [pattern] if pattern in names else [n for n in open_to_patterns if fnmatchcase(n, pattern)]
        if not found:
            raise InputError(option, f"no column matches {pattern!r}", f"The files have {listed(pattern, names)}")
        chosen |= dict.fromkeys(found)
    return list(chosen)
