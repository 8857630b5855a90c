"""The scores of one day, the newest as a rule, and those of the day before for comparison (see comparison.py).

Names are ranked over the universe of the day by the mean over horizons of their z-scores, or by one horizon.

N present codes, H horizons
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.dates import SPAN, in_sample_note, tuned_note
from engine.live.scoring import score_days
from engine.score.files import fold_folders, holds_folds
from engine.score.predict import TrainedRun, load_run
from engine.score.rows import RowScores
from engine.score.tables import SUMMARY
from loaders.cache.format import SCORED
from loaders.disk.content import is_there
from loaders.errors import InputError
from loaders.panel import Int, Panel, open_panel
from loaders.split import Days, parse_date

LATEST = "latest"


@dataclass(frozen=True)
class DayScores:
    """The scores of one day."""

    date: str  # ISO
    codes: npt.NDArray[np.str_]  # [N] present codes, ascending
    universe: npt.NDArray[np.bool_]  # [N] whether a code is ranked
    scores: dict[int, npt.NDArray[np.float32]]  # horizon -> [N]

    def combined(self, horizon: int | None = None) -> npt.NDArray[np.float64]:
        """[N] mean over horizons of z-scores over the universe; of one horizon alone where it is given."""
        chosen = self.scores.values() if horizon is None else [self.scores[horizon]]
        return np.mean([_zscores(values, self.universe) for values in chosen], 0)

    def ranks(self, horizon: int | None = None) -> Int:
        """[N] place of each code in the universe, 1 the best; 0 outside. Of equal scores the first code is before."""
        places = np.zeros(len(self.codes), np.int64)
        inside = np.flatnonzero(self.universe)
        order = np.argsort(-self.combined(horizon)[inside], kind="stable")
        places[inside[order]] = np.arange(1, len(inside) + 1)
        return places


@dataclass(frozen=True)
class Latest:
    """What `predict_latest` found."""

    run: Path
    run_id: str
    cache: Path
    cache_id: str
    horizons: list[int]
    first: str  # days of the cache
    last: str
    trained_until: str  # last day that the model was trained on
    chosen_until: str  # last day of the validation part
    days_since: int  # of the cache, from `chosen_until` to the scored day; those before its first are not counted
    today: DayScores
    before: DayScores | None  # the cache's day before
    rows: RowScores  # of the day alone, of the panel
    panel: Panel = field(repr=False)
    notes: list[str] = field(default_factory=list)


def predict_latest(
    run: str | Path,
    cache: str | Path | None = None,
    date: str = LATEST,
    *,
    in_sample: bool = False,
    member: int | None = None,
) -> Latest:
    """Score one day of a cache with a run's best checkpoint, and the day before for comparison.

    The cache needs the days of the context and, where the run has an online regression, those since the state that is
    kept with the run (engine/live/state.py); the state moves along. A refitted last layer also needs the context of the
    days whose returns that state waits for.

    Args:
        run: a run folder, or a folder of folds, of which the newest is used.
        cache: a folder or URL; None: the run's own.
        date: ISO, or "latest": the last day of the cache.
        in_sample: whether the day may be one at or before the run's last validation day.
        member: of a run of several models, this one alone; the first is 0.

    Raises InputError where the cache does not fit the run, or has not the day or what it needs.
    """
    trained, notes = _newest(Path(run))
    data, state, where = trained.config.data, trained.state, str(trained.folder)
    panel = open_panel(data.arrow if cache is None else cache, data.store)
    day, calendar = _find(panel, date), panel.calendar
    dates = calendar[day : day + 1]
    said = [
        in_sample_note(where, SPAN, dates, state.split["valid"][1], in_sample),
        tuned_note(where, SPAN, dates, trained.config.split.tuned_until),
    ]
    notes += [note for note in said if note is not None]
    days, scores, more = _with_day_before(trained, panel, day, member)
    today = _day_scores(panel, scores, day)
    of_day = _rows_of(panel, scores, day)
    split = state.split
    return Latest(
        run=trained.folder,
        run_id=state.run_id,
        cache=panel.folder,
        cache_id=panel.manifest.cache_id,
        horizons=list(state.horizons),
        first=str(calendar[0]),
        last=str(calendar[-1]),
        trained_until=trained.trained_until,
        chosen_until=split["valid"][1],
        days_since=int((calendar[: day + 1] > np.datetime64(split["valid"][1])).sum()),
        today=today,
        before=_day_scores(panel, scores, days.start) if len(days) > 1 else None,
        rows=of_day,
        panel=panel,
        notes=notes + more,
    )


def _newest(folder: Path) -> tuple[TrainedRun, list[str]]:
    """The run of a folder; of a folder of folds, the last that is finished."""
    if not holds_folds(folder):
        return load_run(folder), []
    finished = [path for path in fold_folders(folder) if is_there(path / SUMMARY)]
    if not finished:
        raise InputError(str(folder), "none of its folds is trained", "Resume with `atft-engine train --resume`")
    last = finished[-1]
    return load_run(last), [f"folds: {last.name} of {folder}, the last that is trained"]


def _find(panel: Panel, date: str) -> int:
    calendar = panel.calendar
    if date == LATEST:
        return len(calendar) - 1
    wanted = np.datetime64(parse_date(date, "--date"))
    day = int(np.searchsorted(calendar, wanted))
    if day == len(calendar) or calendar[day] != wanted:
        near = f"; the day before is {calendar[day - 1]}" if 0 < day < len(calendar) else ""
        what = f"{date} is no day of {panel.folder}, which covers {calendar[0]}..{calendar[-1]}{near}"
        raise InputError("--date", what, f"Name one of its days, or {LATEST}")
    return day


def _with_day_before(run: TrainedRun, panel: Panel, day: int, member: int | None) -> tuple[Days, RowScores, list[str]]:
    """Scores of a day and the one before; of the day alone where what that one needs is missing."""
    both, alone = Days(max(day - 1, 0), day + 1), Days(day, day + 1)
    try:
        return both, *score_days(run, panel, both, SPAN, member, newest=True)
    except InputError as refusal:
        scores, notes = score_days(run, panel, alone, SPAN, member, newest=True)
        return alone, scores, [*notes, f"no comparison with {panel.calendar[both.start]}: {refusal.what}"]


def _day_scores(panel: Panel, scores: RowScores, day: int) -> DayScores:
    of_day = _rows_of(panel, scores, day)
    code = panel.code_of(of_day.rows)
    codes = np.array(panel.manifest.codes)[code]
    return DayScores(str(panel.calendar[day]), codes, panel.presence[of_day.rows] == SCORED, of_day.values)


def _rows_of(panel: Panel, scores: RowScores, day: int) -> RowScores:
    """The scores of one day, by code."""
    code = panel.code_of(scores.rows)
    here = scores.rows - panel.offset[code] + panel.first[code] == day
    return replace(scores, rows=scores.rows[here], values={h: v[here] for h, v in scores.values.items()})


def _zscores(values: npt.NDArray[np.float32], among: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    inside = values[among].astype(np.float64)
    if not len(inside):
        return np.zeros(len(values))
    return (values - inside.mean()) / (inside.std() or 1.0)
