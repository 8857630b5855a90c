"""The training step beside its peers and the physical limit, by model size, context and shape of the block.

Each round times, one after the other in this process and on fresh random blocks, a step of the peer, matrix products
as the limit, and a step of ours. Medians over the rounds are compared, per sample, since a peer may take smaller steps
than ours. Every code is present and has a target on every day.

    samples_per_s          D S of a block over the time of a step
    ratio                  the peer's time over ours
    flops_per_s            floating-point operations of the model's matrix products, forward and backward, per second
    limit_flops_per_s      of a product of two large matrices; share_of_limit is flops_per_s over it
    peak_memory_bytes      that a step adds at its peak; peer_peak_memory_bytes likewise
    wait_share, ...        of the time of a pass, see test_breakdown

S codes, D scored days, L context, T = D + L - 1 days read, F features, H horizons
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.measurement.clock import DEVICE, synchronise, timed
from bench.measurement.limits import PRODUCT_FLOPS, products
from bench.measurement.memory import peak_memory
from bench.peers import installed_peer, peer_names
from bench.peers.training import window
from bench.workloads.arrays import Arrays
from bench.workloads.loading import fresh_blocks, loading, touch, write_source
from bench.workloads.training import HORIZONS, RATE, Step, Training, flops_of, fresh_arrays, our_step, training
from engine.training.objective import draw_rotations, make_objective
from loaders.batch import Stages
from loaders.panel import Panel
from loaders.plan import Block
from loaders.tiers.choose import open_source

FEATURES = 59
DAYS, CODES = 32, 64  # of a block by default
# The model `tiny` without its static branch, and with a static branch that sees one day: windows compute it only once.
TEMPORAL, DAILY = "temporal", "daily"
CHANGES = {TEMPORAL: "model.static=false", DAILY: "model.convolution=off"}
ROUNDS = 5
PEER_ROUNDS = 3  # a step of a peer takes seconds
LOADED = 4  # blocks of a pass of test_breakdown
EQUAL = 1e-5  # scores by blocks and by windows
LARGE = pytest.mark.full
PARTS = ("wait", "forward", "loss", "backward", "optimizer")  # of a step, one after the other
BESIDE = ("gather", "copy")  # of the loader, at the same time


def cases(*given: tuple[Any, ...], default: int) -> list[Any]:
    """Test cases named by their values; all but the first `default` are large."""
    return [
        pytest.param(*values, id="-".join(map(str, values)), marks=() if i < default else LARGE)
        for i, values in enumerate(given)
    ]


STEPS = cases(
    ("tiny", "L20"), ("tiny", "L60"), ("small", "L20"), ("small", "L60"), ("base", "L20"), ("base", "L60"), default=5
)  # fmt: skip
SHAPES = [(f"D{days}", f"S{codes}") for days in (16, 32, 64, 128, 256) for codes in (64, 128, 256, 512)]
DEFAULT = [
    ("window", "tiny", "L20", "D32", "S64"),
    ("window", "tiny", "L20", "D128", "S128"),
    ("window", "tiny", "L20", "D256", "S64"),
    ("window", TEMPORAL, "L20", "D32", "S64"),
    ("window", TEMPORAL, "L20", "D128", "S128"),
    ("window", DAILY, "L20", "D128", "S128"),
    ("window", DAILY, "L60", "D256", "S128"),
    ("window", "tiny", "L60", "D32", "S64"),
    ("window", "tiny", "L60", "D256", "S128"),
    ("window", TEMPORAL, "L60", "D128", "S128"),
    ("window", TEMPORAL, "L60", "D256", "S128"),
    ("window", "small", "L20", "D32", "S64"),
    ("tft", "tiny", "L20", "D32", "S64"),
]
MORE = [
    *(
        ("window", size, context, *shape)
        for size in ("tiny", TEMPORAL, DAILY)
        for context in ("L20", "L60")
        for shape in SHAPES
    ),
    *(("window", size, context, "D32", "S64") for size in ("small", "base") for context in ("L20", "L60")),
    *(("tft", size, context, "D32", "S64") for size in ("tiny", "small", "base") for context in ("L20", "L60")),
]
PEERS = cases(*DEFAULT, *(case for case in MORE if case not in DEFAULT), default=len(DEFAULT))
SCALES = cases(
    ("F32", "L20", "S64"), ("F64", "L20", "S64"), ("F128", "L20", "S64"), ("F64", "L60", "S64"), ("F64", "L20", "S32"),
    ("F64", "L20", "S128"), ("F64", "L20", "S512"), default=7,
)  # fmt: skip


@pytest.fixture(scope="module")
def panel() -> Iterator[Panel]:
    """An open cache, every page read; its folder is removed at the end."""
    with TemporaryDirectory(prefix="atft-bench-") as folder:
        panel = write_source(Path(folder), "float32", 2 * CODES, 320, FEATURES)
        touch(panel)
        yield panel


@pytest.mark.parametrize(("size", "context"), STEPS)
def test_step(benchmark: BenchmarkFixture, size: str, context: str) -> None:
    """A step of ours on the default block, by the size of the model."""
    compare(benchmark, work_of(size, context))


@pytest.mark.parametrize(("name", "size", "context", "days", "codes"), PEERS)
def test_train(benchmark: BenchmarkFixture, name: str, size: str, context: str, days: str, codes: str) -> None:
    """A step of ours beside a peer's, by the shape of the block."""
    assert name in peer_names("train")
    work = work_of(size, context, days, codes)
    if name == "window":
        check_windows(work)
    compare(benchmark, work, name)


@pytest.mark.parametrize(("features", "context", "codes"), SCALES)
def test_scaling(benchmark: BenchmarkFixture, features: str, context: str, codes: str) -> None:
    """A step of ours with more features, a longer context, more codes; the model `tiny`, blocks of 32 days."""
    compare(benchmark, work_of("tiny", context, "D32", codes, number(features)))


@pytest.mark.parametrize(("size", "context"), cases(("tiny", "L20"), ("small", "L20"), ("small", "L60"), default=2))
def test_breakdown(benchmark: BenchmarkFixture, panel: Panel, size: str, context: str) -> None:
    """Blocks from the loader into a step that is not compiled and waits for the device after each of its parts.

    Shares of the time of a pass: `wait` for a block, `forward`, `loss` (the objective alone), `backward` (of both) and
    `optimizer` (clipping included) add up to 1. The loader's `gather` and `copy` run at the same time.
    """
    work = work_of(size, context)
    loaded = loading(panel, DAYS, CODES, work.context)
    fresh = fresh_blocks(loaded)
    spent = dict.fromkeys((*PARTS, *BESIDE), 0.0)
    with ExitStack() as stack:
        source = stack.enter_context(open_source(panel, DEVICE, "auto"))
        step = parts_of_step(work, spent)

        def ours(blocks: list[Block]) -> Stages:
            with source.load(loaded.request(blocks)) as loader:
                begun = time.perf_counter()
                for batch in loader:
                    spent["wait"] += time.perf_counter() - begun
                    step(Arrays(batch.x, batch.presence, batch.y))
                    begun = time.perf_counter()
                return loader.stages

        def setup() -> tuple[Any, Any]:
            return (list(islice(fresh, LOADED)),), {}

        ours(list(islice(fresh, LOADED)))  # warm
        spent.update(dict.fromkeys(spent, 0.0))
        stages: list[Stages] = []
        benchmark.pedantic(lambda blocks: stages.append(ours(blocks)), setup=setup, rounds=ROUNDS)
    if benchmark.stats is not None:
        spent["gather"], spent["copy"] = sum(s.gather for s in stages), sum(s.copy for s in stages)
        whole = sum(spent[name] for name in PARTS)
        benchmark.extra_info.update(
            samples_per_s=LOADED * work.samples / median(benchmark.stats.stats.data),
            reason=source.reason,
            **{f"{name}_share": spent[name] / whole for name in (*PARTS, *BESIDE)},
        )


def compare(benchmark: BenchmarkFixture, work: Training, name: str | None = None) -> None:
    """Run the rounds and record the figures; without a peer, ours and the limit alone."""
    rounds = ROUNDS if name is None else PEER_ROUNDS
    seconds: dict[str, list[float]] = {"peer": [], "limit": []}
    with ExitStack() as stack:
        peer = None if name is None else opened(stack, name, work)
        step = stack.enter_context(our_step(work))
        blocks, product = fresh_arrays(work), products()

        def setup() -> tuple[Any, Any]:
            if peer is not None:
                theirs, samples = peer()
                seconds["peer"].append(timed(theirs) / samples)
            seconds["limit"].append(timed(product) / PRODUCT_FLOPS)
            return (step, next(blocks)), {}

        loss = benchmark.pedantic(trained, setup=setup, rounds=rounds, warmup_rounds=1)
        assert math.isfinite(loss)
        block = next(blocks)
        memory = peak_memory(lambda: trained(step, block), DEVICE)
        peer_memory = None if peer is None else peak_memory(peer()[0], DEVICE)
    if benchmark.stats is not None:  # None with --benchmark-disable: run and checked once, not timed
        mine, limit = median(benchmark.stats.stats.data) / work.samples, median(seconds["limit"][-rounds:])
        flops = flops_of(work, block) / work.samples
        benchmark.extra_info.update(
            samples_per_s=1 / mine,
            flops_per_s=flops / mine,
            limit_flops_per_s=1 / limit,
            share_of_limit=limit * flops / mine,
            peak_memory_bytes=memory,
        )
        if name is not None and peer_memory is not None:
            ratio = median(seconds["peer"][-rounds:]) / mine
            benchmark.extra_info.update(peer=name, ratio=ratio, peer_peak_memory_bytes=peer_memory)


def opened(stack: ExitStack, name: str, work: Training) -> Callable[[], tuple[Callable[[], Any], int]]:
    """A function that draws fresh blocks for a pass of the peer, and returns that pass and its number of samples."""
    peer = installed_peer(name)
    state = stack.enter_context(peer.build(work))
    fresh = fresh_arrays(state.work)

    def draw() -> tuple[Callable[[], Any], int]:
        given = list(islice(fresh, peer.BLOCKS))
        return lambda: deque(peer.run(state, given), 1), len(given) * state.work.samples

    return draw


def trained(step: Step, block: Arrays) -> float:
    """The loss of a step, which the device has finished."""
    return float(step(block))


def parts_of_step(work: Training, spent: dict[str, float]) -> Callable[[Arrays], None]:
    """A step in plain torch that adds the seconds of its parts to `spent`."""
    config, model = work.config, work.model().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=config.train.weight_decay, fused=True)
    objective = make_objective(config, HORIZONS, DEVICE)
    rotations = draw_rotations(objective, work.codes, config.train.seed, 0, DEVICE)

    def step(block: Arrays) -> None:
        begun = time.perf_counter()

        def done(part: str) -> None:
            nonlocal begun
            synchronise()
            now = time.perf_counter()
            spent[part] += now - begun
            begun = now

        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
            scores, quantiles = model(block.x, (block.presence > 0).float())
        done("forward")
        loss = objective(scores, quantiles, block.y, rotations)[0]
        done("loss")
        loss.backward()
        done("backward")
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done("optimizer")

    return step


@torch.no_grad()
def check_windows(work: Training) -> None:
    """Compare the scores of a block with those of its windows, dropout off, in float32."""
    model, block = work.model().eval(), next(fresh_arrays(work))
    expected = window.scores(model, block)
    torch.testing.assert_close(model(block.x, (block.presence > 0).float())[0], expected, rtol=0, atol=EQUAL)


def work_of(
    size: str, context: str, days: str = f"D{DAYS}", codes: str = f"S{CODES}", features: int = FEATURES
) -> Training:
    """The default configuration with these values."""
    of_size = ["model.size=tiny", CHANGES[size]] if size in CHANGES else [f"model.size={size}"]
    settings = [*of_size, f"data.context={number(context)}"]
    settings += [f"data.block_days={number(days)}", f"data.block_codes={number(codes)}"]
    return training(features, DEVICE, *settings)


def number(name: str) -> int:
    """20 of L20."""
    return int(name[1:])
