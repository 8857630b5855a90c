"""What a cache says of days on which another one, that ends earlier, said something else.

D days of both, F features, N rows
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from engine.audit.finding import Advice
from loaders.cache.format import ABSENT, SCORED
from loaders.panel import Int, Panel

REBUILT = Advice(
    "truncation",
    "A value of a day that changes when later days are left out was made of them.",
    "Make each feature, flag and label of rows up to its own day; fit scales and means on the past.",
)  # of rebuild.py, which needs the packages of a build
ROUNDING = 1e-3  # deviations of a feature, over its stored rows
LABEL_ROUNDING = 1e-5


@dataclass
class Differences:
    """Rows of the days that both caches have, by what differs; empty where nothing does."""

    compared: int = 0  # rows of both
    features: Counter[str] = field(default_factory=Counter)  # rows in which each feature differs
    labels: Counter[int] = field(default_factory=Counter)  # of each horizon: rows whose label was known by then
    completed: int = 0  # labels without a value then, whose days were over, and with one now
    universe: int = 0  # rows in it then or now, and not both
    added: int = 0  # rows that are there now alone
    removed: int = 0
    first: str = ""  # date and code of the first row that differs

    def __add__(self, other: "Differences") -> "Differences":
        """Of two pairs of caches together."""
        return Differences(
            self.compared + other.compared, self.features + other.features, self.labels + other.labels,
            self.completed + other.completed, self.universe + other.universe, self.added + other.added,
            self.removed + other.removed, self.first or other.first,
        )  # fmt: skip

    @property
    def any(self) -> bool:
        """Whether a figure can differ: labels that are completed later do not count."""
        return bool(self.features or self.labels or self.universe or self.added or self.removed)

    def told(self) -> str:
        """In a line."""
        parts = [
            (sum(self.features.values()), f"values of {len(self.features):,} features"),
            (sum(self.labels.values()), "labels that were known"),
            (self.universe, "universe flags"), (self.added, "rows added"), (self.removed, "rows gone"),
        ]  # fmt: skip
        found = [f"{count:,} {what}" for count, what in parts if count]
        changed = f"{', '.join(found)} changed" if found else "nothing changed"
        late = f"; {self.completed:,} labels were completed later" if self.completed else ""
        return f"{changed} in {self.compared:,} rows of both{late}"

    def concerned(self) -> list[str]:
        """Features and labels, the most rows first, and where it begins."""
        names = [name for name, _ in self.features.most_common()]
        names += [f"label over {h} days" for h, _ in self.labels.most_common()]
        return names + ([f"first {self.first}"] if self.first else [])


def differences(now: Panel, then: Panel) -> Differences:
    """Compare two caches row by row, on the days that both have, up to the last of either; code by code, in any memory.

    A feature differs where it does by over a thousandth of its deviation, a label by over 1e-5. A label was known then
    where it ended before the last day of both: that day's prices can be provisional, such as a last move that no later
    bar has confirmed. Features and horizons that only one has are left out, and so are days. A row that one has as
    absent counts as no row.
    """
    days, in_now, in_then = np.intersect1d(now.calendar, then.calendar, return_indices=True)
    found = Differences()
    if not len(days):
        return found
    names = [name for name in now.manifest.features if name in set(then.manifest.features)]
    columns = _places(now.manifest.features, names), _places(then.manifest.features, names)
    limit = ROUNDING * _deviations(now, columns[0])
    horizons = [h for h in now.manifest.horizons if h in set(then.manifest.horizons)]
    places = [(now.manifest.horizons.index(h), then.manifest.horizons.index(h)) for h in horizons]
    last = int(in_now[-1])
    known_after = max(now.manifest.known_after, then.manifest.known_after)
    earliest = days[-1] + np.timedelta64(1, "D")
    spans = _spans(now), _spans(then)
    nowhere = np.zeros(len(days), bool)
    for code in sorted(spans[0].keys() | spans[1].keys()):
        one, other = (
            _rows(panel, span.get(code), where)
            for panel, span, where in zip((now, then), spans, (in_now, in_then), strict=True)
        )
        here, there = (
            nowhere if rows is None else _present(panel, rows)
            for panel, rows in zip((now, then), (one, other), strict=True)
        )
        both = here & there
        differs = here != there
        found.added += int((here & ~there).sum())
        found.removed += int((there & ~here).sum())
        if one is not None and other is not None and both.any():
            a, b = one[both], other[both]
            found.compared += len(a)
            flags = (now.presence[a] == SCORED) != (then.presence[b] == SCORED)
            found.universe += int(flags.sum())
            changed = _changed(now.features[a][:, columns[0]], then.features[b][:, columns[1]], limit)
            found.features.update({name: int(n) for name, n in zip(names, changed.sum(0), strict=True) if n})
            odd = flags | changed.any(1)
            for h, (i, j) in zip(horizons, places, strict=True):
                over = in_now[both] + h + known_after < last
                said, says = then.targets[b][:, j], now.targets[a][:, i]
                late = over & ~np.isfinite(said) & np.isfinite(says)
                found.completed += int(late.sum())
                wrong = over & ~late & _changed(says[:, None], said[:, None], LABEL_ROUNDING)[:, 0]
                if wrong.any():
                    found.labels[h] += int(wrong.sum())
                odd |= wrong
            differs[both] = odd
        if differs.any() and days[differs.argmax()] < earliest:
            earliest = days[differs.argmax()]
            found.first = f"{earliest} of {code}"
    return found


def _places(names: list[str], some: list[str]) -> Int:
    place = {name: i for i, name in enumerate(names)}
    return np.array([place[name] for name in some], np.int64)


def _deviations(panel: Panel, columns: Int) -> npt.NDArray[np.float64]:
    """Of the stored features, as the manifest has them; of a constant one: its size."""
    stored = panel.manifest.stored
    if not stored:
        return np.ones(len(columns))
    found = ((stored[i].deviation, stored[i].mean) for i in columns.tolist())
    return np.array([deviation or abs(mean or 0.0) or 1.0 for deviation, mean in found])


def _spans(panel: Panel) -> dict[str, int]:
    return {code: s for s, code in enumerate(panel.manifest.codes)}


def _rows(panel: Panel, s: int | None, where: Int) -> Int | None:
    """[D] the row of each day of both, -1 outside the code's span; None for a code that is not there."""
    if s is None:
        return None
    place = where - panel.first[s]
    return np.where((place >= 0) & (place < panel.days[s]), panel.offset[s] + place, -1)


def _present(panel: Panel, rows: Int) -> npt.NDArray[np.bool_]:
    """[D] whether there is a row that is not absent."""
    here = rows >= 0
    found = np.zeros(len(rows), bool)
    found[here] = panel.presence[rows[here]] != ABSENT
    return found


def _changed(now: npt.NDArray, then: npt.NDArray, limit: npt.NDArray | float) -> npt.NDArray[np.bool_]:
    """[N, F] whether values differ by more than a limit; NaN equals NaN."""
    now, then = now.astype(np.float64), then.astype(np.float64)
    with np.errstate(invalid="ignore"):
        near = (now == then) | (np.abs(now - then) <= limit)
    return ~near & ~(np.isnan(now) & np.isnan(then))
