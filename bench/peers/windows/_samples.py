"""PyTorch's DataLoader sample by sample: a map-style Dataset of (code, day), collated by the loader.

The form that tutorials teach, as fast as we could make it: a sample is a slice of the mapped rows, not an index of them
and not a copy, labels are masked once and not per sample, and the default collate function stacks a day's samples
directly into the batch (in shared memory, where workers do it).

S codes of a batch, L context, F features, H horizons
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench.peers.blocks._dataloader import Order, State, processes
from bench.workloads.arrays import Arrays, each_day, labels
from bench.workloads.loading import Loading, touch
from loaders.panel import Panel, open_panel
from loaders.plan import Block
from loaders.split import Days

Sample = tuple[int, int]  # code, day
Window = tuple[Tensor, Tensor, Tensor]  # x [L, F], presence [L], y [H]


@dataclass(frozen=True)
class Rows:
    """A process's own view on the panel."""

    features: Tensor  # [rows, F]
    presence: Tensor  # [rows]
    labels: Tensor  # [rows, H]
    spans: list[tuple[int, int, int]]  # per code: its first row, first day, number of days


@dataclass
class Samples(Dataset[Window]):
    """Maps (code, day) to its window; a worker opens the panel at its first sample."""

    folder: Path
    part: Days
    context: int
    rows: Rows | None = None

    def __getitem__(self, sample: Sample) -> Window:
        if self.rows is None:
            panel = open_panel(self.folder)
            touch(panel)
            self.rows = rows_of(panel, self.part)
        rows, context = self.rows, self.context
        code, day = sample
        row, first, days = rows.spans[code]
        stop = day - first + 1
        start = stop - context  # the window is start..stop-1 of the code's span
        if start >= 0 and stop <= days:
            window = slice(row + start, row + stop)
            return rows.features[window].float(), rows.presence[window], rows.labels[row + stop - 1]
        low, high = min(max(start, 0), days), min(max(stop, 0), days)
        inside, window = slice(low - start, high - start), slice(row + low, row + high)
        x = torch.zeros(context, rows.features.shape[1])
        presence = torch.zeros(context, dtype=torch.uint8)
        x[inside] = rows.features[window].float()
        presence[inside] = rows.presence[window]
        missing = torch.full_like(rows.labels[0], torch.nan)
        return x, presence, rows.labels[row + stop - 1] if 0 < stop <= days else missing


def rows_of(panel: Panel, part: Days) -> Rows:
    """The panel's columns as tensors, its spans as Python integers, which are faster to read one at a time."""
    features, _, presence = panel.tensors()
    spans = zip(panel.offset.tolist(), panel.first.tolist(), panel.days.tolist(), strict=True)
    return Rows(features, presence, torch.from_numpy(labels(panel, part)), list(spans))


def start(work: Loading, workers: int) -> State:
    """A loader of batches of samples; workers start with the first pass and end with the state."""
    order, panel = Order(), work.panel
    dataset = Samples(panel.folder, work.part, work.context, None if workers else rows_of(panel, work.part))
    return State(work, order, DataLoader(dataset, batch_sampler=order, **processes(workers)))


def deliver(state: State, blocks: list[Block]) -> Iterator[Arrays]:
    """For each day of the blocks, the samples of its codes as one batch."""
    days = each_day(blocks, state.work.days)
    state.order.items = [[(code, day.day) for code in day.codes.tolist()] for day in days]
    for x, presence, y in state.loader:
        yield Arrays(x, presence, y[:, None])
