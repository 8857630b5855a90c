"""Which files a build reads: those named, and those inside folders, links followed.

Left out, and told: hidden files and folders (`.` or `_` first, as Spark, macOS and Jupyter leave them), empty files,
other kinds of file, broken links, and files that are reached twice.
"""

import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from loaders.errors import InputError

KINDS = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".csv.gz": "csv", ".csv.zst": "csv",
    ".arrow": "arrow", ".ipc": "arrow", ".feather": "arrow",
}  # fmt: skip
_TABLES = {"_delta_log": "Delta", ".hoodie": "Hudi"}  # their folders keep files of removed rows, too
_NAMES_TOLD = 3


@dataclass
class Found:
    """The files to read, and those left out by reason."""

    files: list[Path] = field(default_factory=list)
    left_out: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))

    def told(self) -> str | None:
        """One line about what was left out; None where nothing was."""
        if not self.left_out:
            return None
        total = sum(map(len, self.left_out.values()))
        reasons = (f"{len(paths):,} {reason} ({_first(paths)})" for reason, paths in self.left_out.items())
        return f"left out {total:,} {'file' if total == 1 else 'files'}: {', '.join(reasons)}"


def _first(paths: list[Path]) -> str:
    names = [path.name for path in paths[:_NAMES_TOLD]]
    return ", ".join(names) + (", ..." if len(paths) > _NAMES_TOLD else "")


def kind_of(path: Path) -> str | None:
    """parquet, csv or arrow, by the name's end in any case; None for another kind."""
    name = path.name.lower()
    return next((kind for suffix, kind in KINDS.items() if name.endswith(suffix)), None)


def partitions(path: Path) -> dict[str, str | None]:
    """Columns that the folders of a path give to its file: `date=2020-01-01/code=AAPL/part.parquet` (Hive)."""
    found: dict[str, str | None] = {}
    for part in path.parts[:-1]:
        name, equals, value = part.partition("=")
        if name and equals:
            found[unquote(name)] = None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value)
    return found


def find_files(sources: list[Path]) -> Found:
    """The files named by `sources`, folders searched in full. Raises InputError where there is none."""
    found = Found()
    kinds = ", ".join(KINDS)
    for source in sources:
        if not source.exists():
            raise InputError(str(source), "no such file or folder", "Check the path")
        if source.is_dir():
            before = len(found.files)
            _search(source, found, set())
            if len(found.files) == before:
                what = "the folder holds no data file"
                raise InputError(str(source), f"{what}; {told}" if (told := found.told()) else what, f"Kinds: {kinds}")
        elif kind_of(source) is None:
            raise InputError(str(source), f"unknown kind of file {source.suffix!r}", f"Known kinds: {kinds}")
        elif not source.is_file():
            raise InputError(str(source), "is a pipe or a device, not a plain file", "Write its rows to a file first")
        else:
            found.files.append(source)
    once: dict[str, Path] = {}
    for file in found.files:
        if once.setdefault(os.path.realpath(file), file) is not file:
            found.left_out["reached twice"].append(file)
    found.files = list(once.values())
    return found


def _search(folder: Path, found: Found, seen: set[str]) -> None:
    """Add the data files of a folder, by name; `seen` holds the real paths of folders on the way, against cycles."""
    seen.add(os.path.realpath(folder))
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(str(folder), f"cannot be searched ({error.strerror})", "Check its permissions") from error
    for entry in entries:
        path, name = folder / entry.name, entry.name
        if kind := _TABLES.get(name):
            what = f"is a {kind} table, whose files hold removed rows too"
            raise InputError(str(folder), what, "Export it to plain Parquet")
        if name.startswith(".") or (name.startswith("_") and "=" not in name):
            found.left_out["hidden"].append(path)
        elif entry.is_dir():
            if os.path.realpath(path) in seen:
                found.left_out["reached twice"].append(path)
            else:
                _search(path, found, seen)
        elif not path.exists():
            found.left_out["broken links"].append(path)
        elif kind_of(path) is None or not entry.is_file():
            found.left_out["of another kind"].append(path)
        elif not entry.stat().st_size:
            found.left_out["empty"].append(path)
        else:
            found.files.append(path)
