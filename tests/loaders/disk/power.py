"""What a loss of power leaves, at every moment of a program.

Calls that write are wrapped. After each one two disks are kept: the one that holds no more than was synced (contents by
a sync of the file, names by one of their folder), and the one that has all names already, and of contents that were not
synced the first half. File systems may leave either, or anything between.
"""

import os
from contextlib import contextmanager
from pathlib import Path

CALLS = ("open", "write", "pwrite", "ftruncate", "fsync", "replace", "mkdir", "unlink", "rmdir")


class Disks:
    """The disks that were possible, oldest first; each is path below the root -> content, None for a folder."""

    def __init__(self, root):
        self.root = root
        self.contents, self.names, self.open = {}, {}, []  # by inode
        self.moments = []
        self._real = {name: getattr(os, name) for name in CALLS}
        self._as_is(root)

    def _as_is(self, folder):
        """What is there before the program begins lasts."""
        self.sync(folder)
        for path in folder.iterdir():
            self._as_is(path) if path.is_dir() else self.sync(path)

    def sync(self, path):
        self.open.append(self._real["open"](path, os.O_RDONLY))  # so that no other file gets this inode
        inode = os.fstat(self.open[-1]).st_ino
        if os.path.isdir(path):
            self.names[inode] = {entry.name: entry.inode() for entry in os.scandir(path)}
        else:
            self.contents[inode] = Path(path).read_bytes()

    def least(self, inode=None, at=""):
        """Only what was synced."""
        inode = self.root.stat().st_ino if inode is None else inode
        found = {}
        for name, below in self.names.get(inode, {}).items():
            path = f"{at}{name}"
            if below in self.folders:
                found |= {path: None} | self.least(below, f"{path}/")
            else:
                found[path] = self.contents.get(below, b"")
        return found

    def most(self):
        """All names, and half of what was not synced."""
        found = {}
        for path in self.root.rglob("*"):
            name = str(path.relative_to(self.root))
            if path.is_dir():
                found[name] = None
                continue
            now, synced = path.read_bytes(), self.contents.get(path.stat().st_ino, b"")
            begin = len(synced) if now.startswith(synced) else 0
            found[name] = now[: begin + (len(now) - begin) // 2]
        return found

    def moment(self):
        self.folders = set(self.names) | {path.stat().st_ino for path in self.root.rglob("*") if path.is_dir()}
        for disk in (self.least(), self.most()):
            if disk not in self.moments:
                self.moments.append(disk)


@contextmanager
def recording(root, monkeypatch):
    """The disks below `root` that were possible while the block ran."""
    disks = Disks(root)

    def wrapped(name, real):
        def call(*arguments, **more):
            result = real(*arguments, **more)
            if name == "fsync":
                disks.sync(f"/proc/self/fd/{arguments[0]}")
            disks.moment()
            return result

        return call

    with monkeypatch.context() as patched:
        for name, real in disks._real.items():
            patched.setattr(os, name, wrapped(name, real))
        disks.moment()
        yield disks
    for descriptor in disks.open:
        os.close(descriptor)


def write_disk(disk, folder):
    """Make the files of a disk in a folder."""
    folder.mkdir()
    for name, content in sorted(disk.items()):
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
    return folder
