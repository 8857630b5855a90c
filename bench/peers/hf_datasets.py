"""Hugging Face `datasets`: the mapped Arrow file as a Dataset, a slice of rows per code and block, windows cut from it.

The Dataset maps the very file that ours maps. Each slice covers all D + L - 1 days of a code, so rows are fetched once
per block, not once per window. The format is "arrow", from which NumPy's views cost nothing: twelve times as fast as
"numpy" or "torch", which make an object of every row.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from bench.peers._windows import labels, windows
from bench.source import Work
from loaders.cache.format import PANEL
from loaders.gather import Batch
from loaders.plan import Block

TASK = "gather"
NEEDS = ("datasets",)
BLOCKS = 2


@dataclass(frozen=True)
class State:
    work: Work
    dataset: Any  # of rows: features [F], presence, labels [H]


@contextmanager
def build(work: Work) -> Iterator[State]:
    """A Dataset of the cache's rows; the labels of the part, masked, take the targets' place."""
    from datasets import Dataset

    table = pa.ipc.open_file(pa.memory_map(str(work.panel.folder / PANEL))).read_all()
    table = table.slice(0, work.panel.manifest.rows).drop_columns(["targets"])
    targets = labels(work.panel, work.part)
    masked = pa.FixedSizeListArray.from_arrays(pa.array(targets.reshape(-1)), targets.shape[1])
    yield State(work, Dataset(table.append_column("labels", masked), fingerprint="panel").with_format("arrow"))


def run(state: State, blocks: list[Block]) -> Iterator[Batch]:
    """Yield, for each block, a batch for each of its days: x [S, L, F], presence [S, L], y [S, 1, H]."""
    for block in blocks:
        yield from windows(collect(state, block), state.work.context)


def collect(state: State, block: Block) -> Batch:
    """A block's arrays: one slice of the Dataset per code, zeros and NaN around it."""
    panel, days, context = state.work.panel, state.work.days, state.work.context
    size, span, begin = len(block.codes), days + context - 1, block.day - context + 1
    x = np.zeros((size, span, panel.features.shape[1]), np.float32)
    presence = np.zeros((size, span), np.uint8)
    y = np.full((size, span, panel.targets.shape[1]), np.nan, np.float32)
    for s, code in enumerate(block.codes.tolist()):
        wanted = panel.rows_of(code, begin, begin + span)
        if wanted.start == wanted.stop:
            continue
        rows = state.dataset[wanted]
        low = wanted.start - int(panel.offset[code]) + int(panel.first[code]) - begin
        inside = slice(low, low + rows.num_rows)
        for array, name in ((x, "features"), (presence, "presence"), (y, "labels")):
            values = rows[name].chunk(0)
            flat = values.flatten() if pa.types.is_fixed_size_list(values.type) else values
            array[s, inside] = flat.to_numpy().reshape(array[s, inside].shape)
    return Batch(x, presence, y[:, context - 1 :], block)
