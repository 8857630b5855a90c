"""Metrics of runs and score files, from the same function, on the same samples.

Several sources are averaged: the mean of their z-scores within the day, on the samples that all of them score. A
comparison takes the daily RankICs of both sides on the samples that both score, and tests the mean of the paired
differences.

N rows, H horizons
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.config import Config, Data
from engine.config_file import load_config
from engine.dates import (
    SPAN,
    Asked,
    Dates,
    choose_days,
    in_sample_note,
    reach_in_sample,
    span_of,
    span_text,
    tuned_note,
)
from engine.score.cross_section import zscores_within_day
from engine.score.files import between, holds_folds, read_joined, read_scores
from engine.score.metrics import Metrics, daily_rank_ic, split_metrics
from engine.score.predict import load_run, predict_days
from engine.score.rows import Float32, RowScores, check_cache_id, from_file, later_targets
from engine.score.standard_error import mean_test
from loaders.cache.format import SCORED
from loaders.errors import InputError
from loaders.panel import Int, Panel, open_panel


@dataclass(frozen=True)
class _Source:
    """One run or score file, on the rows of the panel."""

    name: str
    split: str
    trained_until: str | None
    dates: Dates  # its distinct days
    notes: list[str]
    rows: Int  # [N] ascending
    values: dict[int, Float32]  # horizon -> [N]

    def at(self, rows: Int, horizon: int) -> Float32:
        return self.values[horizon][np.searchsorted(self.rows, rows)]


def evaluate(
    paths: list[Path],
    split: str,
    against: Path | None,
    arrow: str | Path | None,
    cost_bps: float = 10.0,
    periods_per_year: float | None = None,
    *,
    start: str | None = None,
    end: str | None = None,
    in_sample: bool = False,
) -> dict[str, Any]:
    """Metrics of the average of runs and score files, and their comparison with another.

    Args:
        paths: run folders, scored here on their own days of `split`, folders of folds, and score files, whose own rows
            count.
        against: a run folder or score file to compare with.
        arrow: the cache; default: that of the first run among the paths, else cache/.
        cost_bps: see `split_metrics`.
        periods_per_year: of Sharpe ratios; default: those of the cache's calendar, which may be unknown.
        start, end, in_sample: choose other days than a part's, see `Asked`.

    Returns {"splits": {split: {horizon: metrics}}, "periods_per_year": of Sharpe ratios} and, with `against`,
    "against": {horizon: {rank_ic, rank_ic_against, difference, difference_se, difference_t, difference_p, days,
    samples}}, the test of the mean daily difference of RankIC. A score file's own split names its metrics. "days" holds
    the {first, last, days} of both, "in_sample" whether some are, and "notes" what has to be said with the figures.

    Raises InputError for unreadable files, scores of another cache, sources of different splits, days at or before the
    last validation day of a source, unless they are asked for, and sources that share no horizon or sample.
    """
    asked = Asked(split, start, end, in_sample)
    every = paths if against is None else [*paths, against]
    data = _cache_of(every) if arrow is None else Data(arrow=str(arrow))
    panel = open_panel(data.arrow, data.store)
    sources = [_source(path, panel, asked, None if arrow is not None else data) for path in every]
    if len({source.split for source in sources}) > 1:
        found = ", ".join(f"{source.name} is {source.split}" for source in sources)
        raise InputError(
            "evaluate", f"different splits: {found}", "Compare scores of one split, or choose days by --start and --end"
        )
    ours = sources[: len(paths)]
    rows = _common_rows(ours)
    periods = panel.manifest.periods_per_year if periods_per_year is None else periods_per_year
    metrics = {}
    for h in _common_horizons(ours, panel):
        s = _samples(panel, ours, rows, h)
        later = later_targets(panel, s.rows, s.code)[:, panel.manifest.horizons.index(h)]
        metrics[str(h)] = split_metrics(s.scores, s.targets, s.day, s.code, h, cost_bps, periods, later)
    result: dict[str, Any] = {
        "splits": {ours[0].split: metrics},
        "periods_per_year": periods,
        **_days(panel, ours, sources),
    }
    if against is not None:
        result["against"] = _compare(panel, ours, sources[-1])
    return result


def _cache_of(paths: list[Path]) -> Data:
    """Where the cache of the first run lies, and where copies of remote ones do."""
    runs = (load_config(path / "config.toml", []) for path in paths if (path / "config.toml").exists())
    return next(runs, Config()).data


def _source(path: Path, panel: Panel, asked: Asked, opened: Data | None) -> _Source:
    scores, notes = _scores(path, panel, asked, opened)
    order = np.argsort(scores.rows)
    rows, values = scores.rows[order], {h: v[order] for h, v in scores.values.items()}
    return _Source(str(path), scores.split, scores.trained_until, _dates(panel, rows), notes, rows, values)


def _scores(path: Path, panel: Panel, asked: Asked, opened: Data | None) -> tuple[RowScores, list[str]]:
    """Scores of a run, a folder of folds or a score file, and what has to be said with their figures.

    Args:
        opened: the panel's place where it is that of the first run, None where the user named it.
    """
    where = str(path)
    if path.is_dir() and not holds_folds(path):
        run = load_run(path)
        own = run.config.data
        if opened is not None and own.arrow != opened.arrow:
            check_cache_id(open_panel(own.arrow, own.store).manifest.cache_id, panel, where)
        days, notes = choose_days(run.state, asked, panel, where, run.config.split.tuned_until)
        return predict_days(run, panel, days, asked.name), notes
    file = read_joined(path, asked.split) if path.is_dir() else read_scores(path, panel.manifest.period)
    if asked.name == SPAN:
        file = between(file, asked.start, asked.end, where)
    scores = from_file(panel, file, where, asked.split)
    scores = replace(scores, split=SPAN) if asked.name == SPAN else scores
    dates = _dates(panel, scores.rows)
    said = [
        in_sample_note(where, scores.split, dates, scores.trained_until, asked.in_sample),
        tuned_note(where, scores.split, dates, scores.tuned_until),
    ]
    return scores, [note for note in said if note is not None]


def _dates(panel: Panel, rows: Int) -> Dates:
    """The distinct days of some rows, ascending."""
    code = panel.code_of(rows)
    return panel.calendar[np.unique(rows - panel.offset[code] + panel.first[code])]


def _days(panel: Panel, ours: list[_Source], every: list[_Source]) -> dict[str, Any]:
    """What the result says of days: of the metrics, of the comparison where there is one, and in notes."""
    dates = _dates(panel, _common_rows(ours))
    days = {ours[0].split: span_of(dates)}
    if len(every) > len(ours):
        days["against"] = span_of(_dates(panel, _common_rows(every)))
    notes = [note for source in every for note in source.notes]
    for source in ours:
        if len(source.dates) > len(dates):
            own, common = span_text(span_of(source.dates)), span_text(span_of(dates))
            notes.append(f"days: {source.name} has {own}, all together {common}")
    reached = (reach_in_sample(source.split, source.dates[0], source.trained_until) for source in every)
    return {"days": days, "in_sample": any(reached), "notes": notes}


def _common_horizons(sources: list[_Source], panel: Panel) -> list[int]:
    horizons = [h for h in panel.manifest.horizons if all(h in source.values for source in sources)]
    if not horizons:
        found = ", ".join(f"{source.name} has {sorted(source.values)}" for source in sources)
        what = f"no horizon in common: {found}, {panel.folder} has {panel.manifest.horizons}"
        raise InputError("evaluate", what, "Score the same horizons")
    return horizons


def _common_rows(sources: list[_Source]) -> Int:
    rows = sources[0].rows
    for source in sources[1:]:
        rows = np.intersect1d(rows, source.rows, assume_unique=True)
    if not len(rows):
        raise InputError("evaluate", f"{', '.join(s.name for s in sources)} share no row", "Score the same dates")
    return rows


class _Samples(NamedTuple):
    """The samples of a horizon among some rows, with the averaged scores of several sources."""

    rows: Int  # [N] the panel's
    scores: npt.NDArray[np.floating]  # [N]
    targets: Float32  # [N]
    day: Int  # [N] calendar indices
    code: Int  # [N] numbers of their codes


def _samples(panel: Panel, sources: list[_Source], rows: Int, h: int) -> _Samples:
    target = panel.targets[rows, panel.manifest.horizons.index(h)]
    sample = (panel.presence[rows] == SCORED) & np.isfinite(target)
    rows, target = rows[sample], target[sample]
    code = panel.code_of(rows)
    day = rows - panel.offset[code] + panel.first[code]
    columns: list[npt.NDArray[Any]] = [source.at(rows, h) for source in sources]
    if len(columns) > 1:
        columns = [zscores_within_day(column, day) for column in columns]
    return _Samples(rows, np.mean(columns, 0), target, day, code)


def _compare(panel: Panel, ours: list[_Source], other: _Source) -> dict[str, Metrics]:
    rows = _common_rows([*ours, other])
    result: dict[str, Metrics] = {}
    for h in _common_horizons([*ours, other], panel):
        s = _samples(panel, ours, rows, h)
        days, rank_ic = daily_rank_ic(s.scores, s.targets, s.day)
        _, rank_ic_against = daily_rank_ic(_samples(panel, [other], rows, h).scores, s.targets, s.day)
        both = np.isfinite(rank_ic) & np.isfinite(rank_ic_against)
        rank_ic, rank_ic_against = rank_ic[both], rank_ic_against[both]
        difference = rank_ic - rank_ic_against
        test = mean_test(difference, h)
        result[str(h)] = {
            "rank_ic": float(rank_ic.mean()) if len(rank_ic) else np.nan,
            "rank_ic_against": float(rank_ic_against.mean()) if len(rank_ic) else np.nan,
            "difference": float(difference.mean()) if len(difference) else np.nan,
            "difference_se": float(test.se),
            "difference_t": float(test.t),
            "difference_p": float(test.p),
            "days": int(both.sum()),
            "samples": int(np.isin(s.day, days[both]).sum()),
        }
    return result
