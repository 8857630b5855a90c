"""The time to make a panel's rows readable for a GPU: each strategy of page-locking, and the upload to device memory.

Needs a GPU. A strategy that the machine refuses is skipped with the driver's reason, after a check that torch still
works. Blocks that the device forms from locked rows are compared with the host's gather.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.measurement.clock import DEVICE
from bench.workloads.loading import write_source
from loaders.batch import Request
from loaders.gather import gather
from loaders.panel import Panel
from loaders.plan import Block
from loaders.split import Days
from loaders.tiers import lock
from loaders.tiers.driver import open_driver
from loaders.tiers.resident import Rows, gathered, locked_rows, resident_rows

pytestmark = pytest.mark.skipif(DEVICE.type != "cuda", reason="no CUDA device")

CODES, DAYS, FEATURES, CONTEXT = 1024, 2048, 100, 20  # 0.8 GB
BLOCK_DAYS = 64


@pytest.fixture(scope="module", params=[tempfile.gettempdir(), "/dev/shm"], ids=["disk", "tmpfs"])
def panel(request: pytest.FixtureRequest) -> Iterator[Panel]:
    """A cache on a disk and one in memory."""
    if not os.access(request.param, os.W_OK):
        pytest.skip(f"{request.param} cannot be written")
    with TemporaryDirectory(prefix="atft-bench-", dir=request.param) as folder:
        yield write_source(Path(folder), "float32", CODES, DAYS, FEATURES)


@pytest.mark.parametrize("strategy", lock.STRATEGIES, ids=lambda name: name.replace(" ", "-"))
def test_lock(benchmark: BenchmarkFixture, panel: Panel, strategy: str) -> None:
    """Lock and release the rows; bytes_per_s counts the bytes of the rows."""
    driver = open_driver(DEVICE)

    def once() -> None:
        with ExitStack() as stack:
            lock.STRATEGIES[strategy](panel, driver, stack)

    try:
        benchmark.pedantic(once, rounds=5, warmup_rounds=1)
    except lock.Refused as refusal:
        torch.zeros(1, device=DEVICE).add_(1).item()  # raises where an error is pending
        pytest.skip(f"{strategy}: {refusal}")
    record_rate(benchmark, panel)
    with ExitStack() as stack:
        rows = locked_rows(panel, lock.STRATEGIES[strategy](panel, driver, stack), DEVICE)
        check(panel, rows)


def test_upload(benchmark: BenchmarkFixture, panel: Panel) -> None:
    """Copy all rows to the device's memory; bytes_per_s counts the bytes of the rows."""

    def upload() -> Rows:
        with resident_rows(panel, DEVICE) as rows:
            rows.wait()
            return rows

    rows: Any = benchmark.pedantic(upload, rounds=5, warmup_rounds=1)
    record_rate(benchmark, panel)
    check(panel, rows)


def record_rate(benchmark: BenchmarkFixture, panel: Panel) -> None:
    if benchmark.stats is not None:
        benchmark.extra_info.update(bytes_per_s=panel.nbytes / benchmark.stats.stats.median)


def check(panel: Panel, rows: Rows) -> None:
    """Compare blocks that the device forms from the rows with those of the host."""
    part = Days(CONTEXT - 1, DAYS)
    blocks = [Block(day, np.arange(day % 7, CODES, 9)) for day in (19, 500, 2000)]
    with gathered(panel, Request(part, blocks, BLOCK_DAYS, CONTEXT), DEVICE, rows) as loader:
        for batch in loader:
            expected = gather(panel, part, batch.block, BLOCK_DAYS, CONTEXT)
            np.testing.assert_array_equal(batch.x.cpu(), expected.x)
            np.testing.assert_array_equal(batch.y.cpu(), expected.y)
