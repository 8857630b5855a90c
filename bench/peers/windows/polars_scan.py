"""Polars: one Parquet file of the long table, scanned with a filter on days and codes for each block, then windows.

Many projects feed a network like this: the table stays on disk, and a lazy scan on all cores fetches what a batch
needs. As fast as we could make it: sorted by day, in row groups so small that the statistics skip most of the file,
days and codes as numbers, one scan per block of D days and not per day, and uncompressed: the values hardly shrink, and
decompression takes most of a scan.

D scored days, S codes, L context, T = D + L - 1 days read, F features, H horizons
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from bench.workloads.arrays import Arrays, code_and_day, labels, windows
from bench.workloads.loading import Loading
from loaders.cache.format import ABSENT
from loaders.plan import Block

TASK = "gather"
NEEDS = ("polars",)
BLOCKS = 2
ROWS_OF_GROUP = 1 << 16


@dataclass(frozen=True)
class State:
    work: Loading
    path: Path  # of the Parquet file


@contextmanager
def build(work: Loading) -> Iterator[State]:
    """The Parquet file, in a folder that is removed at the end; just written, it is read from the page cache."""
    with TemporaryDirectory(prefix="atft-parquet-") as folder:
        path = Path(folder) / "panel.parquet"
        write(work, path)
        yield State(work, path)


def write(work: Loading, path: Path) -> None:
    """Write the present rows, day by day and by code within a day: day, code, presence, features, labels."""
    import polars as pl

    panel = work.panel
    code, day = code_and_day(panel)
    present = np.flatnonzero(panel.presence != ABSENT)
    rows = present[np.lexsort((code[present], day[present]))]
    keys = pl.DataFrame(
        {"day": day[rows].astype(np.int32), "code": code[rows].astype(np.int32), "presence": panel.presence[rows]}
    )
    features = pl.from_numpy(panel.features[rows], [f"f{i}" for i in range(panel.features.shape[1])])
    targets = pl.from_numpy(labels(panel, work.part)[rows], [f"y{i}" for i in range(panel.targets.shape[1])])
    table = pl.concat([keys, features, targets], how="horizontal")
    table.write_parquet(path, row_group_size=ROWS_OF_GROUP, compression="uncompressed")


def run(state: State, blocks: list[Block]) -> Iterator[Arrays]:
    """Yield, for each block, a batch for each of its days: x [S, L, F], presence [S, L], y [S, 1, H]."""
    for block in blocks:
        yield from windows(collect(state, block), state.work.context)


def collect(state: State, block: Block) -> Arrays:
    """A block's arrays: scanned, filtered, and each row in its place; rows that the scan did not find are absent."""
    import polars as pl
    import polars.selectors as cs

    panel, days, context = state.work.panel, state.work.days, state.work.context
    begin, stop = block.day - context + 1, block.day + days
    wanted = pl.col("day").is_between(begin, stop - 1) & pl.col("code").is_in(block.codes.tolist())
    rows = pl.scan_parquet(state.path).filter(wanted).collect()
    shape = len(block.codes), stop - begin
    place = np.searchsorted(block.codes, rows["code"].to_numpy()), rows["day"].to_numpy() - begin
    x = np.zeros((*shape, panel.features.shape[1]), np.float32)
    presence = np.zeros(shape, np.uint8)
    y = np.full((*shape, panel.targets.shape[1]), np.nan, np.float32)
    x[place] = rows.select(cs.starts_with("f")).to_numpy()
    presence[place] = rows["presence"].to_numpy()
    y[place] = rows.select(cs.starts_with("y")).to_numpy()
    return Arrays(torch.from_numpy(x), torch.from_numpy(presence), torch.from_numpy(y[:, context - 1 :]))
