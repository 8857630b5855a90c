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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numba
import torch

from loaders.batch import Batch, Request, Slot, Stages
from loaders.gather import fill_block
from loaders.panel import Panel
from loaders.plan import Block, count_samples, most_codes
from loaders.tiers.cores import Cores, usable_cores
from loaders.tiers.device_wait import DeviceWait
from loaders.tiers.readahead import advise, read_ahead
from loaders.tiers.slots import Pool, slot_bytes, slot_in

Ready = tuple[Batch, Slot]  # a block on its device, and the slot that it was formed in


@dataclass
class PrefetchLoader:
    """Iterates over the blocks once, in their order."""

    _ready: "queue.SimpleQueue[Ready | BaseException | None]"
    _free: "queue.SimpleQueue[Slot | None]"
    _poison: bool
    _device: torch.device
    stages: Stages = field(default_factory=Stages)
    device_wait: DeviceWait = field(init=False)

    def __post_init__(self) -> None:
        self.device_wait = DeviceWait(self.stages)

    def __iter__(self) -> Iterator[Batch]:
        """Raises what the producer raised, with its traceback, in the place of the block that failed."""
        while True:
            ready = self._next_on_device() if self._device.type == "cuda" else self._next()
            given = time.perf_counter()
            if ready is None:
                return
            if isinstance(ready, BaseException):
                raise ready
            batch, slot = ready
            yield batch
            self.stages.use += time.perf_counter() - given
            if self._poison:
                batch.poison()
            self._free.put(slot)

    def _next(self) -> "Ready | BaseException | None":
        begun = time.perf_counter()
        ready = self._ready.get()
        self.stages.wait += time.perf_counter() - begun
        return ready

    def _next_on_device(self) -> "Ready | BaseException | None":
        """The same for a stream, which goes on when the block has been copied."""
        self.device_wait.read()
        stream = torch.cuda.current_stream(self._device)
        with self.device_wait.on(stream):
            ready = self._ready.get()
            if isinstance(ready, tuple):
                batch, slot = ready
                stream.wait_event(slot.busy)
                for tensor in (batch.x, batch.presence, batch.y):
                    tensor.record_stream(stream)  # their memory is not reused before the consumer's work has ended
        return ready


@contextmanager
def prefetched(
    panel: Panel, request: Request, device: torch.device, cores: Cores | None = None, pool: Pool | None = None
) -> Iterator[PrefetchLoader]:
    """A loader of the request's blocks, whose thread has ended and whose slots are free when the `with` ends.

    Args:
        cores: how many threads gather; None: all usable ones.
        pool: memory for slots; None: new memory.
    """
    threads = (cores or usable_cores()).threads
    pool = pool or Pool(locked=device.type == "cuda")
    blocks, ahead = request.blocks, request.ahead
    shape = (panel, most_codes(blocks), request.days, request.context)
    pieces = pool.take(slot_bytes(*shape), min(ahead + 2, len(blocks)))
    slots = [slot_in(piece, *shape) for piece in pieces]
    ready: queue.SimpleQueue[Ready | BaseException | None] = queue.SimpleQueue()
    free: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()
    for slot in slots:
        free.put(slot)
    loader = PrefetchLoader(ready, free, request.poison, device)
    stopped = threading.Event()
    cold, _ = read_ahead(panel)

    def produce() -> None:
        try:
            numba.set_num_threads(min(threads, numba.get_num_threads()))
            stream = torch.cuda.Stream(device) if device.type == "cuda" else None
            for i, block in enumerate(blocks):
                begun = time.perf_counter()
                slot = free.get()
                loader.stages.blocked += time.perf_counter() - begun
                if stopped.is_set() or slot is None:
                    return
                if cold:
                    begun = time.perf_counter()
                    for coming in blocks[i + ahead * (i > 0) : i + ahead + 1]:
                        advise(panel, coming, request.days, request.context)
                    loader.stages.read += time.perf_counter() - begun
                panel.check_unchanged()
                ready.put((_form(panel, request, block, device, slot, stream, loader.stages), slot))
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
        for slot in slots:
            if slot.busy is not None:
                slot.busy.synchronize()
        loader.device_wait.read()
        pool.give(pieces)


def _form(
    panel: Panel, request: Request, block: Block, device: torch.device, slot: Slot, stream: Any, stages: Stages
) -> Batch:
    """Form a block in a slot and, on a GPU, begin its copy."""
    begun = time.perf_counter()
    if slot.busy is not None:
        slot.busy.synchronize()
    free_at = time.perf_counter()
    fill_block(panel, request.part, block, request.context, slot)
    batch = slot.batch(block, count_samples(panel, request.part, block, request.days))
    stages.copy += free_at - begun
    stages.gather += time.perf_counter() - free_at
    if stream is None:
        return batch
    with torch.cuda.stream(stream):
        x, presence, y = (tensor.to(device, non_blocking=True) for tensor in (batch.x, batch.presence, batch.y))
        slot.busy = stream.record_event()
    return Batch(x, presence, y, block, batch.samples)
