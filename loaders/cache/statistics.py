"""Statistics of features, over rows that stream by: mean, deviation, smallest, largest, share of missing values.

Variances are merged by Chan, Golub and LeVeque (1979), "Updating formulae and a pairwise algorithm": large means cancel
nothing.

F features, n rows
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from kernels.jit.compile import jit

Float64 = npt.NDArray[np.float64]


class FeatureStats(BaseModel):
    """What a feature's values are like, over the scored rows. 0 each where none is known."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    mean: float
    deviation: float
    low: float
    high: float
    missing: float = 0.0  # share of scored rows

    @property
    def constant(self) -> bool:
        """Whether all known values are the same, or none is known."""
        return self.low == self.high


class RunningStats:
    """Statistics of F features over all rows that were added."""

    def __init__(self, features: int) -> None:
        self.rows = 0
        self.known, self.mean, self.squares = np.zeros((3, features))
        self.low, self.high = np.full(features, np.inf), np.full(features, -np.inf)

    @classmethod
    def resume(cls, state: list[list[float]]) -> "RunningStats":
        """As it was when it gave that state."""
        known, mean, squares, low, high, (rows,) = (np.array(values) for values in state)
        stats = cls(len(known))
        stats.rows, stats.known, stats.mean, stats.squares = int(rows), known, mean, squares
        stats.low, stats.high = np.where(known > 0, low, np.inf), np.where(known > 0, high, -np.inf)
        return stats

    def state(self) -> list[list[float]]:
        """What `resume` goes on from, to the last bit: sums of each feature, 0 where no value is known, and rows."""
        some = self.known > 0
        extremes = [np.where(some, self.low, 0), np.where(some, self.high, 0)]
        return [*(a.tolist() for a in (self.known, self.mean, self.squares, *extremes)), [float(self.rows)]]

    def add(self, found: Float64, rows: int) -> None:
        """Take in what `moments` gives of `rows` more rows."""
        known, mean, squares, low, high = found
        total = np.maximum(self.known + known, 1)
        apart = mean - self.mean
        self.squares += squares + np.square(apart) * self.known * known / total
        self.mean += apart * known / total
        self.known += known
        self.rows += rows
        self.low, self.high = np.fmin(self.low, low), np.fmax(self.high, high)

    def result(self) -> list[FeatureStats]:
        """Of each feature."""
        some = self.known > 0
        deviation = np.sqrt(self.squares / np.maximum(self.known, 1))
        columns = (self.mean, deviation, np.where(some, self.low, 0), np.where(some, self.high, 0))
        missing = 1 - self.known / max(self.rows, 1)
        return [
            FeatureStats(mean=mean, deviation=deviation, low=low, high=high, missing=share)
            for mean, deviation, low, high, share in zip(*(c.tolist() for c in columns), missing.tolist(), strict=True)
        ]


def moments(values: npt.NDArray[Any], counted: npt.NDArray[np.bool_]) -> Float64:
    """Of the counted rows [n] of values [n, F]: float64 [5, F]. What is not finite is missing.

    The rows are the number of known values, their mean, the sum of their squared deviations, the smallest and largest.
    """
    found: Float64 = _moments(values.astype(np.float32, copy=False), counted)
    return found


@jit(nogil=True)
def _moments(values, counted):  # type: ignore[no-untyped-def]
    """In one pass without branches inside a row: sums are of differences to the first counted row's values."""
    features = values.shape[1]
    found = np.zeros((5, features))
    found[3], found[4] = np.inf, -np.inf
    shift = np.zeros(features, np.float32)
    begun = False
    for i in range(len(values)):
        if counted[i]:
            if not begun:
                begun = True
                for f in range(features):
                    shift[f] = values[i, f] if np.isfinite(values[i, f]) else np.float32(0)
            for f in range(features):
                value = values[i, f]
                finite = value - value == 0
                apart = np.float64(value) - np.float64(shift[f]) if finite else 0.0
                found[0, f] += 1.0 if finite else 0.0
                found[1, f] += apart
                found[2, f] += apart * apart
                found[3, f] = min(found[3, f], np.float64(value) if finite else np.inf)
                found[4, f] = max(found[4, f], np.float64(value) if finite else -np.inf)
    for f in range(features):
        known = max(found[0, f], 1.0)
        found[2, f] = max(found[2, f] - found[1, f] * found[1, f] / known, 0.0)
        found[1, f] = shift[f] + found[1, f] / known if found[0, f] > 0 else 0.0
    return found
