"""Room for polars, which is tried before polars is imported.

Where it gets no thread, file or address space, polars and its allocator end the process or print pages of text, which
nothing in Python can catch. What is tried is what it takes at its start, measured on Linux; with more cores it is more.
"""

import mmap
import os
import threading

FILES = 12
THREADS, THREADS_PER_CORE = 8, 6
BYTES, BYTES_PER_CORE = 2 << 30, 256 << 20  # of addresses, few of which become memory


def check_room() -> None:
    """Raise OSError or RuntimeError where this process may not have what polars takes."""
    cores = os.cpu_count() or 1
    _try_files()
    mmap.mmap(-1, BYTES + cores * BYTES_PER_CORE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ).close()
    _try_threads(THREADS + cores * THREADS_PER_CORE)


def _try_files() -> None:
    opened: list[int] = []
    try:
        for _ in range(FILES):
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for file in opened:
            os.close(file)


def _try_threads(count: int) -> None:
    end, started = threading.Event(), []
    try:
        for _ in range(count):
            thread = threading.Thread(target=end.wait, name="room", daemon=True)
            thread.start()
            started.append(thread)
    finally:
        end.set()
        for thread in started:
            thread.join()
