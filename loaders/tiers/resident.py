"""Blocks formed on the device itself, from rows that it can read: its own memory (`resident`) or locked host memory.

    rows the device can read -> Triton gather [its own stream] -> slots (ahead + 2), made once -> consumer

No thread and no copy per block: launching a gather takes microseconds, so the consumer's own thread keeps `ahead` of
them on their way. A slot is filled again when the work that the consumer had queued on it has ended, which the device
checks, not the host. Only the numbers of a block's codes travel.

S codes, D scored days, L context, T = D + L - 1 days read, F features, H horizons
"""

import ctypes
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.block_gather import gather_block
from loaders.batch import Batch, Request, Slot, Stages
from loaders.cache.format import SCORED
from loaders.panel import Int, Panel
from loaders.plan import Block, count_samples, most_codes
from loaders.tiers.device_wait import DeviceWait
from loaders.tiers.slots import slot_bytes, slot_in

STAGING_BYTES = 64 << 20  # of each of the two page-locked buffers that rows pass through on their way to the device


@dataclass(frozen=True)
class Rows:
    """Where a device finds the rows of every code: tensors of that device."""

    address: Tensor  # int64 [3, C] of each code's first row: features, targets, presence
    first: Tensor  # int64 [C]
    days: Tensor  # int64 [C]
    memory: tuple[Tensor, ...] = ()  # holds the rows, where they are the device's own
    upload: "Future[None] | None" = None  # that fills this memory

    def wait(self) -> float:
        """Until all rows are there; gives the seconds that took. Raises what the upload raised."""
        if self.upload is None:
            return 0.0
        begun = time.perf_counter()
        self.upload.result()
        return time.perf_counter() - begun


def locked_rows(panel: Panel, address: Int, device: torch.device) -> Rows:
    """Rows that stay in host memory, at the given addresses int64 [3, C]."""
    address_, first, days = (torch.from_numpy(a.copy()).to(device) for a in (address, panel.first, panel.days))
    return Rows(address_, first, days)


@contextmanager
def resident_rows(panel: Panel, device: torch.device) -> Iterator[Rows]:
    """Upload all rows, once, through page-locked buffers; costs their bytes of device memory.

    A thread does so beside what else has to be done before the first block is asked for. It ends with the `with`.
    """
    arrays = [array for c in panel.batches for array in (c.features, c.targets, c.presence)]
    memory = tuple(torch.empty(array.nbytes, dtype=torch.uint8, device=device) for array in arrays)
    sources = [array.ctypes.data for array in arrays]
    moves = [(source, len(tensor), tensor.data_ptr()) for source, tensor in zip(sources, memory, strict=True)]
    rows = locked_rows(panel, panel.moved(moves), device)
    with ThreadPoolExecutor(1, "upload") as thread:
        yield replace(rows, memory=memory, upload=thread.submit(_upload_all, sources, memory))


def _upload_all(sources: list[int], targets: tuple[Tensor, ...]) -> None:
    for source, target in zip(sources, targets, strict=True):
        _upload(source, target)


def _upload(source: int, target: Tensor) -> None:
    """Copy bytes at an address into a tensor of the device. The source may be an unregistered mapping, from which a
    device copies at a fraction of its speed: so the host fills one locked buffer while the device empties the other."""
    cuda = target.device.type == "cuda"
    buffers = [torch.empty(min(STAGING_BYTES, len(target)), dtype=torch.uint8, pin_memory=cuda) for _ in range(2)]
    copied: list[Any] = [None, None]
    stream = torch.cuda.Stream(target.device) if cuda else None
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream(target.device))  # the target's memory may still be in use there
    with nullcontext() if stream is None else torch.cuda.stream(stream):
        for i, at in enumerate(range(0, len(target), STAGING_BYTES)):
            n, turn = min(STAGING_BYTES, len(target) - at), i % 2
            if copied[turn] is not None:
                copied[turn].synchronize()
            ctypes.memmove(buffers[turn].data_ptr(), source + at, n)
            target[at : at + n].copy_(buffers[turn][:n], non_blocking=cuda)
            copied[turn] = None if stream is None else stream.record_event()
    if stream is not None:
        stream.synchronize()


@dataclass
class DeviceLoader:
    """Iterates over the blocks once, in their order."""

    panel: Panel
    request: Request
    device: torch.device
    rows: Rows
    stages: Stages = field(default_factory=Stages)
    device_wait: DeviceWait = field(init=False)

    def __post_init__(self) -> None:
        self.device_wait = DeviceWait(self.stages)

    def __iter__(self) -> Iterator[Batch]:
        request, cuda = self.request, self.device.type == "cuda"
        self.stages.wait += self.rows.wait()
        shape = (self.panel, most_codes(request.blocks), request.days, request.context)
        pieces = [
            torch.empty(slot_bytes(*shape), dtype=torch.uint8, device=self.device)
            for _ in range(min(request.ahead + 2, len(request.blocks)))
        ]
        stream = torch.cuda.Stream(self.device) if cuda else None
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream(self.device))  # the slots' memory may still be in use there
        launched: deque[tuple[Batch, Slot, Any]] = deque()
        free = deque(slot_in(piece, *shape) for piece in pieces)
        coming = iter(request.blocks)
        failure: Exception | None = None
        while True:
            begun = time.perf_counter()
            while free and failure is None and (block := next(coming, None)) is not None:
                try:
                    launched.append(self._launch(block, free.popleft(), stream))
                except Exception as error:  # raised when the blocks before it have been delivered
                    failure = error
            if not launched:
                if failure is not None:
                    raise failure
                return
            batch, slot, formed = launched.popleft()
            given = time.perf_counter()
            self.stages.gather += given - begun
            if formed is None:
                self.stages.wait += given - begun
            else:
                self.device_wait.read()
                consumer = torch.cuda.current_stream(self.device)
                with self.device_wait.on(consumer):
                    consumer.wait_event(formed)
            yield batch
            used = time.perf_counter() - given
            self.stages.use += used
            self.stages.blocked += used  # every slot was taken
            if request.poison:
                batch.poison()
            if cuda:
                slot.busy = torch.cuda.current_stream(self.device).record_event()
            free.append(slot)

    def _launch(self, block: Block, slot: Slot, stream: Any) -> tuple[Batch, Slot, Any]:
        """Queue the forming of a block, after the last use of its slot."""
        self.panel.check_unchanged()
        request, rows = self.request, self.rows
        batch = slot.batch(block, count_samples(self.panel, request.part, block, request.days))
        with nullcontext() if stream is None else torch.cuda.stream(stream):
            if slot.busy is not None:
                stream.wait_event(slot.busy)
            # Some kilobytes from ordinary memory: the driver takes its own copy before the call returns.
            codes = torch.from_numpy(np.ascontiguousarray(block.codes)).to(self.device, non_blocking=True)
            gather_block(
                rows.address, rows.first, rows.days, self.panel.half, codes, block.day,
                request.context, (request.part.start, request.part.stop), SCORED, batch.x, batch.presence, batch.y,
            )  # fmt: skip
            formed = None if stream is None else stream.record_event()
        return batch, slot, formed


@contextmanager
def gathered(panel: Panel, request: Request, device: torch.device, rows: Rows) -> Iterator[DeviceLoader]:
    """A loader that forms the request's blocks on the device, from `rows`."""
    loader = DeviceLoader(panel, request, device, rows)
    try:
        yield loader
    finally:
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # nothing reads rows or slots any more when they are released
            loader.device_wait.read()
