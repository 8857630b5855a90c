"""What a disk may hold when the power goes: a recorded sequence of calls (shim.c), played back up to any of them.

A disk keeps what was synced: the bytes of a file by an fsync of the file, a name by an fsync of its folder. All else it
may have written or not. Two disks are the worst that it can leave. `names=False` has nothing that was not synced.
`names=True` has every name at once, and of the files behind them the bytes that were synced alone: it shows a rename
that came before its bytes.
"""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Call:
    """A call that changed the disk."""

    kind: str
    inode: int
    offset: int
    path: str  # relative to the folder that is watched; "": the folder itself
    other: str
    content: bytes


@dataclass
class _File:
    now: bytearray = field(default_factory=bytearray)
    synced: bytes | None = None  # None: never


@dataclass
class _Folder:
    now: dict[str, "_File | _Folder"] = field(default_factory=dict)
    synced: dict[str, "_File | _Folder"] = field(default_factory=dict)


def read_log(log: bytes, folder: Path) -> list[Call]:
    """The calls of a log of shim.c, in order."""
    calls, at, root = [], 0, str(folder)
    while at < len(log):
        end = log.index(b"\n", at)
        kind, inode, offset, size, path, other = log[at:end].decode(errors="surrogateescape").split("\t")
        at = end + 1 + int(size)
        inside = [name.removeprefix(root).lstrip("/") for name in (path, other)]
        calls.append(Call(kind, int(inode), int(offset), *inside, log[end + 1 : at]))
    return calls


class Disk:
    """A folder as the system sees it, and as the disk below has it for certain."""

    def __init__(self, folder: Path) -> None:
        self.root = _read(folder)

    def play(self, call: Call) -> None:
        """Do what a call did."""
        path = call.path
        if path.endswith(" (deleted)"):  # a file that is open and has no name any more
            return
        if call.kind in ("create", "truncate"):
            there = self._folder(path).now
            if call.kind == "truncate" and isinstance(there.get(_name(path)), _File):
                there[_name(path)].now.clear()  # type: ignore[union-attr]
            there.setdefault(_name(path), _File())
        elif call.kind == "write":
            content = self._file(path).now
            content.extend(bytes(max(call.offset - len(content), 0)))
            content[call.offset : call.offset + len(call.content)] = call.content
        elif call.kind == "resize":
            content = self._file(path).now
            content.extend(bytes(max(call.offset - len(content), 0)))
            del content[call.offset :]
        elif call.kind == "sync":
            found = self._find(path)
            if isinstance(found, _File):
                found.synced = call.content
            else:
                found.synced = dict(found.now)
        elif call.kind == "mkdir":
            self._folder(path).now[_name(path)] = _Folder()
        elif call.kind in ("unlink", "rmdir"):
            del self._folder(path).now[_name(path)]
        elif call.kind in ("rename", "exchange"):
            old, new = self._folder(path).now, self._folder(call.other).now
            moved, there = old.pop(_name(path)), new.get(_name(call.other))
            new[_name(call.other)] = moved
            if call.kind == "exchange" and there is not None:
                old[_name(path)] = there
        elif call.kind != "lock":
            raise ValueError(f"a call that this disk does not know: {call.kind}")

    def leave(self, out: Path, names: bool) -> None:
        """Write what is left when the power goes now; see the module."""
        _write(self.root, out, names)

    def _find(self, path: str) -> "_File | _Folder":
        found: _File | _Folder = self.root
        for name in filter(None, path.split("/")):
            if not isinstance(found, _Folder):
                raise NotADirectoryError(path)
            found = found.now[name]
        return found

    def _file(self, path: str) -> _File:
        found = self._find(path)
        if not isinstance(found, _File):
            raise IsADirectoryError(path)
        return found

    def _folder(self, path: str) -> _Folder:
        """The folder that holds a name."""
        found = self._find(path.rpartition("/")[0])
        if not isinstance(found, _Folder):
            raise NotADirectoryError(path)
        return found


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _read(folder: Path) -> _Folder:
    """What was there before, all of it on the disk."""
    names: dict[str, _File | _Folder] = {}
    for path in folder.iterdir():
        if path.is_dir():
            names[path.name] = _read(path)
        else:
            content = path.read_bytes()
            names[path.name] = _File(bytearray(content), content)
    return _Folder(names, dict(names))


def _write(folder: _Folder, out: Path, names: bool) -> None:
    out.mkdir()
    for name, found in (folder.now if names else folder.synced).items():
        if isinstance(found, _Folder):
            _write(found, out / name, names)
        else:
            (out / name).write_bytes(found.synced or b"")
