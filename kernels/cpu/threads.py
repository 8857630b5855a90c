"""Cross-sections shared among threads: each thread runs one compiled loop, which holds no GIL, over a range of rows.

These are Python threads, since numba's are not safe everywhere. Its `workqueue` layer, the only one on some systems,
aborts the process when two threads (the loader's and the step's) run a parallel loop at the same time. Its OpenMP
threads keep spinning after a loop, on cores that torch needs next.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch


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
