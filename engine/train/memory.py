"""Peak memory of the process, told apart: what it allocated, and pages of mapped files, such as a cache's rows.

Mapped pages are the file system's: they are dropped where memory is short. Linux keeps a peak of the sum alone, so both
are read from /proc ten times a second; that takes about 20 µs each.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PERIOD_S = 0.1


@dataclass
class PeakMemory:
    """Bytes, the largest so far."""

    anonymous: int = 0
    mapped: int = 0

    def read(self) -> None:
        """Take in what /proc says now."""
        anonymous, mapped = resident_bytes()
        self.anonymous, self.mapped = max(self.anonymous, anonymous), max(self.mapped, mapped)


def resident_bytes() -> tuple[int, int]:
    """Bytes in memory now: anonymous ones, and those of mapped files and shared memory."""
    with open("/proc/self/statm") as file:
        resident, shared = file.read().split()[1:3]
    page = os.sysconf("SC_PAGE_SIZE")
    return (int(resident) - int(shared)) * page, int(shared) * page


@contextmanager
def watch_memory() -> Iterator[PeakMemory]:
    """The process's peaks from now until the `with` ends."""
    peak, done = PeakMemory(), threading.Event()

    def watch() -> None:
        while not done.wait(PERIOD_S):
            peak.read()

    peak.read()
    thread = threading.Thread(target=watch, name="memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
