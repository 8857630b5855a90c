"""The physical limit: for each block, as many bytes as its arrays hold, copied in one piece from a random place.

On as many threads as the gather uses, from the mapped features to existing buffers, by libc's memcpy or by streaming
stores, whichever is faster on this machine: on some machines memcpy reads each line of its target before it writes it.
No loader that writes blocks to memory can be faster, with one exception: where features are stored as float16, the
gather reads half of what it writes, and the copy reads all of it.
"""

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import get_num_threads, njit, prange

from bench.workloads.loading import Loading
from loaders.plan import Block
from loaders.runs import LINE, copy_bytes, copy_run, fence

TASK = "gather"
NEEDS = ("numba",)
BLOCKS = 48
SLOTS = 4  # buffers in rotation, together larger than a last-level cache
TRIALS = 16  # blocks that each way to copy is timed on

_memcpy = ctypes.CDLL(None).memcpy
_memcpy.argtypes = [ctypes.c_size_t] * 3
_memcpy.restype = ctypes.c_size_t


@dataclass(frozen=True)
class State:
    work: Loading
    source: npt.NDArray[np.uint8]  # [bytes] of the features
    slots: npt.NDArray[np.uint8]  # [SLOTS, bytes of the largest block]
    random: np.random.Generator
    copy: Callable[[int, int, int, int], None]  # the faster way


@contextmanager
def build(work: Loading) -> Iterator[State]:
    """Buffers with all their pages present."""
    source = work.panel.features.reshape(-1).view(np.uint8)
    block = Block(0, np.arange(work.codes))
    slots = np.ones((SLOTS, work.nbytes(block)), np.uint8)
    states = [State(work, source, slots, np.random.default_rng(0), copy) for copy in (_by_libc, _by_streaming)]
    yield min(states, key=lambda state: _seconds(state, block))


def run(state: State, blocks: list[Block]) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Yield, for each block, the offset in the features' bytes and the bytes copied from there."""
    for i, block in enumerate(blocks):
        size = state.work.nbytes(block)
        offset = int(state.random.integers((len(state.source) - size) // LINE)) * LINE
        target = state.slots[i % SLOTS, :size]
        state.copy(target.ctypes.data, state.source.ctypes.data + offset, size, get_num_threads())
        yield offset, target


def _seconds(state: State, block: Block) -> float:
    for _ in run(state, [block]):  # compiles
        pass
    begun = time.perf_counter()
    for _ in run(state, [block] * TRIALS):
        pass
    return time.perf_counter() - begun


@njit(parallel=True, nogil=True)
def _by_libc(target: Any, source: Any, size: Any, pieces: Any) -> None:
    step = (size // pieces + LINE) // LINE * LINE
    for i in prange(pieces):
        _memcpy(target + i * step, source + i * step, max(min(step, size - i * step), 0))


@njit(parallel=True, nogil=True)
def _by_streaming(target: Any, source: Any, size: Any, pieces: Any) -> None:
    step = (size // pieces + LINE) // LINE * LINE
    for i in prange(pieces):
        n = max(min(step, size - i * step), 0)
        copy_run(target + i * step, source + i * step, n // 4)
        copy_bytes(target + i * step + n // 4 * 4, source + i * step + n // 4 * 4, n % 4)  # type: ignore[call-arg]
        fence()
