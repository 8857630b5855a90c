"""Hugging Face `datasets`: the mapped Arrow file as a Dataset, a slice of rows per code and block, windows cut from it.

The Dataset maps the same file as ours. Each slice covers all D + L - 1 days of a code, so rows are fetched once per
block, not once per window. The format is "arrow", of which NumPy views cost nothing: twelve times as fast as "numpy" or
"torch", which make an object of every row.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from bench.workloads.arrays import Arrays, labels, windows
from bench.workloads.loading import Loading
from loaders.cache.format import PANEL
from loaders.plan import Block

TASK = "gather"
NEEDS = ("datasets",)
BLOCKS = 2


@dataclass(frozen=True)
class State:
    work: Loading
    dataset: Any  # of rows: features [F], presence, labels [H]


@contextmanager
def build(work: Loading) -> Iterator[State]:
    """A Dataset of the cache's rows; the part's masked labels replace the targets."""
    from datasets import Dataset

    table = pa.ipc.open_file(pa.memory_map(str(work.panel.folder / PANEL))).read_all()
    table = table.slice(0, work.panel.manifest.rows).drop_columns(["targets"])
    targets = labels(work.panel, work.part)
    masked = pa.FixedSizeListArray.from_arrays(pa.array(targets.reshape(-1)), targets.shape[1])
    yield State(work, Dataset(table.append_column("labels", masked), fingerprint="panel").with_format("arrow"))


def run(state: State, blocks: list[Block]) -> Iterator[Arrays]:
    """Yield, for each block, a batch for each of its days: x [S, L, F], presence [S, L], y [S, 1, H]."""
    for block in blocks:
        yield from windows(collect(state, block), state.work.context)


def collect(state: State, block: Block) -> Arrays:
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
    return Arrays(torch.from_numpy(x), torch.from_numpy(presence), torch.from_numpy(y[:, context - 1 :]))
