"""The data path from the mapped cache, tier by tier, beside its rivals and the physical limit.

Each round times three passes over fresh random blocks, one after the other in this process: the peer's, a memory copy
of as many bytes, and ours. Medians over the rounds are compared, per sample. Afterwards one more pass of ours is looked
at: what memory it adds, and whether its last block is what the definition says.

    bytes_per_s        bytes of the arrays delivered, per second
    ratio              the peer's time over ours
    limit_bytes_per_s  of the memory copy; share_of_limit is bytes_per_s over it
    peak_memory_bytes  anonymous memory that a pass adds; slots exist already, but for the first block
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
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.peers import missing_package, peer, peer_names
from bench.peers._dataloader import form
from bench.source import Work, fresh_blocks, touch, write_source
from loaders.batch import AHEAD
from loaders.errors import InputError
from loaders.gather import gather, gather_windows, new_slot
from loaders.panel import Panel, open_panel
from loaders.plan import Block, Plan
from loaders.split import Days
from loaders.tiers.choose import Source, open_source

LIMIT = "memcpy"
BLOCKS = 48  # of ours in a pass
WINDOW_DAYS = 8  # of a block of windows
ROUNDS = 15
CODES_OF_BLOCK = 512
SLOTS = AHEAD + 2  # as in training: memory that exists already, more of it than a last-level cache holds
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TIERS = ["ring", "resident", "mapped", "dali"] if DEVICE.type == "cuda" else ["host", "dali"]


@dataclass(frozen=True)
class Stored:
    """What is stored: `codes` x `days` rows of `features`; the codes deal evenly into blocks of CODES_OF_BLOCK."""

    dtype: str
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
OURS = ["memcpy", "spawn", "spawn_blocks"]  # beside every source; the other rivals beside float32 alone


@pytest.fixture(scope="module")
def panel(request: pytest.FixtureRequest) -> Iterator[Panel]:
    """The source as an open panel, every page read; its folder is removed afterwards."""
    stored: Stored = request.param
    with TemporaryDirectory(prefix="atft-bench-") as folder:
        panel = write_source(Path(folder), stored.dtype, stored.codes, stored.days, stored.features)
        touch(panel)
        yield panel


@dataclass
class Rounds:
    """Passes of the rivals and the limit, timed before each of ours."""

    work: Work
    fresh: Iterator[Block]
    states: dict[str, Any]
    seconds: dict[str, list[float]]  # per sample
    samples: list[int]  # of our passes

    def before(self, blocks: int) -> list[Block]:
        """Time the rivals on fresh blocks, and give as many fresh ones for ours."""
        for rival, state in self.states.items():
            given = list(islice(self.fresh, peer(rival).BLOCKS))
            start = time.perf_counter()
            last_of(peer(rival).run(state, given))
            self.seconds[rival].append((time.perf_counter() - start) / sum(map(self.work.samples, given)))
        given = list(islice(self.fresh, blocks))
        self.samples.append(sum(map(self.work.samples, given)))
        return given


def compare(
    benchmark: BenchmarkFixture, work: Work, rivals: list[str], blocks: int, ours: Any, nbytes: float, rounds: int
) -> Any:
    """Run the rounds, tell the figures, and give what one more pass of ours delivered last.

    Args:
        ours: delivers a list of blocks, and gives the last.
        nbytes: that ours delivers per sample.
    """
    with ExitStack() as stack:
        states = {rival: stack.enter_context(peer(rival).build(work)) for rival in rivals}
        timed = Rounds(work, fresh_blocks(work), states, {rival: [] for rival in rivals}, [])
        benchmark.pedantic(ours, setup=lambda: ((timed.before(blocks),), {}), rounds=rounds, warmup_rounds=1)
        fresh = list(islice(timed.fresh, blocks))
        before = anonymous_memory()
        last = ours(fresh)
        grown = max(anonymous_memory() - before, 0)
    if benchmark.stats is not None:  # None: --benchmark-disable, run and checked once, not timed
        mine = [t / n for t, n in zip(benchmark.stats.stats.data, timed.samples[-rounds:], strict=True)]
        theirs = {rival: median(values[-rounds:]) for rival, values in timed.seconds.items()}
        limit = theirs[LIMIT] * nbytes / (work.nbytes(last_block(work)) / work.samples(last_block(work)))
        benchmark.extra_info.update(
            samples_per_s=1 / median(mine),
            bytes_per_s=nbytes / median(mine),
            peer=rivals[0],
            ratio=theirs[rivals[0]] / median(mine),
            limit_bytes_per_s=nbytes / limit,
            share_of_limit=limit / median(mine),
            peak_memory_bytes=grown,
        )
    return last


def last_block(work: Work) -> Block:
    """A block of full size."""
    return Block(work.part.start, np.arange(work.codes))


@pytest.mark.parametrize("panel", [FLOAT32, FLOAT16, LARGE32, LARGE16], indirect=True)
@pytest.mark.parametrize("block_days", BLOCK_DAYS)
@CONTEXTS
@pytest.mark.parametrize("name", peer_names("gather"), ids="host-{}".format)
def test_gather(benchmark: BenchmarkFixture, panel: Panel, block_days: int, context: int, name: str) -> None:
    """The gather alone, into slots that exist."""
    skip_without(name, panel)
    work = Work(panel, Days(context - 1, len(panel.calendar)), block_days, CODES_OF_BLOCK, context)
    slots = [new_slot(panel, CODES_OF_BLOCK, block_days, context) for _ in range(SLOTS)]

    def ours(blocks: list[Block]) -> Any:
        pairs = zip(blocks, cycle(slots), strict=False)
        return last_of(gather(panel, work.part, block, block_days, context, slot) for block, slot in pairs)

    nbytes = work.nbytes(last_block(work)) / work.samples(last_block(work))
    last = compare(benchmark, work, unique(name, LIMIT), BLOCKS, ours, nbytes, rounds_of(name))
    check(work, last.block, last.x, last.y)
    assert last.samples == work.samples(last.block)


@pytest.mark.parametrize("panel", [FLOAT32], indirect=True)
@CONTEXTS
@pytest.mark.parametrize("name", ["spawn"], ids="host-{}".format)
def test_window(benchmark: BenchmarkFixture, panel: Panel, context: int, name: str) -> None:
    """Windows for who needs them: a block's codes and days, each with its last L rows.

    Ours delivers them code by code, so that a window's rows are still in the processor's cache when the next one, a day
    later, reads them again; a day's windows are a strided view, x[day::WINDOW_DAYS]. The rival delivers day by day.
    """
    work = Work(panel, Days(context - 1, len(panel.calendar)), WINDOW_DAYS, CODES_OF_BLOCK, context)
    slots = [new_slot(panel, CODES_OF_BLOCK * WINDOW_DAYS, 1, context) for _ in range(2)]
    offsets = np.tile(np.arange(WINDOW_DAYS), CODES_OF_BLOCK)

    def ours(blocks: list[Block]) -> Any:
        return last_of(
            (
                block,
                gather_windows(panel, work.part, np.repeat(block.codes, WINDOW_DAYS), block.day + offsets, context, to),
            )
            for block, to in zip(blocks, cycle(slots), strict=False)
        )

    features, horizons = len(panel.manifest.features), len(panel.manifest.horizons)
    nbytes = context * (4 * features + 1) + 4 * horizons
    block, last = compare(benchmark, work, unique(name, LIMIT), BLOCKS // 4, ours, nbytes, ROUNDS)
    for day in range(WINDOW_DAYS):
        expected = form(panel, work.part, Block(block.day + day, block.codes), 1, context)
        np.testing.assert_array_equal(last.x[day::WINDOW_DAYS], expected.x)
        np.testing.assert_array_equal(last.y[day::WINDOW_DAYS], expected.y)


@pytest.mark.parametrize("panel", [FLOAT32, FLOAT16, LARGE32, LARGE16], indirect=True)
@CONTEXTS
@pytest.mark.parametrize("tier", TIERS)
def test_tier(benchmark: BenchmarkFixture, panel: Panel, context: int, tier: Any) -> None:
    """A tier from end to end, prefetched, its consumer doing nothing with the blocks."""
    work = Work(panel, Days(context - 1, len(panel.calendar)), 64, CODES_OF_BLOCK, context)
    with ExitStack() as stack:
        source = opened(stack, panel, tier)

        def ours(blocks: list[Block]) -> Any:
            with source.load(work.part, blocks, 64, context) as loader:
                last = last_of(loader)
                if DEVICE.type == "cuda":
                    torch.cuda.synchronize()
                return last  # its memory stays the source's until the next load

        nbytes = work.nbytes(last_block(work)) / work.samples(last_block(work))
        last = compare(benchmark, work, [LIMIT], BLOCKS, ours, nbytes, ROUNDS)
        check(work, last.block, last.x.cpu().numpy(), last.y.cpu().numpy())
        assert last.samples == work.samples(last.block)
    benchmark.extra_info["reason"] = source.reason


@pytest.mark.parametrize("panel", [FLOAT32, LARGE32, LARGE16], indirect=True)
@CONTEXTS
@pytest.mark.parametrize("tier", TIERS[:1])
def test_first_block(benchmark: BenchmarkFixture, panel: Panel, context: int, tier: Any) -> None:
    """From opening the folder to the first block of the second epoch, compiled code and the file's pages warm.

    The memory that it adds is that of a process of its own, in which nothing was allocated and freed before.
    """
    assert benchmark.pedantic(first_block, args=(panel.folder, context, tier), rounds=10, warmup_rounds=1) >= 0
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:
        alone.submit(first_block, panel.folder, 1, tier).result()  # compiled code is loaded
        grown = alone.submit(first_block, panel.folder, context, tier).result()
    benchmark.extra_info.update(peak_memory_bytes=grown)


def first_block(folder: Path, context: int, tier: Any) -> int:
    """Open a cache, take the first block, and give the anonymous memory that this has added."""
    before = anonymous_memory()
    panel = open_panel(folder)
    part = Days(context - 1, len(panel.calendar))
    blocks = Plan(panel, part, 64, CODES_OF_BLOCK, seed=0).epoch(1)
    with open_source(panel, DEVICE, tier) as source, source.load(part, blocks, 64, context) as loader:
        next(iter(loader))
        return anonymous_memory() - before


def opened(stack: ExitStack, panel: Panel, tier: Any) -> Source:
    """The panel on a tier, or the test skipped with the reason."""
    try:
        return stack.enter_context(open_source(panel, DEVICE, tier))
    except InputError as error:
        pytest.skip(f"tier {tier}: {error.what}")


def skip_without(name: str, panel: Panel) -> None:
    """Skip a rival whose package is missing, and all but ours beside the other sources."""
    lacking = missing_package(peer(name))
    if lacking is not None:
        pytest.skip(f"peer {name}: {lacking} is not installed")
    if name not in OURS and (panel.manifest.dtype == "float16" or panel.manifest.rows > 2_000_000):
        pytest.skip(f"peer {name} is measured beside 1.2M rows of float32 alone")


def rounds_of(name: str) -> int:
    """Fewer rounds of a rival that takes seconds for a pass."""
    return ROUNDS if name in OURS else 5


def unique(*names: str) -> list[str]:
    """The names without repetition, in their order."""
    return list(dict.fromkeys(names))


def check(work: Work, block: Block, x: Any, y: Any) -> None:
    """Compare a block's arrays with its definition."""
    expected = form(work.panel, work.part, block, work.days, work.context)
    np.testing.assert_array_equal(x, expected.x)
    np.testing.assert_array_equal(y, expected.y)


def last_of(batches: Iterable[Any]) -> Any:
    """Take all and keep the last, as a training loop does."""
    return deque(batches, maxlen=1).pop()


def anonymous_memory() -> int:
    """Bytes of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
