"""K models in one step: as slots of a batch beside threads on a CPU, and on a GPU captured with and without a compiler.

`threads_or_batch` times, one after the other in this process, a step of K models on threads, matrix products as the
limit, and the same step as slots of a batch. `captured` times the step that a GPU replays, of a panel that lies in its
memory, so the gather is in it. Without a GPU, `captured` runs one tiny case, to show that it runs.

    samples_per_s       of all models, K D S over the time of a step
    step_s              a step of all models
    ratio               the threads' time over the batch's
    flops_per_s         floating-point operations of the models' matrix products, forward and backward, per second
    limit_flops_per_s   of a product of two large matrices; share_of_limit is flops_per_s over it
    busy_share          of a step, in which the GPU does anything; launches, that it takes; longest, its first ten
    prepare_s           until the first step is done: warm-up and capture, and the compiler where there is one

K models, D scored days, S codes, L context
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.measurement.busy import busy_seconds, longest, profiled
from bench.measurement.clock import DEVICE, synchronise, timed
from bench.measurement.limits import PRODUCT_FLOPS, products
from bench.workloads.loading import touch, write_source
from bench.workloads.members import Members, batched_step, threaded_step
from bench.workloads.training import flops_of, fresh_arrays, training
from loaders.tiers.choose import open_source

CUDA = DEVICE.type == "cuda"
FEATURES = 82
PANEL = (2048, 640) if CUDA else (128, 96)  # codes and days: on a GPU, more than its caches hold
REPLAYS = 20 if CUDA else 1  # steps of a round
ROUNDS = 15 if CUDA else 5
WARM = 2  # rounds before the first that counts
EQUAL = 1e-3  # a first loss by threads and by the batch, relative
GPU_CASES = [  # what decides most comes first, and what compiles comes last
    *((count, 32, 64, "eager") for count in (1, 5, 20)),
    (1, 64, 512, "eager"),
    *((count, 32, 64, "compiled") for count in (1, 20)),
    (1, 64, 512, "compiled"),
    (5, 32, 64, "compiled"),
]
CASES = GPU_CASES if CUDA else [(2, 4, 20, "eager")]


def case_name(count: int, days: int, codes: int, mode: str) -> str:
    """Such as K1-D32-S64-eager."""
    return f"K{count}-D{days}-S{codes}-{mode}"


@pytest.mark.skipif(CUDA, reason="threads train on a CPU")
@pytest.mark.parametrize("count", [1, 2, 5], ids="K{}".format)
def test_threads_or_batch(benchmark: BenchmarkFixture, count: int) -> None:
    """The default block on a CPU: K models on threads beside K slots of a batch."""
    seconds: dict[str, list[float]] = {"peer": [], "limit": []}
    product = products()
    with opened(count, 32, 64, "eager") as members, threaded_step(members) as threads, batched_step(members) as batch:
        torch.testing.assert_close(batch(), threads(), rtol=EQUAL, atol=0)

        def setup() -> None:
            seconds["peer"].append(timed(threads))
            seconds["limit"].append(timed(product) / PRODUCT_FLOPS)

        benchmark.pedantic(batch, setup=setup, rounds=ROUNDS, warmup_rounds=1)
    record(benchmark, members, 1, median(seconds["limit"][-ROUNDS:]))
    if benchmark.stats is not None:
        peer = median(seconds["peer"][-ROUNDS:])
        benchmark.extra_info.update(peer="threads", ratio=peer / benchmark.extra_info["step_s"])


@pytest.mark.parametrize(("count", "days", "codes", "mode"), CASES, ids=[case_name(*case) for case in CASES])
def test_captured(benchmark: BenchmarkFixture, count: int, days: int, codes: int, mode: str) -> None:
    """The step of K models, and what of it the GPU is busy."""
    torch._dynamo.reset()
    with opened(count, days, codes, mode) as members:
        begun = time.perf_counter()
        with batched_step(members) as step:
            step()
            synchronise()
            prepare = time.perf_counter() - begun

            def replays() -> Any:
                for _ in range(REPLAYS):
                    sums = step()
                synchronise()
                return sums

            product = products()
            limit = median([timed(product) for _ in range(1 + 2 * ROUNDS)]) / PRODUCT_FLOPS
            sums = benchmark.pedantic(replays, rounds=ROUNDS, warmup_rounds=WARM)
            assert torch.isfinite(sums).all()
            done = profiled(replays, DEVICE)
    record(benchmark, members, REPLAYS, limit)
    benchmark.extra_info.update(prepare_s=prepare)
    if done and benchmark.stats is not None:
        busy = busy_seconds(done) / REPLAYS
        benchmark.extra_info.update(
            busy_share=busy / benchmark.extra_info["step_s"],
            launches=len(done) / REPLAYS,
            longest=longest(done, REPLAYS),
        )


@contextmanager
def opened(count: int, days: int, codes: int, mode: str) -> Iterator[Members]:
    """K models of the default configuration, and a panel whose rows lie where blocks are formed from them."""
    work = training(
        FEATURES, DEVICE, f"train.seeds={count}", f"data.block_days={days}", f"data.block_codes={codes}",
        f"train.compile={'on' if mode == 'compiled' else 'off'}",
    )  # fmt: skip
    with TemporaryDirectory(prefix="atft-bench-") as folder:
        panel = write_source(Path(folder), "float16", *PANEL, FEATURES)
        touch(panel)
        with open_source(panel, DEVICE, "resident" if CUDA else "host") as source:
            if source.rows is not None:
                source.rows.wait()
            yield Members(work, source, REPLAYS * (ROUNDS + WARM + 2) + 2)


def record(benchmark: BenchmarkFixture, members: Members, steps: int, limit: float) -> None:
    """Add the rates of a step; `limit` is the time of one floating-point operation of a large product."""
    if benchmark.stats is None:  # with --benchmark-disable: run and checked once, not timed
        return
    work = members.work
    step = median(benchmark.stats.stats.data) / steps
    flops = members.count * flops_of(work, next(fresh_arrays(work)))
    benchmark.extra_info.update(
        step_s=step,
        samples_per_s=members.count * work.samples / step,
        flops_per_s=flops / step,
        limit_flops_per_s=1 / limit,
        share_of_limit=limit * flops / step,
    )
