"""Horizons of ready targets: what their names and the user say, and whether the targets themselves agree.

A name that ends in `_<n>` or `_<n>d` states its horizon, n calendar rows. Otherwise `--horizons` must. The data are
asked too, by the rank correlation within the date of a code's target with its own target some rows later. Two returns
over h rows share h - k of them when they begin k rows apart, so of a true horizon the correlation is

    about 0 at lag h         a longer true horizon H leaves 1 - h / H
    about 1/2 at lag h / 2   a shorter true horizon leaves 0

and where a target of one row is there too, that of h rows goes with h of them compounded.

S codes, H horizons
"""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loaders.cache.columns import NewColumns
from loaders.cache.layout import Int, Layout
from loaders.errors import InputError

LARGEST_AT_LAG_H = 0.2  # a label over 1.25 h rows reaches it
LEAST_HALFWAY = 0.2
LEAST_COMPOUNDED = 0.5
DATES = 200  # most dates that are looked at
PAIRS = 1000  # fewest pairs of targets that a correlation is believed of


def stated_horizon(name: str) -> int | None:
    """The horizon that a target's name states: it ends in `_<n>` or `_<n>d`. None where it states none."""
    found = re.search(r"_(\d+)d?$", name, re.IGNORECASE)
    return int(found[1]) if found and int(found[1]) else None


def horizons_of(targets: list[str], given: list[int] | None) -> list[int]:
    """The horizon of each target.

    Args:
        given: horizons in the order of the targets; None: the names state them.

    Raises InputError for a target without a horizon, a number of horizons that is not that of the targets, a horizon
    that contradicts a name, and two targets of one horizon.
    """
    stated = [stated_horizon(name) for name in targets]
    if given is None:
        for name, horizon in zip(targets, stated, strict=True):
            if horizon is None:
                what = f"the name of target {name!r} does not end in _<rows> or _<rows>d"
                cure = "Give one horizon per target, in the order of --targets, such as --horizons 1,5"
                raise InputError("--horizons", what, cure)
        given = [horizon for horizon in stated if horizon is not None]
    if len(given) != len(targets):
        what = f"{len(given)} horizons for {len(targets)} targets ({', '.join(targets)})"
        raise InputError("--horizons", what, "Give one per target, in the order of --targets")
    for name, horizon, by_name in zip(targets, given, stated, strict=True):
        if by_name is not None and by_name != horizon:
            what = f"{horizon} for target {name!r}, whose name states {by_name}"
            raise InputError("--horizons", what, "Give horizons in the order of --targets, or rename the column")
    if len(set(given)) < len(given):
        pairs = ", ".join(f"{name} {h}" for name, h in zip(targets, given, strict=True))
        raise InputError("--horizons", f"two targets share a horizon ({pairs})", "Give one target per horizon")
    return given


@dataclass(frozen=True)
class Evidence:
    """What the data say of a target's horizon: mean rank correlations. None: too few pairs, or nothing to ask."""

    at_lag_h: float | None  # about 0
    halfway: float | None  # at lag h / 2, about 1/2; not asked of h = 1
    compounded: float | None  # with h targets of one row, about 1

    def line(self) -> str:
        """In words."""
        shown = {"lag h": self.at_lag_h, "lag h/2": self.halfway, "compounded": self.compounded}
        known = [f"{name} {value:.2f}" for name, value in shown.items() if value is not None]
        return ", ".join(known) if known else "not checked: too few targets"


def check_horizons(columns: NewColumns, layout: Layout, targets: list[str], horizons: list[int]) -> list[Evidence]:
    """Ask the targets of a filled cache whether they have these horizons.

    Raises InputError naming a target whose rows contradict its horizon.
    """
    found = []
    for i, (name, h) in enumerate(zip(targets, horizons, strict=True)):
        evidence = Evidence(
            _mean_correlation(columns, layout, i, i, h),
            _mean_correlation(columns, layout, i, i, (h + 1) // 2) if h > 1 else None,
            _compounded(columns, layout, i, horizons.index(1), h) if h > 1 and 1 in horizons else None,
        )
        cure = "Mend --horizons or the target; --trust-horizons skips this check"
        if evidence.at_lag_h is not None and evidence.at_lag_h > LARGEST_AT_LAG_H:
            what = (
                f"target {name!r} does not look like {h} rows ahead: its rank correlation with itself {h} rows later "
                f"is {evidence.at_lag_h:.2f}, that of a return over {h} rows about 0. The true horizon may be longer"
            )
            raise InputError("--horizons", what, cure)
        if evidence.halfway is not None and evidence.halfway < LEAST_HALFWAY:
            lag = (h + 1) // 2
            what = (
                f"target {name!r} does not look like {h} rows ahead: its rank correlation with itself {lag} rows later "
                f"is {evidence.halfway:.2f}, that of a return over {h} rows about {1 - lag / h:.2f}. The true horizon "
                "may be shorter"
            )
            raise InputError("--horizons", what, cure)
        if evidence.compounded is not None and evidence.compounded < LEAST_COMPOUNDED:
            one = targets[horizons.index(1)]
            what = (
                f"target {name!r} over {h} rows does not go with {h} rows of {one!r} compounded: "
                f"rank correlation {evidence.compounded:.2f}, not about 1"
            )
            raise InputError("--horizons", what, cure)
        found.append(evidence)
    return found


def _rows(layout: Layout, day: int, days: int) -> Int:
    """Rows of the codes whose spans hold the dates day..day+days-1, at the first of them."""
    held = (layout.first <= day) & (day + days <= layout.first + layout.days)
    return (layout.offset + day - layout.first)[held]


def _dates(layout: Layout, lag: int) -> Int:
    """Dates to look at: spread over the calendar, all that have one `lag` later where they are few."""
    dates = max(len(layout.calendar) - lag, 0)
    return np.unique(np.linspace(0, dates - 1, min(dates, DATES)).astype(np.int64)) if dates else np.empty(0, np.int64)


def _mean_correlation(columns: NewColumns, layout: Layout, a: int, b: int, lag: int) -> float | None:
    """Rank correlation within the date of target `a` with the same code's target `b` some rows later."""

    def pair(day: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        rows = _rows(layout, day, lag + 1)
        return columns.targets[rows][:, a], columns.targets[rows + lag][:, b]

    return _mean_over_dates([pair(day) for day in _dates(layout, lag)])


def _compounded(columns: NewColumns, layout: Layout, target: int, one: int, h: int) -> float | None:
    """Rank correlation within the date of a target with h one-row targets compounded."""

    def pair(day: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        rows = _rows(layout, day, h)
        steps = columns.targets[(rows[:, None] + np.arange(h)).ravel()][:, one].reshape(len(rows), h)
        with np.errstate(invalid="ignore"):
            return columns.targets[rows][:, target], np.prod(1 + steps.astype(np.float64), 1).astype(np.float32)

    return _mean_over_dates([pair(day) for day in _dates(layout, h - 1)])


def _mean_over_dates(pairs: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]) -> float | None:
    """Spearman's correlation, mean over dates weighted by their pairs; None of fewer than PAIRS pairs."""
    total, weight = 0.0, 0
    for a, b in pairs:
        both = np.isfinite(a) & np.isfinite(b)
        n = int(both.sum())
        if n < 3 or np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
            continue
        total += n * float(np.corrcoef(_average_ranks(a[both]), _average_ranks(b[both]))[0, 1])
        weight += n
    return total / weight if weight >= PAIRS else None


def _average_ranks(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Ranks from 0, ties get the mean of theirs."""
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts
    ranks: npt.NDArray[np.float64] = (below + (counts - 1) / 2)[place]
    return ranks
