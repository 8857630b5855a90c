"""Daily values of models among which one was chosen: of runs, score files or trials, on the same days of one panel.

T days, N variants
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.evaluation.opened import Opened
from engine.evaluation.sources import Source
from loaders.panel import Panel

Float = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Variants:
    """What models that were tried are worth on each day."""

    names: Sequence[str]  # [N]
    rank_ic: Float  # [T, N]
    spread: Float | None  # [T, N] return of the top tenth minus the bottom tenth over `horizon` days; None: not known
    horizon: int  # days that a label covers
    tried: int  # models among which the best was chosen: N, and those that left no daily values
    periods_per_year: float | None = None

    @property
    def count(self) -> int:
        """N."""
        return len(self.names)

    def of_tried(self) -> str:
        """The number that was tried, in words."""
        known = f", daily values of {self.count:,}" if self.count < self.tried else ""
        return "one model" if self.tried == 1 else f"{self.tried:,} models{known}"


def variants_of(panel: Panel, sources: Sequence[Source], tried: int = 0) -> Iterator[Variants]:
    """The variants that sources are, for each horizon that some of them have, on the days that count for all of these.

    Args:
        tried: models that were tried in all, those of the sources included; at least as many as these.
    """
    opened = [Opened(panel, [source], None) for source in sources]
    for h in panel.manifest.horizons:
        found = [(each.ours[0].name, each.daily(h)) for each in opened if h in each.ours[0].values]
        known = [(name, dated) for name, dated in found if dated is not None]
        if not known:
            continue
        days = known[0][1][0]
        for _, (own, _daily) in known[1:]:
            days = np.intersect1d(days, own)
        place = [np.searchsorted(own, days) for _, (own, _daily) in known]
        rank_ic = [daily.rank_ic[at] for at, (_, (_own, daily)) in zip(place, known, strict=True)]
        spread = [daily.spread[at] for at, (_, (_own, daily)) in zip(place, known, strict=True)]
        names = [name for name, _ in known]
        yield Variants(
            names, np.stack(rank_ic, 1), np.stack(spread, 1), h, max(tried, len(sources)),
            panel.manifest.periods_per_year,
        )  # fmt: skip
