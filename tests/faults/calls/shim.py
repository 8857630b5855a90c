"""The layer between a process and its files (shim.c), from Python: built, loaded before all else, and steered.

python -m tests.faults    starts again with it loaded; `counting`, `killing` and `failing` then act on this process
"""

import ctypes
import errno
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")

# Kinds of calls, to be added.
OPEN, READ, WRITE, SYNC, NAME, SIZE, MAP, LOCK = (1 << i for i in range(8))
CHANGES = WRITE | SYNC | NAME | SIZE  # and OPEN, where it makes or empties a file, which the log has alone
EVERY = OPEN | READ | CHANGES | MAP | LOCK
KINDS = 8

COUNT, KILL_BEFORE, KILL_AFTER, TEAR, FAIL, FAIL_ON = range(6)

# What a disk, a mount or a process's limits can answer, and which calls ask.
ERRORS = {
    errno.ENOSPC: OPEN | WRITE | SYNC | NAME | SIZE,
    errno.EIO: READ | WRITE | SYNC | SIZE | MAP,
    errno.EACCES: OPEN | NAME,
    errno.EROFS: OPEN | NAME | SIZE,
    errno.EMFILE: OPEN,
    errno.ENOMEM: MAP,
    errno.ENOLCK: LOCK,
}


@dataclass(frozen=True)
class Fault:
    """What the call number `number` of some kinds meets; a child of the warm process arms itself with one."""

    kinds: int = EVERY
    what: int = COUNT
    number: int = 0
    error: int = 0

    def arm(self, folder: Path, log: int = -1) -> None:
        """From here on in this process, for paths below the folder; the calls are logged to a descriptor."""
        _loaded().faults_arm(os.fsencode(folder), self.kinds, self.what, self.number, self.error, log)

    def __str__(self) -> str:
        names = ("count", "killed before", "killed after", "killed in the middle of", "failed", "failed from")
        error = errno.errorcode.get(self.error, "")
        return f"{names[self.what]} call {self.number} of {self.kinds:#x} {error}".strip()


def counted() -> list[int]:
    """How many calls of each kind have counted since `arm`, in this process."""
    return [int(_loaded().faults_counted(kind)) for kind in range(KINDS)]


def is_loaded() -> bool:
    """Whether this process was started with the layer."""
    return hasattr(ctypes.CDLL(None), "faults_arm")


def restart() -> None:
    """Start this program again with the layer, which is compiled for it. Raises CalledProcessError without gcc."""
    library = Path(tempfile.gettempdir()) / f"atft-faults-{os.getpid()}.so"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl", "-lpthread"], check=True)
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"LD_PRELOAD": str(library)})


def _loaded() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.faults_arm.argtypes = [ctypes.c_char_p, *[ctypes.c_int] * 2, ctypes.c_long, ctypes.c_int, ctypes.c_int]
    library.faults_counted.argtypes, library.faults_counted.restype = [ctypes.c_int], ctypes.c_long
    return library
