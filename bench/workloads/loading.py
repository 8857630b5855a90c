"""Loading: a cache of random values, larger than any last-level cache, and fresh blocks of it.

A benchmark that reads the same block repeatedly measures the CPU's cache, and one that reads a sparse file measures
zeros. So the cache holds about half a gigabyte of random numbers, no block repeats before all have been read once, and
every row of a block is present.

S codes, D scored days, L context, T = D + L - 1 days read, F features, H horizons
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from loaders.batch import Request
from loaders.cache.columns import create_columns
from loaders.cache.format import SCORED, write_manifest
from loaders.cache.manifest.model import Dtype, Manifest
from loaders.panel import Panel, open_panel
from loaders.plan import Block, Plan
from loaders.split import Days

HORIZONS = [1, 5]
PAGE = 4096  # bytes, the smallest page of the machines we know


@dataclass(frozen=True)
class Loading:
    """The task: deliver blocks of this shape.

    Args:
        part: scored days; each has its whole context in the panel.
        days: D of a block.
        codes: S, the most codes of a block.
        context: L.
    """

    panel: Panel
    part: Days
    days: int
    codes: int
    context: int

    @property
    def bytes_per_sample(self) -> float:
        """Of a block of full size."""
        whole = Block(self.part.start, np.arange(self.codes))
        return self.nbytes(whole) / self.samples(whole)

    def request(self, blocks: list[Block]) -> Request:
        """The blocks, as a tier takes them."""
        return Request(self.part, blocks, self.days, self.context)

    def samples(self, block: Block) -> int:
        """Samples of a block from `fresh_blocks`: every row of the cache has a target."""
        return self.days * len(block.codes)

    def nbytes(self, block: Block) -> int:
        """Bytes of a block's arrays: float32 features, presence, float32 targets."""
        rows = self.days + self.context - 1
        features, horizons = self.panel.features.shape[1], self.panel.targets.shape[1]
        return len(block.codes) * (rows * (4 * features + 1) + self.days * 4 * horizons)


def loading(panel: Panel, days: int, codes: int, context: int) -> Loading:
    """Blocks of that shape; every day that has a whole context is scored."""
    return Loading(panel, Days(context - 1, len(panel.calendar)), days, codes, context)


def write_source(folder: Path, dtype: Dtype, codes: int, days: int, features: int, seed: int = 0) -> Panel:
    """Write a cache of standard normal features in which every code trades, and has a target, on every day."""
    rows = codes * days
    columns = create_columns(folder, [days] * codes, features, len(HORIZONS), dtype)
    columns.presence[:] = SCORED

    def fill(code: int) -> None:
        random = np.random.default_rng([seed, code])
        run = slice(code * days, (code + 1) * days)
        columns.features[run] = random.standard_normal((days, features), np.float32)
        columns.targets[run] = random.standard_normal((days, len(HORIZONS)), np.float32)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(codes)))
    manifest = Manifest(
        features=[f"f{i}" for i in range(features)],
        horizons=HORIZONS,
        dtype=dtype,
        calendar=[str(day) for day in np.busday_offset("2010-01-04", np.arange(days), "forward")],
        codes=[f"C{i:05d}" for i in range(codes)],
        first=[0] * codes,
        days=[days] * codes,
        rows=rows,
        counts={"absent": 0, "context": 0, "scored": rows},
        recipe={"name": "benchmark", "seed": seed},
        normalisation="none",
        batches=columns.batches,
    )
    write_manifest(folder, manifest)
    return open_panel(folder)


def touch(panel: Panel) -> None:
    """Read a byte of every page, so that no page fault of this process's mapping is timed."""
    for column in (panel.features, panel.targets, panel.presence):
        column.reshape(-1).view(np.uint8)[::PAGE].max()


def fresh_blocks(work: Loading, seed: int = 0) -> Iterator[Block]:
    """Endless blocks of one shuffled epoch after another, without those that reach beyond the part."""
    plan = Plan(work.panel, work.part, work.days, work.codes, seed)
    for epoch in count():
        for block in plan.epoch(epoch):
            if block.day >= work.part.start and block.day + work.days <= work.part.stop:
                yield block
