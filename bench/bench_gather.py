"""Forming blocks from the mapped cache on the CPU (tier `host`), beside its rivals and the physical limit.

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
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.peers import missing_package, peer, peer_names
from bench.peers._dataloader import form
from bench.source import Work, fresh_blocks, touch, write_source
from loaders.gather import Batch, gather
from loaders.panel import Panel
from loaders.plan import Block
from loaders.split import Days

LIMIT = "memcpy"
BLOCKS = 48  # of ours in a pass
ROUNDS = 15
DAYS, FEATURES = 2000, 82
CODES_OF_BLOCK = 512


@dataclass(frozen=True)
class Source:
    """What is stored: `codes` x DAYS rows."""

    dtype: str
    codes: int


SOURCES = [
    pytest.param(Source("float32", 1500), id="float32"),
    pytest.param(Source("float16", 3000), id="float16"),
    pytest.param(Source("float32", 4484), id="float32-9M", marks=pytest.mark.full),
    pytest.param(Source("float16", 4484), id="float16-9M", marks=pytest.mark.full),
]
BLOCK_DAYS = [
    pytest.param(8, id="D8", marks=pytest.mark.full),
    pytest.param(32, id="D32"),
    pytest.param(128, id="D128", marks=pytest.mark.full),
]


@pytest.fixture(scope="module")
def panel(request: pytest.FixtureRequest) -> Iterator[Panel]:
    """The source as an open panel, every page read; its folder is removed afterwards."""
    source: Source = request.param
    with TemporaryDirectory(prefix="atft-bench-") as folder:
        panel = write_source(Path(folder), source.dtype, source.codes, DAYS, FEATURES)
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

        last = benchmark.pedantic(partial(ours, work), setup=before_round, rounds=ROUNDS, warmup_rounds=1)

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
        peak_memory_bytes=peak_memory(partial(ours, work, list(islice(fresh, BLOCKS)))),
    )


def ours(work: Work, blocks: list[Block]) -> Batch:
    """Gather the blocks one after another; give the last."""
    return last_of(gather(work.panel, work.part, block, work.days, work.context) for block in blocks)


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
