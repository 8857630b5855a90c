"""The data path from the mapped cache on the CPU (tier `host`), beside its rivals and the physical limit.

Each round times three passes over fresh random blocks, one after the other in this process: the peer's, a memory copy
of as many bytes, and ours. Medians over the rounds are compared, per sample. Afterwards the last block that was timed
is compared with its definition.

    bytes_per_s        bytes of the arrays delivered, per second
    ratio              the peer's time over ours
    limit_bytes_per_s  of the memory copy; share_of_limit is bytes_per_s over it
    peak_memory_bytes  that Python and NumPy allocate during a pass, the mapped cache not included
"""

import time
import tracemalloc
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.peers import missing_package, peer, peer_names
from bench.peers._dataloader import form
from bench.source import Work, fresh_blocks, touch, write_source
from loaders.gather import Batch, Slot, gather, new_slot
from loaders.panel import Panel, open_panel
from loaders.plan import Block, Plan
from loaders.prefetch import AHEAD, prefetched
from loaders.split import Days

LIMIT = "memcpy"
BLOCKS = 48  # of ours in a pass
ROUNDS = 15
DAYS = 2000
CODES_OF_BLOCK = 512
SLOTS = AHEAD + 2  # as in training: memory that exists already, more of it than a last-level cache holds


@dataclass(frozen=True)
class Source:
    """What is stored: `codes` x DAYS rows of `features`."""

    dtype: str
    codes: int
    features: int


SOURCES = [
    pytest.param(Source("float32", 600, 100), id="float32"),
    pytest.param(Source("float16", 1200, 100), id="float16"),
    pytest.param(Source("float32", 4484, 82), id="float32-9M", marks=pytest.mark.full),
    pytest.param(Source("float16", 4484, 82), id="float16-9M", marks=pytest.mark.full),
]
BLOCK_DAYS = [
    pytest.param(16, id="D16", marks=pytest.mark.full),
    pytest.param(64, id="D64"),
    pytest.param(256, id="D256", marks=pytest.mark.full),
]


@pytest.fixture(scope="module")
def panel(request: pytest.FixtureRequest) -> Iterator[Panel]:
    """The source as an open panel, every page read; its folder is removed afterwards."""
    source: Source = request.param
    with TemporaryDirectory(prefix="atft-bench-") as folder:
        panel = write_source(Path(folder), source.dtype, source.codes, DAYS, source.features)
        touch(panel)
        yield panel


@pytest.mark.parametrize("panel", SOURCES, indirect=True)
@pytest.mark.parametrize("block_days", BLOCK_DAYS)
@pytest.mark.parametrize("context", [20, 60], ids="L{}".format)
@pytest.mark.parametrize("name", peer_names("gather"), ids="host-{}".format)
def test_gather(benchmark: BenchmarkFixture, panel: Panel, block_days: int, context: int, name: str) -> None:
    lacking = missing_package(peer(name))
    if lacking is not None:
        pytest.skip(f"peer {name}: {lacking} is not installed")
    work = Work(panel, Days(context - 1, DAYS), block_days, CODES_OF_BLOCK, context)
    fresh = fresh_blocks(work)
    seconds: dict[str, list[float]] = {name: [], LIMIT: []}  # per sample
    samples: list[int] = []  # of our passes

    with ExitStack() as stack:
        states = {rival: stack.enter_context(peer(rival).build(work)) for rival in seconds}

        def before_round() -> tuple[tuple[list[Block]], dict[str, Any]]:
            for rival, state in states.items():
                blocks = list(islice(fresh, peer(rival).BLOCKS))
                start = time.perf_counter()
                last_of(peer(rival).run(state, blocks))
                seconds[rival].append((time.perf_counter() - start) / sum(map(work.samples, blocks)))
            blocks = list(islice(fresh, BLOCKS))
            samples.append(sum(map(work.samples, blocks)))
            return (blocks,), {}

        slots = [new_slot(panel, CODES_OF_BLOCK, block_days, context) for _ in range(SLOTS)]
        last = benchmark.pedantic(partial(ours, work, slots), setup=before_round, rounds=ROUNDS, warmup_rounds=1)

    expected = form(panel, work.part, last.block, work.days, work.context)
    np.testing.assert_array_equal(last.x, expected.x)
    np.testing.assert_array_equal(last.y, expected.y)
    assert last.samples == work.samples(last.block)
    if benchmark.stats is None:  # --benchmark-disable: run and checked once, not timed
        return
    timed = [t / n for t, n in zip(benchmark.stats.stats.data, samples[-ROUNDS:], strict=True)]
    mine, theirs, limit = (median(values[-ROUNDS:]) for values in (timed, seconds[name], seconds[LIMIT]))
    bytes_per_sample = work.nbytes(last.block) / work.samples(last.block)
    benchmark.extra_info.update(
        samples_per_s=1 / mine,
        bytes_per_s=bytes_per_sample / mine,
        peer=name,
        ratio=theirs / mine,
        limit_bytes_per_s=bytes_per_sample / limit,
        share_of_limit=limit / mine,
        peak_memory_bytes=peak_memory(partial(ours, work, slots, list(islice(fresh, BLOCKS)))),
    )


def ours(work: Work, slots: list[Slot], blocks: list[Block]) -> Batch:
    """Gather the blocks one after another into the slots in turn; give the last."""
    pairs = zip(blocks, cycle(slots), strict=False)
    return last_of(gather(work.panel, work.part, block, work.days, work.context, slot) for block, slot in pairs)


@pytest.mark.parametrize("panel", SOURCES, indirect=True)
@pytest.mark.parametrize("context", [20, 60], ids="L{}".format)
@pytest.mark.parametrize("tier", ["host"])
def test_first_block(benchmark: BenchmarkFixture, panel: Panel, context: int, tier: str) -> None:
    """From opening the folder to the first block of the second epoch, compiled code and the file's pages warm."""

    def first() -> int:
        opened = open_panel(panel.folder)
        part = Days(context - 1, DAYS)
        blocks = Plan(opened, part, 64, CODES_OF_BLOCK, seed=0).epoch(1)
        with prefetched(opened, part, blocks, 64, context, torch.device("cpu")) as loader:
            return next(iter(loader)).samples

    assert benchmark.pedantic(first, rounds=10, warmup_rounds=1) > 0
    benchmark.extra_info.update(peak_memory_bytes=peak_memory(partial(first)))


def last_of(batches: Iterable[Any]) -> Any:
    """Take all and keep the last, as a training loop does."""
    return deque(batches, maxlen=1).pop()


def peak_memory(call: partial[Any]) -> int:
    """Bytes allocated at the peak of a call, by Python and NumPy."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak
