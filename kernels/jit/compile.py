"""numba's `njit` with its machine code kept from one command to the next, wherever the engine is installed.

Numba loads kept code by pickle, so it lies where only those can write who may change the sources, or this user alone:

    __pycache__ beside the source     where that can be written to, as a user's own checkout or environment can
    NUMBA_CACHE_DIR/atft-engine/...   numba's own setting, in a folder of this user with mode 700
    ~/.cache/atft-engine/code/...     (or below XDG_CACHE_HOME) the same
    /tmp/atft-engine-UID/...          (or another temporary folder) the same, where there is no home
    nowhere                           each command compiles anew, and a line says so

A folder outside the installation is named by a hash of all sources, since numba looks at a function's own file alone,
and not at those of the functions it calls (`kernels/cpu/loops.py` sees to that in __pycache__).
"""

import hashlib
import os
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit
from numba.core import config
from numba.core.errors import NumbaSystemWarning

# Of a lock between processes of which one forks while it compiles; ours are begun anew.
warnings.filterwarnings("ignore", "(?s).*Could not obtain multiprocessing lock", NumbaSystemWarning)

_PACKAGES = [Path(__file__).parents[1], Path(__file__).parents[2] / "loaders"]


def jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: `njit(**options)` with its code kept where it can be."""

    def decorate(function: Callable[..., Any]) -> Any:
        folder = code_folder(Path(function.__code__.co_filename).parent)
        with _kept_in(folder):
            compiled = njit(cache=folder is not None, **options)(function)
        if folder is not None:
            _outlive_full_disks(compiled._cache, folder)
        return compiled

    return decorate


@cache
def code_folder(sources: Path) -> Path | None:
    """Where the code of a folder's functions is kept; None, after a line that says so: nowhere."""
    beside = sources / "__pycache__"
    if _writable(beside):
        return beside
    for parent, name in _places():
        folder = parent / name
        if _writable(parent) and _private(folder):
            inside = folder / _hash((*_PACKAGES, sources))
            if _writable(inside):
                return inside
    _say_once(
        "no folder of this user alone to keep compiled loops in (of the installation, ~/.cache and temporary ones)"
    )
    return None


def _places() -> Iterator[tuple[Path, str]]:
    if config.CACHE_DIR:  # type: ignore[attr-defined]
        yield Path(config.CACHE_DIR), "atft-engine"  # type: ignore[attr-defined]
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(home):
        yield Path(home) / "atft-engine", "code"
    try:
        yield Path(tempfile.gettempdir()), f"atft-engine-{os.geteuid()}"
    except FileNotFoundError:  # no temporary folder can be written to
        return


def _writable(folder: Path) -> bool:
    """Whether files can be made in a folder, which is made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _private(folder: Path) -> bool:
    """Whether a folder is this user's alone; made where it is missing."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _hash(folders: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for folder in folders:
        for source in sorted(folder.rglob("*.py")):
            digest.update(str(source).encode() + source.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _kept_in(folder: Path | None) -> Iterator[None]:
    """Let numba keep a function's code in a folder that is not beside its source; it decides that on decorating."""
    before = config.CACHE_DIR  # type: ignore[attr-defined]
    config.CACHE_DIR = "" if folder is None or folder.name == "__pycache__" else str(folder)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        config.CACHE_DIR = before  # type: ignore[attr-defined]


def _outlive_full_disks(kept: Any, folder: Path) -> None:
    """Let a function that has been compiled run, though its code could not be kept."""
    save = kept.save_overload

    def save_or_say(signature: Any, data: Any) -> None:
        try:
            save(signature, data)
        except OSError as error:
            _say_once(f"compiled loops could not be kept in {folder} ({error.strerror})")

    kept.save_overload = save_or_say


@cache
def _say_once(what: str) -> None:
    print(f"{what}: the next command compiles them anew, which takes seconds", file=sys.stderr)
