"""Blocks through an NVIDIA DALI pipeline: our loader is its source, its queue prefetches, its iterator delivers.

    slots <- gather [our thread] -> external_source -> prefetch queue (-> copy to the GPU) -> iterator -> consumer

For work that lives in DALI already. DALI calls a source from the thread that asks it for a block, so the gather stays
in the thread of prefetch.py, and DALI copies each block out of its slot: once more than the tiers `host` and `ring` do,
which is why this tier is never chosen by itself.

S codes, D scored days, L context, T = D + L - 1 days read, F features, H horizons
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy.typing as npt
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.pytorch import DALIGenericIterator

from loaders.batch import Batch, Request, Stages
from loaders.panel import Panel
from loaders.tiers.cores import Cores
from loaders.tiers.prefetch import PrefetchLoader, prefetched
from loaders.tiers.slots import Pool

ARRAYS = {"x": (types.FLOAT, 3), "presence": (types.UINT8, 2), "y": (types.FLOAT, 3)}  # type and dimensions


@dataclass
class DaliLoader:
    """Iterates over the blocks once, in their order."""

    loader: PrefetchLoader
    request: Request
    device: torch.device
    stages: Stages = field(default_factory=Stages)

    def __iter__(self) -> Iterator[Batch]:
        entered: deque[Batch] = deque()  # what the pipeline holds; the tensors in there are slots, used again by now
        failure: list[BaseException] = []
        blocks = iter(self.loader)

        def next_arrays(_: Any) -> tuple[npt.NDArray[Any], ...]:
            # The pipeline runs ahead: an error must not overtake the blocks before it.
            try:
                batch = None if failure else next(blocks, None)
            except BaseException as error:
                failure.append(error)
                batch = None
            if batch is None:
                raise StopIteration
            entered.append(batch)
            return tuple(getattr(batch, name).numpy() for name in ARRAYS)

        pipeline = _pipeline(next_arrays, self.device, self.request.ahead)
        iterator = DALIGenericIterator([pipeline], list(ARRAYS), prepare_first_batch=False)
        while True:
            begun = time.perf_counter()
            arrays = next(iterator, None)
            given = time.perf_counter()
            self.stages.wait += given - begun
            if arrays is None:
                break
            source = entered.popleft()
            tensors = [arrays[0][name][0] for name in ARRAYS]
            batch = Batch(tensors[0], tensors[1], tensors[2], source.block, source.samples)
            yield batch
            self.stages.use += time.perf_counter() - given
            self.stages.gather = self.loader.stages.gather
            self.stages.blocked = self.loader.stages.blocked
            if self.request.poison:
                batch.poison()
        if failure:
            raise failure[0]


def _pipeline(next_arrays: Any, device: torch.device, ahead: int) -> Any:
    """A built pipeline whose only operator is the source; one block is one sample of a batch of one."""
    cuda = device.type == "cuda"

    @pipeline_def
    def blocks() -> Any:
        arrays = fn.external_source(
            source=next_arrays, num_outputs=len(ARRAYS), batch=False,
            dtype=[kind for kind, _ in ARRAYS.values()], ndim=[n for _, n in ARRAYS.values()],
        )  # fmt: skip
        return tuple(array.gpu() if cuda else array for array in arrays)

    index = None if not cuda else torch.cuda.current_device() if device.index is None else device.index
    pipeline = blocks(batch_size=1, num_threads=1, device_id=index, prefetch_queue_depth=max(ahead, 1))
    pipeline.build()
    return pipeline


@contextmanager
def piped(
    panel: Panel, request: Request, device: torch.device, cores: Cores | None = None, pool: Pool | None = None
) -> Iterator[DaliLoader]:
    """A loader of the request's blocks through a DALI pipeline; arguments as for `prefetched`."""
    on_host = replace(request, poison=False)  # DALI has copied a slot by the time that it is used again
    with prefetched(panel, on_host, torch.device("cpu"), cores, pool) as loader:
        yield DaliLoader(loader, request, device)
