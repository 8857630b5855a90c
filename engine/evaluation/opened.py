"""What is evaluated, opened: several sources averaged, and what they are compared with, on the samples of one panel.

N rows, H horizons
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.config import Data
from engine.dates import (
    Asked,
    reach_in_sample,
    span_of,
    span_text,
)
from engine.evaluation.sources import Scored, Source, cache_of, common_horizons, common_rows, dates_of_rows, read_source
from engine.evaluation.stacking import stack_weights
from engine.inputs import check_targets
from engine.score.cross_section import zscores_within_day
from engine.score.metrics import Daily, DailyIc, Metrics, daily_ic, daily_rank_ic, metrics_of_daily, split_daily
from engine.score.rows import Float32, RowScores, later_targets
from engine.score.standard_error import mean_test
from loaders.cache.format import SCORED
from loaders.errors import InputError
from loaders.panel import Int, Panel, open_panel
from loaders.progress import Progress, part_of, quiet
from loaders.split import parse_date
from loaders.verify import verified

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Opened:
    """What is evaluated: sources that are averaged, and what they are compared with, on one panel."""

    panel: Panel
    ours: list[Source]
    against: Source | None
    cost_bps: float = 10.0  # see `split_metrics`
    periods_per_year: float | None = None  # of Sharpe ratios; None: not known
    stack: "Stack | None" = None  # weights of ours; None: all the same
    known: dict[int, "tuple[Samples, DatedDaily | None]"] = field(default_factory=dict, repr=False)

    @property
    def split(self) -> str:
        """The name of the days."""
        return self.ours[0].split

    @cached_property
    def rows(self) -> Int:
        """Rows that all of ours score."""
        return common_rows(self.ours)

    @cached_property
    def horizons(self) -> list[int]:
        """Horizons that all of ours and the panel have."""
        return common_horizons(self.ours, self.panel)

    def samples(self, horizon: int) -> "Samples":
        """The samples of a horizon, with the scores of ours, averaged where they are several."""
        return self._of(horizon)[0]

    def daily(self, horizon: int) -> "DatedDaily | None":
        """The days that count [G], calendar indices, and the daily values of a horizon; None where no day counts."""
        return self._of(horizon)[1]

    def _of(self, h: int) -> "tuple[Samples, DatedDaily | None]":
        if h not in self.known:
            s = _samples(self.panel, self.ours, self.rows, h, self.stack)
            later = self._later(s, h)
            daily = split_daily(s.scores, s.targets, s.day, s.code, h, self.cost_bps, self.periods_per_year, later)
            self.known[h] = s, daily
        return self.known[h]

    def scores(self, rows: Int, horizon: int) -> npt.NDArray[np.floating]:
        """The scores of ours at some of the rows, ordered by day or not; averaged where they are several."""
        code = self.panel.code_of(rows)
        day = rows - self.panel.offset[code] + self.panel.first[code]
        return _averaged(self.ours, rows, day, horizon, self.stack)

    def joined(self) -> RowScores:
        """The scores of ours on all rows that they share, averaged or stacked, ordered by day, then code."""
        code = self.panel.code_of(self.rows)
        rows = self.rows[np.lexsort((code, self.rows - self.panel.offset[code] + self.panel.first[code]))]
        values = {h: self.scores(rows, h).astype(np.float32) for h in self.horizons}
        until = [source.trained_until for source in self.ours]
        known = max((day for day in until if day is not None), default=None) if None not in until else None
        ids = " ".join(source.run_id for source in self.ours if source.run_id)
        tuned = [source.tuned_until for source in self.ours] + [None if self.stack is None else self.stack.days["last"]]
        return RowScores(rows, values, self.split, ids, known, max(filter(None, tuned), default=None))

    def figures(self) -> dict[str, Any]:
        """What `evaluate` returns, without the look."""
        panel, every = self.panel, [*self.ours, *([] if self.against is None else [self.against])]
        metrics = {}
        for h in self.horizons:
            daily = self.daily(h)
            metrics[str(h)] = metrics_of_daily(None if daily is None else daily[1])
        result: dict[str, Any] = {
            "splits": {self.split: metrics},
            "periods_per_year": self.periods_per_year,
            **_days(panel, self.ours, every),
        }
        if self.stack is not None:
            result["stack"] = {
                str(h): dict(zip(self.stack.names, w, strict=True)) for h, w in self.stack.weights.items()
            }
            result["notes"].append(str(self.stack))
        if self.against is not None:
            result["against"] = _compare(panel, self.ours, self.against, self.stack)
        return result

    def daily_ic(self, horizon: int) -> DailyIc:
        """IC by day of a horizon, on calendar indices."""
        s = self.samples(horizon)
        return daily_ic(s.scores, s.targets, s.day, self._later(s, horizon))

    def _later(self, s: "Samples", horizon: int) -> Float32:
        """Targets of samples one calendar day later."""
        return later_targets(self.panel, s.rows, s.code)[:, self.panel.manifest.horizons.index(horizon)]

    def pairs(self, horizon: int) -> "Pairs":
        """The daily RankICs that the comparison of a horizon is made of. Raises ValueError without a comparison."""
        if self.against is None:
            raise ValueError("nothing to compare with")
        rows = common_rows([*self.ours, self.against])
        return _pairs(self.panel, self.ours, self.against, rows, horizon, self.stack)


def open_sources(
    paths: Sequence[Scored],
    split: str,
    against: Scored | None,
    arrow: str | Path | None,
    cost_bps: float = 10.0,
    periods_per_year: float | None = None,
    *,
    start: str | None = None,
    end: str | None = None,
    in_sample: bool = False,
    stack_until: str | None = None,
    progress: Progress = quiet,
) -> Opened:
    """Score the runs and read the files that `evaluate` is asked for; arguments and errors as there.

    The panel's rows agree with their checksums then, for whatever is computed from what this gives.

    Args:
        stack_until: the last day, ISO, of those that decide how ours are weighed; the days after it are evaluated.
            None: all weigh the same.
    """
    asked = Asked(split, start, end, in_sample)
    every = paths if against is None else [*paths, against]
    data = cache_of(every) if arrow is None else Data(arrow=str(arrow))
    panel = open_panel(data.arrow, data.store, progress)
    check_targets(panel)
    parts = [part_of(progress, i / len(every), (i + 1) / len(every)) for i in range(len(every))]
    opened = None if arrow is not None else data
    with verified(panel):
        sources = [read_source(path, panel, asked, opened, part) for path, part in zip(every, parts, strict=True)]
    if len({source.split for source in sources}) > 1:
        found = ", ".join(f"{source.name} is {source.split}" for source in sources)
        raise InputError(
            "evaluate", f"different splits: {found}", "Compare scores of one split, or choose days by --start and --end"
        )
    periods = panel.manifest.periods_per_year if periods_per_year is None else periods_per_year
    ours, stack = sources[: len(paths)], None
    if stack_until is not None:
        stack = _stack(panel, ours, stack_until)
        sources = [_after(panel, source, stack_until) for source in sources]
    return Opened(panel, sources[: len(paths)], None if against is None else sources[-1], cost_bps, periods, stack)


@dataclass(frozen=True)
class Stack:
    """Weights of several sources by horizon, and the days that they were fitted to."""

    names: list[str]
    weights: dict[int, list[float]]
    days: dict[str, Any]  # see `span_of`

    def by_horizon(self) -> dict[str, dict[str, float]]:
        """Weight by horizon and source."""
        return {str(h): dict(zip(self.names, weights, strict=True)) for h, weights in self.weights.items()}

    def __str__(self) -> str:
        of = [f"h={h} " + ", ".join(f"{w:.2f}" for w in weights) for h, weights in self.weights.items()]
        return f"stack: weights of {', '.join(self.names)} from {span_text(self.days)}: {'; '.join(of)}"


def _stack(panel: Panel, sources: list[Source], until: str) -> Stack:
    """Weights by the days up to `until` whose labels are known by then. Raises InputError where there are none."""
    last = int(np.searchsorted(panel.calendar, np.datetime64(parse_date(until, "--stack-until")), "right"))
    rows = common_rows(sources)
    weights, dates = {}, None
    for h in common_horizons(sources, panel):
        s = _samples(panel, sources[:1], rows, h)
        known = s.day + h + panel.manifest.known_after < last
        try:
            every = [source.at(s.rows[known], h) for source in sources]
            weights[h] = stack_weights(every, s.targets[known], s.day[known]).tolist()
        except ValueError as error:
            what = f"weights cannot be fitted to the days up to {until}: {error}"
            raise InputError("--stack-until", what, "Name a later day, or other sources") from error
        dates = panel.calendar[np.unique(s.day[known])] if dates is None else dates
    assert dates is not None
    return Stack([source.name for source in sources], weights, span_of(dates))


def _after(panel: Panel, source: Source, until: str) -> Source:
    """The days of a source after one."""
    code = panel.code_of(source.rows)
    day = source.rows - panel.offset[code] + panel.first[code]
    later = panel.calendar[day] > np.datetime64(until)
    if not later.any():
        what = f"{source.name} has no day after {until}"
        raise InputError("--stack-until", what, "Name an earlier day")
    rows, values = source.rows[later], {h: v[later] for h, v in source.values.items()}
    return replace(source, rows=rows, values=values, dates=dates_of_rows(panel, rows))


def _days(panel: Panel, ours: list[Source], every: list[Source]) -> dict[str, Any]:
    """What the result says of days: of the metrics, of the comparison where there is one, and in notes."""
    dates = dates_of_rows(panel, common_rows(ours))
    days = {ours[0].split: span_of(dates)}
    if len(every) > len(ours):
        days["against"] = span_of(dates_of_rows(panel, common_rows(every)))
    notes = [note for source in every for note in source.notes]
    for source in ours:
        if len(source.dates) > len(dates):
            own, common = span_text(span_of(source.dates)), span_text(span_of(dates))
            notes.append(f"days: {source.name} has {own}, all together {common}")
    reached = (reach_in_sample(source.split, source.dates[0], source.trained_until) for source in every)
    return {"days": days, "in_sample": any(reached), "notes": notes}


DatedDaily = tuple[Int, Daily]


class Samples(NamedTuple):
    """The samples of a horizon among some rows, with the averaged scores of several sources."""

    rows: Int  # [N] the panel's
    scores: npt.NDArray[np.floating]  # [N]
    targets: Float32  # [N]
    day: Int  # [N] calendar indices
    code: Int  # [N] numbers of their codes


def _samples(panel: Panel, sources: list[Source], rows: Int, h: int, stack: Stack | None = None) -> Samples:
    target = panel.targets[rows, panel.manifest.horizons.index(h)]
    sample = (panel.presence[rows] == SCORED) & np.isfinite(target)
    rows, target = rows[sample], target[sample]
    code = panel.code_of(rows)
    day = rows - panel.offset[code] + panel.first[code]
    return Samples(rows, _averaged(sources, rows, day, h, stack), target, day, code)


def _averaged(sources: list[Source], rows: Int, day: Int, h: int, stack: Stack | None) -> npt.NDArray[np.floating]:
    columns: list[npt.NDArray[Any]] = [source.at(rows, h) for source in sources]
    if len(columns) > 1:
        columns = [zscores_within_day(column, day) for column in columns]
    return np.mean(columns, 0) if stack is None else np.average(columns, 0, stack.weights[h])


class Pairs(NamedTuple):
    """Daily RankICs of both sides of a comparison, on the days on which both have one."""

    days: Int  # [G] calendar indices
    ours: Float64  # [G]
    against: Float64  # [G]
    samples: int


def _pairs(panel: Panel, ours: list[Source], other: Source, rows: Int, h: int, stack: Stack | None) -> Pairs:
    s = _samples(panel, ours, rows, h, stack)
    days, rank_ic = daily_rank_ic(s.scores, s.targets, s.day)
    _, rank_ic_against = daily_rank_ic(_samples(panel, [other], rows, h).scores, s.targets, s.day)
    both = np.isfinite(rank_ic) & np.isfinite(rank_ic_against)
    return Pairs(days[both], rank_ic[both], rank_ic_against[both], int(np.isin(s.day, days[both]).sum()))


def _compare(panel: Panel, ours: list[Source], other: Source, stack: Stack | None) -> dict[str, Metrics]:
    rows = common_rows([*ours, other])
    result: dict[str, Metrics] = {}
    for h in common_horizons([*ours, other], panel):
        days, rank_ic, rank_ic_against, samples = _pairs(panel, ours, other, rows, h, stack)
        difference = rank_ic - rank_ic_against
        test = mean_test(difference, h)
        result[str(h)] = {
            "rank_ic": float(rank_ic.mean()) if len(rank_ic) else np.nan,
            "rank_ic_against": float(rank_ic_against.mean()) if len(rank_ic) else np.nan,
            "difference": float(difference.mean()) if len(difference) else np.nan,
            "difference_se": float(test.se),
            "difference_t": float(test.t),
            "difference_p": float(test.p),
            "days": len(days),
            "samples": samples,
        }
    return result
