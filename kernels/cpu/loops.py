"""How the loops of this folder are compiled, reused from disk, and shared among threads.

A thread runs one compiled loop, which holds no GIL, over a range of rows. These are Python threads, since numba's are
not safe everywhere. Its `workqueue` layer, the only one on some systems, aborts the process when two threads (the
loader's and the step's) run a parallel loop at the same time. Its OpenMP threads keep spinning after a loop, on cores
that torch needs next.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from kernels.jit.compile import jit

# Sums may be reordered and products fused, so that loops vectorise; NaN and infinities keep their meaning. Division by
# zero gives infinity: a check of every divisor would keep loops from vectorising. No loop holds the GIL.
compiled = jit(nogil=True, fastmath={"reassoc", "contract"}, error_model="numpy")


def drop_stale(folder: Path) -> None:
    """Remove numba's cached code of a folder's functions where a source of the folder is newer.

    Numba checks whether the file of a function has changed, but not the files of the functions it calls. Without this,
    a cached function would keep an old version of those compiled into it. Compiling anew takes 15 seconds.
    """
    newest = max(source.stat().st_mtime for source in folder.glob("*.py"))
    for index in folder.glob("__pycache__/*.nbi"):
        with suppress(OSError):  # another process of ours was first, or the folder is read-only and not used
            if index.stat().st_mtime < newest:
                index.unlink()


def for_rows(loop: Callable[..., None], rows: int, *arguments: Any, grain: int = 1) -> None:
    """Call `loop(begin, end, *arguments)` over ranges of 0..rows-1, on as many threads as torch uses.

    A thread gets at least `grain` rows. `loop` releases the GIL and writes nothing that another range reads. An
    exception in it is raised here.
    """
    threads = max(1, min(torch.get_num_threads(), rows // grain))
    borders = [rows * i // threads for i in range(threads + 1)]
    tasks = [_pool(threads).submit(loop, *borders[i : i + 2], *arguments) for i in range(1, threads)]
    loop(borders[0], borders[1], *arguments)
    for task in tasks:
        task.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1 or 1, thread_name_prefix="kernels")


drop_stale(Path(__file__).parent)
