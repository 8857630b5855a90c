"""What can be evaluated: runs, folders of folds, score files and tables, read as scores of rows of one panel.

N rows
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engine.config import Config, Data
from engine.config_file import load_config
from engine.dates import (
    SPAN,
    Asked,
    Dates,
    choose_days,
    in_sample_note,
    tuned_note,
)
from engine.score.files import ScoreTable, between, holds_folds, read_joined, read_scores, scores_of
from engine.score.predict import load_run, predict_days
from engine.score.rows import Float32, RowScores, check_cache_id, from_file
from loaders.disk.content import is_there
from loaders.errors import InputError
from loaders.panel import Int, Panel, open_panel
from loaders.progress import Progress


@dataclass(frozen=True)
class Source:
    """One run or score file, on the rows of the panel."""

    name: str
    run_id: str  # "" where it is not known
    split: str
    trained_until: str | None
    tuned_until: str | None
    dates: Dates  # its distinct days
    notes: list[str]
    rows: Int  # [N] ascending
    values: dict[int, Float32]  # horizon -> [N]

    def at(self, rows: Int, horizon: int) -> Float32:
        return self.values[horizon][np.searchsorted(self.rows, rows)]


Scored = Path | ScoreTable  # a run folder, a folder of folds or a score file; scores in memory


def cache_of(paths: Sequence[Scored]) -> Data:
    """Where the cache of the first run lies, and where copies of remote ones do."""
    files = (path / "config.toml" for path in paths if isinstance(path, Path))
    return next((load_config(file, []) for file in files if is_there(file)), Config()).data


def read_source(path: Scored, panel: Panel, asked: Asked, opened: Data | None, progress: Progress) -> Source:
    """A run or scores to evaluate on the days that are asked for; `opened` as for `_scores`.

    Raises InputError where it cannot be read, is of another cache, or has days in sample that are not asked for.
    """
    scores, notes = _scores(path, panel, asked, opened, progress)
    return source_of(str(path), scores, notes, panel)


def source_of(name: str, scores: RowScores, notes: list[str], panel: Panel) -> Source:
    """Scores of rows of a panel as something to evaluate, with what has to be said of their figures."""
    order = np.argsort(scores.rows)
    rows, values = scores.rows[order], {h: v[order] for h, v in scores.values.items()}
    dates = dates_of_rows(panel, rows)
    until = scores.trained_until, scores.tuned_until
    return Source(name, scores.run_id, scores.split, *until, dates, notes, rows, values)


def _scores(
    path: Scored, panel: Panel, asked: Asked, opened: Data | None, progress: Progress
) -> tuple[RowScores, list[str]]:
    """Scores of a run, a folder of folds, a score file or a table, and what has to be said with their figures.

    Args:
        opened: the panel's place where it is that of the first run, None where the user named it.
    """
    where = str(path)
    if isinstance(path, Path) and path.is_dir() and not holds_folds(path):
        run = load_run(path)
        own = run.config.data
        if opened is not None and own.arrow != opened.arrow:
            check_cache_id(open_panel(own.arrow, own.store).manifest.cache_id, panel, where)
        days, notes = choose_days(run.state, asked, panel, where, run.config.split.tuned_until)
        return predict_days(run, panel, days, asked.name, progress=progress), notes
    if isinstance(path, ScoreTable):
        file = scores_of(path, panel.manifest.period)
    else:
        file = read_joined(path, asked.split) if path.is_dir() else read_scores(path, panel.manifest.period)
    if asked.name == SPAN:
        file = between(file, asked.start, asked.end, where)
    scores = from_file(panel, file, where, asked.split)
    scores = replace(scores, split=SPAN) if asked.name == SPAN else scores
    dates = dates_of_rows(panel, scores.rows)
    said = [
        in_sample_note(where, scores.split, dates, scores.trained_until, asked.in_sample),
        tuned_note(where, scores.split, dates, scores.tuned_until),
    ]
    return scores, [note for note in said if note is not None]


def dates_of_rows(panel: Panel, rows: Int) -> Dates:
    """The distinct days of some rows, ascending."""
    code = panel.code_of(rows)
    return panel.calendar[np.unique(rows - panel.offset[code] + panel.first[code])]


def common_horizons(sources: list[Source], panel: Panel) -> list[int]:
    """Horizons that all sources and the panel have. Raises InputError where there is none."""
    horizons = [h for h in panel.manifest.horizons if all(h in source.values for source in sources)]
    if not horizons:
        found = ", ".join(f"{source.name} has {sorted(source.values)}" for source in sources)
        what = f"no horizon in common: {found}, {panel.folder} has {panel.manifest.horizons}"
        raise InputError("evaluate", what, "Score the same horizons")
    return horizons


def common_rows(sources: list[Source]) -> Int:
    """Rows [N] that all sources score, ascending. Raises InputError where there is none."""
    rows = sources[0].rows
    for source in sources[1:]:
        rows = np.intersect1d(rows, source.rows, assume_unique=True)
    if not len(rows):
        raise InputError("evaluate", f"{', '.join(s.name for s in sources)} share no row", "Score the same dates")
    return rows
