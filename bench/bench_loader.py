"""Loading from the mapped cache, tier by tier, beside its peers and the physical limit.

Each round times three passes over fresh random blocks, one after the other in this process: the peer's, a memory copy
of as many bytes, and ours. Medians over the rounds are compared, per sample. After the rounds, one more pass of ours
measures its memory, and its last block is compared with the definition.

    bytes_per_s        bytes of the arrays delivered, per second
    ratio              the peer's time over ours
    limit_bytes_per_s  of the memory copy; share_of_limit is bytes_per_s over it
    peak_memory_bytes  anonymous memory that a pass adds; slots exist before it, except in `first_block`
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.measurement.clock import DEVICE, synchronise
from bench.measurement.memory import anonymous_memory
from bench.peers import Peer, installed_peer, load_peer, peer_names
from bench.workloads.arrays import form
from bench.workloads.loading import Loading, fresh_blocks, loading, touch, write_source
from loaders.batch import AHEAD, Batch, Slot, new_slot
from loaders.cache.manifest.model import Dtype
from loaders.errors import InputError
from loaders.gather import fill_block, fill_windows
from loaders.panel import Panel, open_panel
from loaders.plan import Block, Plan
from loaders.tiers.choose import Source, open_source

LIMIT = "memcpy"
BLOCKS = 48  # of ours in a pass
TIER_DAYS = 64  # of a block from a tier
WINDOW_DAYS = 8  # of a block of windows
ROUNDS = 15
CODES_OF_BLOCK = 512
SLOTS = AHEAD + 2  # as in training; together larger than a last-level cache
TIERS = ["ring", "resident", "mapped", "dali"] if DEVICE.type == "cuda" else ["host", "dali"]


@dataclass(frozen=True)
class Stored:
    """A cache: `codes` x `days` rows of `features`; its codes split evenly into blocks of CODES_OF_BLOCK or less."""

    dtype: Dtype
    codes: int
    days: int
    features: int


FLOAT32 = pytest.param(Stored("float32", 1024, 1172, 100), id="float32")
FLOAT16 = pytest.param(Stored("float16", 2048, 1172, 100), id="float16")
LARGE32 = pytest.param(Stored("float32", 4484, 2008, 82), id="float32-9M", marks=pytest.mark.full)
LARGE16 = pytest.param(Stored("float16", 4484, 2008, 82), id="float16-9M", marks=pytest.mark.full)
BLOCK_DAYS = [
    pytest.param(16, id="D16", marks=pytest.mark.full),
    pytest.param(64, id="D64"),
    pytest.param(256, id="D256", marks=pytest.mark.full),
]
CONTEXTS = pytest.mark.parametrize("context", [20, 60], ids="L{}".format)
EVERYWHERE = ["memcpy", "spawn", "spawn_blocks"]  # peers on every cache; the others on the small one of float32 alone


@pytest.fixture(scope="module")
def panel(request: pytest.FixtureRequest) -> Iterator[Panel]:
    """The open cache, every page read; its folder is removed at the end."""
    stored: Stored = request.param
    with TemporaryDirectory(prefix="atft-bench-") as folder:
        panel = write_source(Path(folder), stored.dtype, stored.codes, stored.days, stored.features)
        touch(panel)
        yield panel


@dataclass
class Rounds:
    """Passes of the peers and the limit, timed before each of ours."""

    work: Loading
    fresh: Iterator[Block]
    peers: dict[str, tuple[Peer, Any]]  # by name: the peer and its state
    seconds: dict[str, list[float]]  # per sample
    samples: list[int]  # of our passes

    def before(self, blocks: int) -> list[Block]:
        """Time the peers on fresh blocks, and return as many fresh ones for ours."""
        for name, (peer, state) in self.peers.items():
            given = list(islice(self.fresh, peer.BLOCKS))
            start = time.perf_counter()
            last_of(peer.run(state, given))
            self.seconds[name].append((time.perf_counter() - start) / sum(map(self.work.samples, given)))
        given = list(islice(self.fresh, blocks))
        self.samples.append(sum(map(self.work.samples, given)))
        return given


def compare(
    benchmark: BenchmarkFixture, work: Loading, names: list[str], blocks: int, ours: Any, nbytes: float, rounds: int
) -> Any:
    """Run the rounds, record the figures, and return the last delivery of one more pass of ours.

    Args:
        names: of the peers. The first is reported; LIMIT is one of them.
        ours: delivers a list of blocks, and returns the last delivery.
        nbytes: that ours delivers per sample.
    """
    with ExitStack() as stack:
        found = {name: load_peer(name) for name in names}
        peers = {name: (peer, stack.enter_context(peer.build(work))) for name, peer in found.items()}
        timed = Rounds(work, fresh_blocks(work), peers, {name: [] for name in names}, [])
        benchmark.pedantic(ours, setup=lambda: ((timed.before(blocks),), {}), rounds=rounds, warmup_rounds=1)
        fresh = list(islice(timed.fresh, blocks))
        before = anonymous_memory()
        last = ours(fresh)
        grown = max(anonymous_memory() - before, 0)
    if benchmark.stats is not None:  # None with --benchmark-disable: run and checked once, not timed
        mine = [t / n for t, n in zip(benchmark.stats.stats.data, timed.samples[-rounds:], strict=True)]
        theirs = {name: median(values[-rounds:]) for name, values in timed.seconds.items()}
        limit = theirs[LIMIT] * nbytes / work.bytes_per_sample
        benchmark.extra_info.update(
            samples_per_s=1 / median(mine),
            bytes_per_s=nbytes / median(mine),
            peer=names[0],
            ratio=theirs[names[0]] / median(mine),
            limit_bytes_per_s=nbytes / limit,
            share_of_limit=limit / median(mine),
            peak_memory_bytes=grown,
        )
    return last


@pytest.mark.parametrize("panel", [FLOAT32, FLOAT16, LARGE32, LARGE16], indirect=True)
@pytest.mark.parametrize("block_days", BLOCK_DAYS)
@CONTEXTS
@pytest.mark.parametrize("name", peer_names("gather"), ids="host-{}".format)
def test_gather(benchmark: BenchmarkFixture, panel: Panel, block_days: int, context: int, name: str) -> None:
    """The gather alone, into slots that exist."""
    skip_unless_measured(name, panel)
    work = loading(panel, block_days, CODES_OF_BLOCK, context)
    slots = [new_slot(panel, CODES_OF_BLOCK, block_days, context) for _ in range(SLOTS)]

    def ours(blocks: list[Block]) -> tuple[Block, Slot]:
        for block, slot in zip(blocks, cycle(slots), strict=False):
            fill_block(panel, work.part, block, context, slot)
        return block, slot

    block, slot = compare(benchmark, work, unique(name, LIMIT), BLOCKS, ours, work.bytes_per_sample, rounds_of(name))
    codes = len(block.codes)
    check(work, block, slot.x[:codes].numpy(), slot.y[:codes].numpy())


@pytest.mark.parametrize("panel", [FLOAT32], indirect=True)
@CONTEXTS
@pytest.mark.parametrize("name", ["spawn"], ids="host-{}".format)
def test_window(benchmark: BenchmarkFixture, panel: Panel, context: int, name: str) -> None:
    """The same samples as windows: a block's codes and days, each with its last L rows.

    Ours delivers them code by code, so that a window's rows are still in the processor's cache when the window of the
    next day reads them again; a day's windows are a strided view, x[day::WINDOW_DAYS]. The peer delivers day by day.
    """
    work = loading(panel, WINDOW_DAYS, CODES_OF_BLOCK, context)
    slots = [new_slot(panel, CODES_OF_BLOCK * WINDOW_DAYS, 1, context) for _ in range(2)]
    offsets = np.tile(np.arange(WINDOW_DAYS), CODES_OF_BLOCK)

    def ours(blocks: list[Block]) -> tuple[Block, Slot]:
        for block, slot in zip(blocks, cycle(slots), strict=False):
            codes = np.repeat(block.codes, WINDOW_DAYS)
            fill_windows(panel, work.part, codes, block.day + offsets, context, slot)
        return block, slot

    features, horizons = len(panel.manifest.features), len(panel.manifest.horizons)
    nbytes = context * (4 * features + 1) + 4 * horizons
    block, slot = compare(benchmark, work, unique(name, LIMIT), BLOCKS // 4, ours, nbytes, ROUNDS)
    for day in range(WINDOW_DAYS):
        expected = form(panel, work.part, Block(block.day + day, block.codes), 1, context)
        np.testing.assert_array_equal(slot.x[day::WINDOW_DAYS], expected.x)
        np.testing.assert_array_equal(slot.y[day::WINDOW_DAYS], expected.y)


@pytest.mark.parametrize("panel", [FLOAT32, FLOAT16, LARGE32, LARGE16], indirect=True)
@CONTEXTS
@pytest.mark.parametrize("tier", TIERS)
def test_tier(benchmark: BenchmarkFixture, panel: Panel, context: int, tier: Any) -> None:
    """A tier from end to end, prefetched; its consumer does nothing with the blocks."""
    work = loading(panel, TIER_DAYS, CODES_OF_BLOCK, context)
    with ExitStack() as stack:
        source = opened(stack, panel, tier)

        def ours(blocks: list[Block]) -> Batch:
            with source.load(work.request(blocks)) as loader:
                last: Batch = last_of(loader)
                synchronise()
                return last  # its memory stays the source's until the next load

        last = compare(benchmark, work, [LIMIT], BLOCKS, ours, work.bytes_per_sample, ROUNDS)
        check(work, last.block, last.x.cpu().numpy(), last.y.cpu().numpy())
        assert last.samples == work.samples(last.block)
    benchmark.extra_info["reason"] = source.reason


@pytest.mark.parametrize("panel", [FLOAT32, LARGE32, LARGE16], indirect=True)
@CONTEXTS
@pytest.mark.parametrize("tier", TIERS[:1])
def test_first_block(benchmark: BenchmarkFixture, panel: Panel, context: int, tier: Any) -> None:
    """From opening the folder to the first block of the second epoch; compiled code and the file's pages are in memory.

    The memory that it adds is measured in a new process, where no freed memory can be reused.
    """
    assert benchmark.pedantic(first_block, args=(panel.folder, context, tier), rounds=10, warmup_rounds=1) >= 0
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:
        alone.submit(first_block, panel.folder, 1, tier).result()  # loads compiled code
        grown = alone.submit(first_block, panel.folder, context, tier).result()
    benchmark.extra_info.update(peak_memory_bytes=grown)


def first_block(folder: Path, context: int, tier: Any) -> int:
    """Open a cache and take the first block. Returns the bytes of anonymous memory that this added."""
    before = anonymous_memory()
    work = loading(open_panel(folder), TIER_DAYS, CODES_OF_BLOCK, context)
    blocks = Plan(work.panel, work.part, work.days, work.codes, seed=0).epoch(1)
    with open_source(work.panel, DEVICE, tier) as source, source.load(work.request(blocks)) as loader:
        next(iter(loader))
        return anonymous_memory() - before


def opened(stack: ExitStack, panel: Panel, tier: Any) -> Source:
    """The panel on a tier; skips the running test, with the reason, where the tier is not possible."""
    try:
        return stack.enter_context(open_source(panel, DEVICE, tier))
    except InputError as error:
        pytest.skip(f"tier {tier}: {error.what}")


def skip_unless_measured(name: str, panel: Panel) -> None:
    """Skip a peer whose package is missing, or that is not measured on this cache."""
    installed_peer(name)
    if name not in EVERYWHERE and (panel.manifest.dtype == "float16" or panel.manifest.rows > 2_000_000):
        pytest.skip(f"peer {name} is measured on 1.2M rows of float32 alone")


def rounds_of(name: str) -> int:
    """Fewer rounds for a peer whose pass takes seconds."""
    return ROUNDS if name in EVERYWHERE else 5


def unique(*names: str) -> list[str]:
    """The names without repetition, in their order."""
    return list(dict.fromkeys(names))


def check(work: Loading, block: Block, x: Any, y: Any) -> None:
    """Compare a block's arrays with their definition; each code has a target on each day."""
    expected = form(work.panel, work.part, block, work.days, work.context)
    np.testing.assert_array_equal(x, expected.x)
    np.testing.assert_array_equal(y, expected.y)
    assert np.isfinite(y).any(2).sum() == work.samples(block)


def last_of(batches: Iterable[Any]) -> Any:
    """Take all and keep the last, like a training loop."""
    return deque(batches, maxlen=1).pop()
