"""Threads of which each computes on its own."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def one_thread_each(workers: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """That many threads in which torch's operators keep to one, for work that is too small to be shared."""
    cores = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, name, torch.set_num_threads, (1,)) as threads:
            yield threads
    finally:
        torch.set_num_threads(cores)  # which threads begun from now on take over
