"""Keep a child from harming the machine that it is tried on: as root, `--out /dev/full` could replace the device."""

import ctypes
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the repository, where numba keeps compiled code
NEW_NAMESPACE, BIND, RECURSIVE, PRIVATE, REMOUNT, READ_ONLY = 0x20000, 4096, 16384, 1 << 18, 32, 1


def shelter(work: Path | None = None) -> None:
    """In this process alone, mount everything read-only but the work folder, if any, and where compiled code is kept.

    Without the right to do so, which only root has, nothing is done, since such a process cannot do harm either.
    """
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: str, target: str, flags: int) -> None:
        if libc.mount(source.encode(), target.encode(), None, flags, None):
            raise OSError(ctypes.get_errno(), f"mount {target}")

    if libc.unshare(NEW_NAMESPACE):
        raise OSError(ctypes.get_errno(), "a mount namespace, without which root is not safe here")
    mount("none", "/", RECURSIVE | PRIVATE)
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    here = os.getcwd()
    kept = [*([] if work is None else [str(work)]), str(ROOT), os.path.expanduser("~/.cache")]
    for path in kept:
        os.makedirs(path, exist_ok=True)
        mount(path, path, BIND)
    for point in sorted(set(points), key=len):
        if not point.startswith(("/proc", "/sys")) or point == "/proc":
            try:
                mount("none", point, REMOUNT | BIND | READ_ONLY)
            except OSError:
                continue  # a point below another one that has just been covered
    os.chdir(here)  # as it is mounted now
