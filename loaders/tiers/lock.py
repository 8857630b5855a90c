"""The rows of a panel in page-locked memory that a device may read. Three strategies; the first that works is used.

    in place     the mapping of the cache is registered as it is, read-only, where the device can (attribute 113)
    in memory    the cache lies on tmpfs or hugetlbfs: a writable mapping of it is registered, nothing is copied, and
                 all ranks of a machine register the same memory
    copy         the rows are copied once into huge pages of this process

Linux refuses the long-term, writable locks that NVIDIA's driver asks for on mappings of on-disk files, and a private
mapping would be copied page by page behind the driver's back. So each strategy is tried, and the log says what was
refused and why. Registration goes in chunks (one huge call can stall the driver for others), is undone where a later
chunk is refused, and ends before the memory is unmapped.
"""

import ctypes
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loaders.cache.columns import ALIGNMENT, PANEL
from loaders.panel import Int, Panel
from loaders.tiers.cores import available_memory, usable_cores
from loaders.tiers.driver import DEVICE_MAP, PORTABLE, READ_ONLY, READ_ONLY_REGISTRATION, Driver, describe

CHUNK_BYTES = 256 << 20  # of one registration: below the 512 MB from which drivers were seen to stall
MEMORY_FILE_SYSTEMS = ("tmpfs", "hugetlbfs", "ramfs")


@dataclass(frozen=True)
class Locked:
    """Rows that a device may read."""

    address: Int  # [3, S] as Panel.address
    strategy: str  # "in place", "in memory" or "copy"
    reason: str  # why this one: what the strategies before it said


class Refused(Exception):
    """Memory could not be locked; says why."""


@contextmanager
def locked(panel: Panel, driver: Driver) -> Iterator[Locked]:
    """Lock the panel's rows for the time of the `with`. Raises Refused, with every strategy's reason, if none works."""
    reasons = []
    for name, lock in STRATEGIES.items():
        with ExitStack() as stack:
            try:
                address = lock(panel, driver, stack)
            except Refused as refusal:
                reasons.append(f"{name}: {refusal}")
                continue
            yield Locked(address, name, "; ".join(reasons) or "the first choice")
            return
    raise Refused("; ".join(reasons))


def _in_place(panel: Panel, driver: Driver, stack: ExitStack) -> Int:
    if driver.attribute(READ_ONLY_REGISTRATION) != 1:
        raise Refused("the device cannot lock read-only memory (attribute 113 is 0)")
    for file in panel.files:
        stack.enter_context(_registered(driver, _span(file.mapping), READ_ONLY | DEVICE_MAP | PORTABLE))
    return panel.address


def _in_memory(panel: Panel, driver: Driver, stack: ExitStack) -> Int:
    moves = []
    for rows in panel.files:
        path = rows.path
        kind = file_system(path)
        if kind not in MEMORY_FILE_SYSTEMS:
            raise Refused(f"the cache lies on {kind}, not on {' or '.join(MEMORY_FILE_SYSTEMS[:2])}")
        try:
            with path.open("r+b") as file:
                writable = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_WRITE)
        except OSError as error:
            raise Refused(f"{path.parent / PANEL} cannot be mapped writable ({error.strerror})") from error
        old, nbytes = _span(rows.mapping)
        new, _ = _span(writable)
        moves.append((old, nbytes, new))
        stack.callback(writable.close)
        stack.enter_context(_registered(driver, (new, nbytes), DEVICE_MAP | PORTABLE))
    return panel.moved(moves)


def _copy(panel: Panel, driver: Driver, stack: ExitStack) -> Int:
    arrays = [(a.ctypes.data, a.nbytes) for c in panel.batches for a in (c.features, c.targets, c.presence)]
    places = np.cumsum([0, *(-(-nbytes // ALIGNMENT) * ALIGNMENT for _, nbytes in arrays)])
    total = int(places[-1])
    free = available_memory()
    if total > free:
        raise Refused(f"{total / 1e9:.1f} GB of rows do not fit into {free / 1e9:.1f} GB of available memory")
    try:
        memory = _huge_pages(total)
    except OSError as error:
        raise Refused(f"{total / 1e9:.1f} GB of memory cannot be had ({error.strerror})") from error
    stack.callback(memory.close)
    start, _ = _span(memory)
    _fill(start, arrays, places)
    stack.enter_context(_registered(driver, (start, total), DEVICE_MAP | PORTABLE))
    return panel.moved((*array, start + int(place)) for array, place in zip(arrays, places, strict=False))


def _huge_pages(nbytes: int) -> mmap.mmap:
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them: locked page by page, which only takes longer
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


STRATEGIES = {"in place": _in_place, "in memory": _in_memory, "copy": _copy}


def _fill(start: int, arrays: list[tuple[int, int]], places: Int) -> None:
    """Copy the arrays to their places, by one thread per core; ctypes lets the others go on meanwhile."""
    step = 64 << 20
    pieces = [
        (start + int(place) + i, source + i, min(step, nbytes - i))
        for (source, nbytes), place in zip(arrays, places, strict=False)
        for i in range(0, nbytes, step)
    ]
    with ThreadPoolExecutor(usable_cores().threads) as pool:
        list(pool.map(lambda piece: ctypes.memmove(*piece), pieces))


def _span(memory: mmap.mmap) -> tuple[int, int]:
    """Address and size."""
    view = np.frombuffer(memory, np.uint8)
    return view.ctypes.data, len(view)


@contextmanager
def _registered(driver: Driver, span: tuple[int, int], flags: int) -> Iterator[None]:
    """Register whole pages in chunks, released in the end; raises Refused, with nothing left registered."""
    start, nbytes = span
    end = -(-(start + nbytes) // mmap.PAGESIZE) * mmap.PAGESIZE
    done: list[int] = []
    try:
        for chunk in range(start, end, CHUNK_BYTES):
            code = driver.register(chunk, min(CHUNK_BYTES, end - chunk), flags)
            if code:
                what = f"chunk {len(done) + 1} of {-(-(end - start) // CHUNK_BYTES)}"
                raise Refused(f"registration refused at {what}: {describe(code)}")
            done.append(chunk)
        yield
    finally:
        for chunk in reversed(done):
            driver.unregister(chunk)


def file_system(path: Path) -> str:
    """Type of the file system that holds a path, as the kernel names it; "unknown" where it does not tell."""
    wanted = os.stat(path).st_dev
    device = f"{os.major(wanted)}:{os.minor(wanted)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(" - ")[2].split()[0] for line in lines if line.split()[2] == device), "unknown")
