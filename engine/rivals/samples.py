"""Samples that rivals are fitted to, and rows that they score.

N samples, F features
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from engine.rivals.options import Options
from engine.score.cross_section import Samples, ranks_within_day, samples_of
from engine.score.metrics import rank_ic_of_days
from engine.score.rows import present_rows
from loaders.cache.format import SCORED
from loaders.errors import InputError
from loaders.panel import Panel
from loaders.split import Days, Split

Float = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Int = npt.NDArray[np.int64]

CHUNK_ROWS = 1 << 17


class Fitted(Protocol):
    """A model of one horizon."""

    def predict(self, x: Float32, day: Int) -> npt.NDArray[np.floating]:
        """Scores [N] of features [N, F] of whole days; `day` [N] is ascending."""

    def content(self) -> bytes:
        """What `saved.py` keeps of it."""


class InPieces(Fitted, Protocol):
    """A model whose scores are a sum, such as of trees."""

    @property
    def trees(self) -> int:
        """How many there are."""

    def pieces(self, x: Float32, most: int) -> npt.NDArray[np.floating]:
        """Summands [N, C] of features [N, F], at most so many, each of trees that follow one another."""


@dataclass(frozen=True)
class Problem:
    """One horizon of a split: what a rival is fitted to, and stopped on."""

    panel: Panel
    split: Split
    horizon: int  # its number
    options: Options

    @cached_property
    def train(self) -> tuple[Int, Int]:
        """Rows and days of the training samples; see `samples`."""
        return samples(self.panel, self.split, "train", self.horizon)

    @cached_property
    def valid(self) -> tuple[Int, Int]:
        """The same of the validation part."""
        return samples(self.panel, self.split, "valid", self.horizon)

    def targets(self, rows: Int) -> Float32:
        """Targets [N] of the horizon."""
        return self.panel.targets[rows, self.horizon]

    def weights(self, day: Int) -> Float | None:
        """Weights [N] of training samples, 0.5^(age / half-life); None where all weigh alike."""
        half_life = self.options.help.half_life
        if not half_life:
            return None
        return np.exp2(-(self.split.train.stop - 1 - day) / half_life)

    def valid_rank_ic(self, scores: npt.NDArray[np.floating]) -> float:
        """Mean daily RankIC of scores [N] of the validation samples; -inf where no day defines one, so that it is
        never the best.
        """
        values = rank_ic_of_days(scores, self._valid_days)
        values = values[np.isfinite(values)]
        return float(values.mean()) if len(values) else -np.inf

    @cached_property
    def _valid_days(self) -> Samples:
        rows, day = self.valid
        return samples_of(self.targets(rows), day)


def samples(panel: Panel, split: Split, name: str, horizon: int) -> tuple[Int, Int]:
    """Rows of the panel and calendar indices of a part's samples for the horizon of that number, ordered by day.

    Raises InputError where there are none.
    """
    part: Days = split.part(name)
    rows, day, _ = present_rows(panel, part)
    sample = (panel.presence[rows] == SCORED) & np.isfinite(panel.targets[rows, horizon])
    if not sample.any():
        dates = f"{panel.calendar[part.start]} to {panel.calendar[part.stop - 1]}"
        what = f"the {name} part, {dates}, has no sample for horizon {panel.manifest.horizons[horizon]}"
        raise InputError(str(panel.folder), what, "Choose another split")
    return rows[sample], day[sample]


def chunks(day: Int) -> Iterator[slice]:
    """Slices of whole days, of about CHUNK_ROWS rows; `day` is ascending."""
    borders = np.append(np.flatnonzero(np.diff(day, prepend=-1)), len(day))
    start = 0
    while start < len(day):
        stop = int(borders[np.searchsorted(borders, start + CHUNK_ROWS, "right") - 1])
        stop = stop if stop > start else int(borders[np.searchsorted(borders, start, "right")])
        yield slice(start, stop)
        start = stop


def features_of(panel: Panel, rows: Int) -> Float32:
    """Features of the rows, float32 [N, F], converted piece by piece."""
    x = np.empty((len(rows), len(panel.manifest.features)), np.float32)
    for i in range(0, len(rows), CHUNK_ROWS):
        x[i : i + CHUNK_ROWS] = panel.features[rows[i : i + CHUNK_ROWS]]
    return x


def predicted(model: Fitted, panel: Panel, rows: Int, day: Int) -> Float32:
    """Scores [N] of a panel's rows, whole days at a time; `day` is ascending."""
    return np.concatenate(
        [np.asarray(model.predict(features_of(panel, rows[piece]), day[piece]), np.float32) for piece in chunks(day)]
        or [np.empty(0, np.float32)]
    )


def rank_targets(problem: Problem, rows: Int, day: Int) -> Float:
    """Ranks of the targets within their day [N], in (-1/2, 1/2)."""
    return ranks_within_day(problem.targets(rows), day)


def groups(day: Int) -> Int:
    """How many samples each day has; `day` is ascending."""
    return samples_of(np.zeros(len(day)), day, least=1).counts
