"""What it costs to let a device read the rows: each rung of `loaders.tiers.lock` alone, and the upload of the tier resident.

Needs a GPU. A rung that the machine refuses is skipped with what the driver said, after a check that the refusal left
torch in order. Blocks read through what was locked are compared with the host's gather.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.source import write_source
from loaders.gather import gather
from loaders.panel import Panel
from loaders.plan import Block
from loaders.split import Days
from loaders.tiers import lock
from loaders.tiers.driver import open_driver
from loaders.tiers.resident import Rows, gathered, locked_rows, resident_rows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

DEVICE = torch.device("cuda")
CODES, DAYS, FEATURES, CONTEXT = 1024, 2048, 100, 20  # 0.8 GB
RUNGS = {"in-place": lock._in_place, "in-memory": lock._in_memory, "copy": lock._copy}


@dataclass(frozen=True)
class Stored:
    panel: Panel
    folder: str


@pytest.fixture(scope="module", params=[tempfile.gettempdir(), "/dev/shm"], ids=["disk", "tmpfs"])
def panel(request: pytest.FixtureRequest) -> Iterator[Panel]:
    """A source on a disk and one in memory."""
    if not os.access(request.param, os.W_OK):
        pytest.skip(f"{request.param} cannot be written")
    with TemporaryDirectory(prefix="atft-bench-", dir=request.param) as folder:
        yield write_source(Path(folder), "float32", CODES, DAYS, FEATURES)


@pytest.mark.parametrize("rung", RUNGS)
def test_lock(benchmark: BenchmarkFixture, panel: Panel, rung: str) -> None:
    """Lock, and release; bytes_per_s are those of the rows."""
    driver = open_driver(DEVICE)

    def once() -> None:
        with ExitStack() as stack:
            RUNGS[rung](panel, driver, stack, None)

    try:
        benchmark.pedantic(once, rounds=5, warmup_rounds=1)
    except lock.Refused as refusal:
        torch.zeros(1, device=DEVICE).add_(1).item()  # raises where an error is pending
        pytest.skip(f"{rung}: {refusal}")
    tell(benchmark, panel)
    with ExitStack() as stack:
        rows = locked_rows(panel, RUNGS[rung](panel, driver, stack, None), DEVICE)
        check(panel, rows)


def test_upload(benchmark: BenchmarkFixture, panel: Panel) -> None:
    """The whole panel into the device's memory; bytes_per_s are those of the rows."""
    rows: Any = benchmark.pedantic(resident_rows, args=(panel, DEVICE), rounds=5, warmup_rounds=1)
    tell(benchmark, panel)
    check(panel, rows)


def tell(benchmark: BenchmarkFixture, panel: Panel) -> None:
    if benchmark.stats is not None:
        benchmark.extra_info.update(bytes_per_s=panel.nbytes / benchmark.stats.stats.median)


def check(panel: Panel, rows: Rows) -> None:
    """Blocks that the device forms from the rows are those of the host."""
    part = Days(CONTEXT - 1, DAYS)
    blocks = [Block(day, np.arange(day % 7, CODES, 9)) for day in (19, 500, 2000)]
    with gathered(panel, rows, part, blocks, 64, CONTEXT, DEVICE) as loader:
        for loaded in loader:
            expected = gather(panel, part, loaded.block, 64, CONTEXT)
            np.testing.assert_array_equal(loaded.x.cpu().numpy(), expected.x)
            np.testing.assert_array_equal(loaded.y.cpu().numpy(), expected.y)
