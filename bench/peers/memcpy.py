"""The physical limit: for each block as many bytes as its arrays hold, copied in one piece from a random place.

libc's memcpy on as many threads as the gather uses, from the mapped features to buffers that exist already. Nothing
that delivers a block in new memory can be faster, with one reservation: where features are stored as float16, the
gather reads only half of what it writes, and the copy reads all of it.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import get_num_threads, njit, prange

from bench.source import Work
from loaders.plan import Block

TASK = "gather"
NEEDS = ("numba",)
BLOCKS = 48
SLOTS = 4  # buffers in turn: together larger than what stays in a last-level cache

_memcpy = ctypes.CDLL(None).memcpy
_memcpy.argtypes = [ctypes.c_size_t] * 3
_memcpy.restype = ctypes.c_size_t


@dataclass(frozen=True)
class State:
    work: Work
    source: npt.NDArray[np.uint8]  # [bytes] of the features
    slots: npt.NDArray[np.uint8]  # [SLOTS, bytes of the largest block]
    random: np.random.Generator


@contextmanager
def build(work: Work) -> Iterator[State]:
    """Buffers with all their pages present."""
    source = work.panel.features.reshape(-1).view(np.uint8)
    size = work.nbytes(Block(0, np.arange(work.codes)))
    slots = np.ones((SLOTS, size), np.uint8)
    yield State(work, source, slots, np.random.default_rng(0))


def run(state: State, blocks: list[Block]) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Yield, for each block, the offset in the features' bytes and the bytes copied from there."""
    for i, block in enumerate(blocks):
        size = state.work.nbytes(block)
        offset = int(state.random.integers(len(state.source) - size))
        target = state.slots[i % SLOTS, :size]
        _copy(target.ctypes.data, state.source.ctypes.data + offset, size, get_num_threads())
        yield offset, target


@njit(parallel=True, nogil=True)
def _copy(target: Any, source: Any, size: Any, pieces: Any) -> None:
    step = (size + pieces - 1) // pieces
    for i in prange(pieces):
        _memcpy(target + i * step, source + i * step, min(step, size - i * step))
