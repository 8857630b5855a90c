"""Figures of runs and scores: metrics, comparisons, and IC by day."""

from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from engine.api.frames import naming_arguments, polars
from engine.api.panels import Date, Panel, iso_date
from engine.api.runs import Run, asked_days, cache_path
from engine.evaluation.evaluate import evaluate as evaluate_sources
from engine.evaluation.evaluate import look_at
from engine.evaluation.opened import open_sources
from engine.evaluation.sources import Scored
from engine.score.files import ScoreTable
from engine.score.tables import finite
from loaders.errors import InputError

if TYPE_CHECKING:
    import polars as pl

_COUNTS = ("days", "samples")


@dataclass(frozen=True)
class Evaluation:
    """Metrics of the average of some sources, and their comparison with another. `evaluate` gives one."""

    split: str
    """What the days are: "train", "valid", "test", or "span" where `start` and `end` chose them."""
    days: dict[str, dict[str, Any]]
    """{first, last, days} of the metrics, under `split`, and of the comparison, under "against"."""
    metrics: "pl.DataFrame"
    """A row per horizon: `horizon`, and a column per metric (docs/metrics.md); null where one is not defined."""
    against: "pl.DataFrame | None"
    """A row per horizon: `rank_ic`, `rank_ic_against`, their `difference` with its `_se`, `_t` and `_p`, and counts."""
    notes: list[str]
    """What has to be said with the figures."""
    in_sample: bool
    """Whether some of the days were trained or validated on."""
    periods_per_year: float | None
    """Of the Sharpe ratios; None: not known, and there are none."""
    stack: dict[str, dict[str, float]] | None = None
    """With `stack_until`: the weight of each source, by horizon."""


def evaluate(
    *sources: Any,
    against: Any = None,
    cache: str | Path | Panel | None = None,
    split: str = "test",
    start: Date | None = None,
    end: Date | None = None,
    in_sample: bool = False,
    stack_until: Date | None = None,
    cost_bps: float = 10.0,
    periods_per_year: float | None = None,
) -> Evaluation:
    """Metrics of runs and scores; the figures of `atft-engine evaluate --json`.

    Several sources are averaged: the mean of their z-scores within the day, on the samples that all of them score.

    A frame of scores says nothing of where they come from. Whether its days are in sample, and of which cache it is,
    cannot be asked as it is of a run or of a score file that a run wrote.

    Args:
        sources: runs (a `Run`, or its folder), folders of folds, score files, and frames of scores with the columns
            `date`, `code` and `score_H`: of Polars, or anything with the Arrow C stream (pandas, pyarrow, DuckDB).
        against: one such source, to compare RankICs with day by day.
        cache: a folder, a URL or a `Panel`; default: that of the first run among the sources, else cache/.
        split: "train", "valid" or "test", of runs by their own dates. Of a frame it is a name.
        start, end: these days instead, both included.
        in_sample: allow days at or before the last validation day of a source.
        stack_until: weigh the sources by their scores up to this day, and evaluate the days after it.
        cost_bps: of `sharpe_net`: cost of turnover in 1/10,000.
        periods_per_year: of Sharpe ratios; default: that of the cache's calendar.

    Raises InputError for sources that cannot be read, scores of another cache, sources of different splits, days in
    sample that are not allowed, sources that share no horizon or row, and where Polars is not installed.
    """
    pl = polars("evaluate")
    with naming_arguments():
        asked = asked_days(split, start, end, in_sample)
        other = None if against is None else _sources([against], "the scores of against=")[0]
        result = evaluate_sources(
            _sources(sources), split, other, None if cache is None else cache_path(cache), cost_bps, periods_per_year,
            start=asked.start, end=asked.end, in_sample=in_sample,
            stack_until=None if stack_until is None else iso_date(stack_until, "stack_until="),
        )  # fmt: skip
    result = finite(result)
    ((name, metrics),) = result["splits"].items()
    compared = result.get("against")
    return Evaluation(
        split=name,
        days=result["days"],
        metrics=_table(pl, metrics),
        against=None if compared is None else _table(pl, compared),
        notes=result["notes"],
        in_sample=result["in_sample"],
        periods_per_year=result["periods_per_year"],
        stack=result.get("stack"),
    )


def ic(
    *sources: Any,
    cache: str | Path | Panel | None = None,
    split: str = "test",
    start: Date | None = None,
    end: Date | None = None,
    in_sample: bool = False,
) -> "pl.DataFrame":
    """IC by day and horizon; its means are those of `evaluate`.

    Columns: `date` (Date), `horizon` (Int64), `ic` and `rank_ic` (Float64): Pearson's and Spearman's correlation of
    scores and targets over the day's samples; `rank_ic_later` (Float64): the same scores entered a day later, null
    where fewer than 20 codes have that target; `samples` (Int64). Ordered by horizon and date. Days with fewer than
    20 samples have no row, and neither have those on which scores or targets are constant.

    Arguments, and errors, as of `evaluate`.
    """
    pl = polars("ic")
    with naming_arguments():
        asked = asked_days(split, start, end, in_sample)
        arrow = None if cache is None else cache_path(cache)
        opened = open_sources(
            _sources(sources), split, None, arrow, start=asked.start, end=asked.end, in_sample=in_sample
        )
        look_at(opened, "ic", opened.figures())
    schema = {
        "date": pl.Date, "horizon": pl.Int64, "ic": pl.Float64, "rank_ic": pl.Float64, "rank_ic_later": pl.Float64,
        "samples": pl.Int64,
    }  # fmt: skip
    frames = [
        pl.DataFrame(
            {
                "date": opened.panel.calendar[of.days.astype(int)],
                "horizon": [h] * len(of.days),
                "ic": of.ic,
                "rank_ic": of.rank_ic,
                "rank_ic_later": of.rank_ic_late,
                "samples": of.samples,
            },
            schema=schema,
            nan_to_null=True,
        )
        for h, of in ((h, opened.daily_ic(h)) for h in opened.horizons)
    ]
    return pl.concat(frames)


def _sources(given: Any, name: str = "the scores") -> list[Scored]:
    """What `engine.evaluation` takes. Raises InputError for what is no source."""
    import polars as pl

    if not given:
        raise InputError("sources", "there are none", "Give runs, score files or frames of scores")
    found: list[Scored] = []
    for number, each in enumerate(given, 1):
        if isinstance(each, Run):
            found.append(each.folder)
        elif isinstance(each, str | PathLike):
            found.append(Path(fspath(each)))
        elif isinstance(each, pl.LazyFrame) or hasattr(each, "__arrow_c_stream__"):
            found.append(_score_table(each, name if len(given) == 1 else f"{name}, source {number}"))
        else:
            cure = "Give a Run, a path, or a frame with date, code and score_H"
            raise InputError("sources", f"{type(each).__name__} is no run and holds no scores", cure)
    return found


def _score_table(frame: Any, name: str) -> ScoreTable:
    import polars as pl

    if isinstance(frame, pl.LazyFrame | pl.DataFrame):
        return ScoreTable(name, frame.lazy().collect().to_arrow())  # whose text older pyarrow reads, too
    try:
        return ScoreTable(name, pa.RecordBatchReader.from_stream(frame).read_all())
    except (pa.ArrowException, TypeError, ValueError) as error:
        line = " ".join(str(error).split())
        raise InputError(name, f"cannot be read ({line})", "Give each column one type and a name of its own") from error


def _table(pl: Any, by_horizon: dict[str, dict[str, Any]]) -> "pl.DataFrame":
    """A row per horizon; counts are integers, all else floats."""
    names = next(iter(by_horizon.values()))
    schema = {"horizon": pl.Int64} | {name: pl.Int64 if name in _COUNTS else pl.Float64 for name in names}
    rows = [{"horizon": int(h)} | metrics for h, metrics in by_horizon.items()]
    return pl.DataFrame(rows, schema=schema)
