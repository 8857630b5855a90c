"""Cross-sections shared among threads: stretches of rows, each walked by one compiled loop that holds no GIL.

Threads of our own, since numba's are not safe everywhere: its `workqueue` layer, the only one on some systems, aborts
the process when two threads of it (the loader's and the step's) run a parallel loop at the same time, and its OpenMP
threads go on spinning after a loop, on cores that torch wants next.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch


def for_rows(walk: Callable[..., None], rows: int, *arguments: Any, grain: int = 1) -> None:
    """Call `walk(begin, end, *arguments)` over stretches of 0..rows-1, on as many threads as torch uses.

    No other thread is woken for fewer rows than `grain`.

    `walk` releases the GIL and writes nothing that another stretch reads. What it raises is raised here.
    """
    threads = max(1, min(torch.get_num_threads(), rows // grain))
    borders = [rows * i // threads for i in range(threads + 1)]
    tasks = [_pool(threads).submit(walk, *borders[i : i + 2], *arguments) for i in range(1, threads)]
    walk(borders[0], borders[1], *arguments)
    for task in tasks:
        task.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1 or 1, thread_name_prefix="kernels")
