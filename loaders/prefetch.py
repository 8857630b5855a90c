"""Blocks ahead of their use: one thread forms them in reusable slots while the consumer computes.

    slots (ahead + 2) -> gather [producer thread] -> copy to the device [its own stream] -> consumer

A slot is filled again only when the consumer has asked for the block after it and, on a GPU, its copy has ended. There
are as many slots as ever blocks in flight: `ahead` ready ones, one being filled and one in use. So a slow consumer
holds the producer back, and memory does not grow. On a GPU slots are page-locked, and copies overlap both the gather of
the next block and the computation.

S codes, D scored days, L context, T = D + L - 1 days read, F features, H horizons
"""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numba
import torch
from torch import Tensor

from loaders.cores import Cores, usable_cores
from loaders.delivery import AHEAD, Loaded, Stages
from loaders.gather import Slot, gather
from loaders.panel import Panel
from loaders.plan import Block, count_samples, most_codes
from loaders.readahead import advise, read_ahead
from loaders.slots import Pool, cut, slot_bytes
from loaders.split import Days


@dataclass
class Loader:
    """Iterates over the blocks once, in their order."""

    _ready: "queue.SimpleQueue[_Filled | BaseException | None]"
    _free: "queue.SimpleQueue[_Place | None]"
    _poison: bool
    stages: Stages = field(default_factory=Stages)

    def __iter__(self) -> Iterator[Loaded]:
        """Raises what the producer raised, with its traceback, in the place of the block that failed."""
        while True:
            begun = time.perf_counter()
            filled = self._ready.get()
            given = time.perf_counter()
            self.stages.wait += given - begun
            if filled is None:
                return
            if isinstance(filled, BaseException):
                raise filled
            if filled.copied is not None:
                stream = torch.cuda.current_stream(filled.loaded.x.device)
                stream.wait_event(filled.copied)
                for tensor in (filled.loaded.x, filled.loaded.presence, filled.loaded.y):
                    tensor.record_stream(stream)  # their memory is not reused before the consumer's work has ended
            yield filled.loaded
            self.stages.use += time.perf_counter() - given
            if self._poison:
                filled.loaded.poison()
            self._free.put(filled.place)


@dataclass
class _Place:
    """A slot, and the end of the last copy out of it."""

    slot: Slot
    tensors: tuple[Tensor, Tensor, Tensor]
    copied: Any = None


@dataclass(frozen=True)
class _Filled:
    loaded: Loaded
    place: _Place
    copied: Any


@contextmanager
def prefetched(
    panel: Panel,
    part: Days,
    blocks: Sequence[Block],
    days: int,
    context: int,
    device: torch.device,
    ahead: int = AHEAD,
    poison: bool = False,
    cores: Cores | None = None,
    pool: Pool | None = None,
) -> Iterator[Loader]:
    """A loader of the blocks, whose thread has ended and whose slots are free when the block of this `with` ends.

    Args:
        part, days, context: as for `gather`.
        ahead: blocks that may wait for the consumer, 1 or more.
        poison: fill a block with NaN as soon as its lifetime ends, to find users that keep one (tests).
        cores: how many threads gather; None: all usable ones.
        pool: memory for slots; None: new memory.
    """
    threads = (cores or usable_cores()).threads
    pool = pool or Pool(locked=device.type == "cuda")
    codes = most_codes(blocks)
    pieces = pool.take(slot_bytes(panel, codes, days, context), min(ahead + 2, len(blocks)))
    places = [_place(piece, panel, codes, days, context) for piece in pieces]
    ready: queue.SimpleQueue[_Filled | BaseException | None] = queue.SimpleQueue()
    free: queue.SimpleQueue[_Place | None] = queue.SimpleQueue()
    for place in places:
        free.put(place)
    loader = Loader(ready, free, poison)
    stopped = threading.Event()
    cold, _ = read_ahead(panel)

    def produce() -> None:
        try:
            numba.set_num_threads(min(threads, numba.get_num_threads()))
            stream = torch.cuda.Stream(device) if device.type == "cuda" else None
            for i in range(len(blocks)):
                begun = time.perf_counter()
                place = free.get()
                loader.stages.held_back += time.perf_counter() - begun
                if stopped.is_set() or place is None:
                    return
                if cold:
                    begun = time.perf_counter()
                    for coming in blocks[i + ahead * (i > 0) : i + ahead + 1]:
                        advise(panel, coming, days, context)
                    loader.stages.read += time.perf_counter() - begun
                panel.check_unchanged()
                ready.put(_fill(panel, part, blocks[i], days, context, device, place, stream, loader.stages))
            ready.put(None)
        except BaseException as error:  # re-raised in the consumer's thread
            ready.put(error)

    producer = threading.Thread(target=produce, name="prefetch", daemon=True)
    producer.start()
    try:
        yield loader
    finally:
        stopped.set()
        free.put(None)
        producer.join()
        if device.type == "cuda":
            for place in places:
                if place.copied is not None:
                    place.copied.synchronize()
        pool.give(pieces)


def _place(piece: Tensor, panel: Panel, codes: int, days: int, context: int) -> _Place:
    x, presence, y = cut(piece, panel, codes, days, context)
    return _Place(Slot(x.numpy(), presence.numpy(), y.numpy()), (x, presence, y))


def _fill(
    panel: Panel, part: Days, block: Block, days: int, context: int, device: torch.device, place: _Place, stream: Any,
    stages: Stages,
) -> _Filled:  # fmt: skip
    """Form a block in a slot and, on a GPU, begin its copy."""
    begun = time.perf_counter()
    if place.copied is not None:
        place.copied.synchronize()
    copied_at = time.perf_counter()
    gather(panel, part, block, days, context, place.slot)
    samples, n = count_samples(panel, part, block, days), len(block.codes)
    stages.copy += copied_at - begun
    stages.gather += time.perf_counter() - copied_at
    tensors = [tensor[:n] for tensor in place.tensors]
    if stream is not None:
        with torch.cuda.stream(stream):
            tensors = [tensor.to(device, non_blocking=True) for tensor in tensors]
            place.copied = stream.record_event()
    return _Filled(Loaded(tensors[0], tensors[1], tensors[2], block, samples), place, place.copied)
