"""Cross-sections: the samples of each day, their ranks, z-scores and correlations, in float64.

A sample is a row with a target; a cross-section is the samples of one day. Ties get average ranks. Scores change with
every epoch and samples do not, so what depends on targets alone is computed once, in `Samples`.

N samples, G days, R runs of equal values
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

MIN_SAMPLES = 20  # of a day that counts


@dataclass(frozen=True)
class Centred:
    """One side of a correlation: values less their day's mean, in units of its range."""

    values: Float  # [N]
    norm: Float  # [G] root of the sum of squares, 1 where constant
    constant: npt.NDArray[np.bool_]  # [G]


@dataclass(frozen=True)
class Samples:
    """Samples sorted by day, days with too few of them left out; see `samples_of`."""

    days: npt.NDArray[Any]  # [G] distinct values of `day`, ascending
    starts: Int  # [G] first sample of each day
    counts: Int  # [G]
    rows: Int  # [N] which input row each sample is
    targets: Float  # [N]

    @cached_property
    def centred_targets(self) -> Centred:
        return centred(self.targets, self)

    @cached_property
    def centred_ranks(self) -> Centred:
        return centred(average_ranks(sort_within_day(self.targets, self)), self)


@dataclass(frozen=True)
class Later:
    """The samples that have a target one period later too, with that one; see `with_later`."""

    samples: Samples  # its rows are the places of these among all samples
    place: npt.NDArray[np.int32]  # [N] of each of all samples: its place among these, -1 where it is none of them


@dataclass(frozen=True)
class Order:
    """Samples in ascending order within their day, and the runs of equal values they form."""

    order: npt.NDArray[np.integer]  # [N] sample at each place
    lengths: Int  # [R] samples of each run
    low: Int  # [R] places of its day before the run
    group: Int  # [R] position of its day


def samples_of(targets: npt.ArrayLike, day: npt.ArrayLike, least: int = MIN_SAMPLES) -> Samples:
    """The samples of whole cross-sections, for scores that come later.

    Args:
        targets: [N] float; rows whose target is not finite are dropped first.
        day: [N] int or dates, one value per day.
        least: samples that a day needs to count.
    """
    targets, day = np.asarray(targets, np.float64), np.asarray(day)
    rows = np.flatnonzero(np.isfinite(targets))
    if (day[rows][1:] < day[rows][:-1]).any():
        rows = rows[np.argsort(day[rows], kind="stable")]
    new = np.flatnonzero(day[rows][1:] != day[rows][:-1]) + 1
    starts = np.concatenate([[0], new]) if len(rows) else np.empty(0, np.int64)
    counts = np.diff(np.append(starts, len(rows)))
    days = day[rows[starts]]
    enough = counts >= least
    if not enough.all():
        rows = rows[np.repeat(enough, counts)]
        days, counts = days[enough], counts[enough]
        starts = np.cumsum(counts) - counts
    return Samples(days, starts, counts, rows, targets[rows])


def with_later(s: Samples, later: npt.ArrayLike, day: npt.ArrayLike) -> Later:
    """Those of the samples that have a later target, on days with enough of them.

    Args:
        later: [N] float, NaN where there is none, of the rows that `samples_of` was given.
        day: [N] of the same rows.
    """
    later = np.asarray(later, np.float64)
    some = samples_of(later[s.rows], np.asarray(day)[s.rows])
    place = np.full(len(s.rows), -1, np.int32)
    place[some.rows] = np.arange(len(some.rows), dtype=np.int32)
    return Later(some, place)


def ranks_within_day(values: npt.ArrayLike, day: npt.ArrayLike) -> Float:
    """Average ranks of finite values within their day, centred and scaled: (rank - 1/2) / n - 1/2, in (-1/2, 1/2).

    Args:
        values: [N] float, finite.
        day: [N] int or dates.
    """
    s = samples_of(values, day, least=1)
    scaled = (average_ranks(sort_within_day(s.targets, s)) - 0.5) / np.repeat(s.counts, s.counts) - 0.5
    out = np.empty(len(scaled))
    out[s.rows] = scaled
    return out


def zscores_within_day(values: npt.ArrayLike, day: npt.ArrayLike) -> Float:
    """Values [N] less their day's mean, over its standard deviation (of n); zeros on a day where they are constant.

    Args:
        values: [N] float.
        day: [N] int or dates.
    """
    values = np.asarray(values, np.float64)
    s = samples_of(np.zeros(len(values)), day, least=1)
    if not len(values):
        return values
    x = centred(values[s.rows], s)
    scale = np.where(x.constant, 0.0, np.sqrt(s.counts) / x.norm)
    out = np.empty(len(values))
    out[s.rows] = x.values * np.repeat(scale, s.counts)
    return out


def sort_within_day(values: npt.NDArray[Any], s: Samples) -> Order:
    """The order of values [N], any number type, within each day of the samples."""
    order = np.empty(len(values), np.int64)
    # Day by day and in the values' own type: a tenth of the time of one sort of everything by two keys.
    for start, count in zip(s.starts.tolist(), s.counts.tolist(), strict=True):
        order[start : start + count] = np.argsort(values[start : start + count]) + start
    return _runs(order, values, s)


def order_of_later(o: Order, values: npt.NDArray[Any], later: Later) -> Order:
    """The order of the values of the samples with a later target, from that of all samples and all values [N]."""
    place = later.place[o.order]
    return _runs(place[place >= 0], values[later.samples.rows], later.samples)


def _runs(order: npt.NDArray[np.integer], values: npt.NDArray[Any], s: Samples) -> Order:
    """The runs of equal values [N] in their order."""
    ordered = values[order]
    new = np.empty(len(values), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    new[s.starts] = True
    runs = np.flatnonzero(new)
    of_day = np.add.reduceat(new, s.starts, dtype=np.int64)
    low = runs - np.repeat(s.starts, of_day)
    return Order(order, np.diff(runs, append=len(values)), low, np.repeat(np.arange(len(of_day)), of_day))


def average_ranks(o: Order) -> Float:
    """Average ranks [N], 1..n within each day."""
    out = np.empty(len(o.order))
    out[o.order] = np.repeat(o.low + (o.lengths + 1) / 2, o.lengths)
    return out


def correlation(x: Centred, y: Centred, s: Samples) -> Float:
    """Pearson's correlation of every day [G]; NaN where x or y is constant."""
    xy = np.add.reduceat(x.values * y.values, s.starts)
    return np.where(x.constant | y.constant, np.nan, np.clip(xy / (x.norm * y.norm), -1, 1))


def rank_correlation(o: Order, s: Samples) -> Float:
    """Spearman's correlation with the targets of every day [G]; NaN where either side is constant."""
    y = s.centred_ranks
    ranks = o.low + (o.lengths - s.counts[o.group]) / 2  # of each run, less the day's mean
    starts = np.searchsorted(o.group, np.arange(len(s.days)))
    norm = np.sqrt(np.add.reduceat(o.lengths * ranks**2, starts))
    xy = np.add.reduceat(np.repeat(ranks, o.lengths) * y.values[o.order], s.starts)
    constant = (norm == 0) | y.constant  # exact: centred ranks are multiples of one half
    return np.where(constant, np.nan, np.clip(xy / np.where(constant, 1.0, norm * y.norm), -1, 1))


def centred(x: Float, s: Samples) -> Centred:
    """Values [N] less their day's mean, for a correlation; of one day or more.

    Constant is decided by the range, not by a variance that rounding keeps from being zero.
    """
    low, high = np.minimum.reduceat(x, s.starts), np.maximum.reduceat(x, s.starts)
    constant = ~(high > low)
    width = np.where(constant, 1.0, high - low)
    x = (x - np.repeat(low, s.counts)) / np.repeat(width, s.counts)
    x = x - np.repeat(np.add.reduceat(x, s.starts) / s.counts, s.counts)
    return Centred(x, np.sqrt(np.where(constant, 1.0, np.add.reduceat(x * x, s.starts))), constant)
