"""Metrics of runs and score files, from the same function, on the same samples.

Several sources are averaged: the mean of their z-scores within the day, on the samples that all of them score. A
comparison takes the daily RankICs of both sides on the samples that both score, and tests the mean of the paired
differences.

N rows, H horizons
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.config_file import config_hash, load_config
from engine.evaluation.by_year import by_year
from engine.evaluation.opened import Opened, open_sources
from engine.evaluation.sources import Scored
from engine.reporting.looks import Count, Look, look_of, record
from engine.score.files import write_scores
from engine.score.rows import to_file
from loaders.disk.content import is_there
from loaders.progress import Progress, quiet


def evaluate(
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
    years: bool = False,
    out: Path | None = None,
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Metrics of the average of runs and score files, and their comparison with another.

    Args:
        paths: run folders, scored here on their own days of `split`, folders of folds, score files and tables, whose
            own rows count.
        against: a run folder or score file to compare with.
        arrow: the cache; default: that of the first run among the paths, else cache/.
        cost_bps: see `split_metrics`.
        periods_per_year: of Sharpe ratios; default: those of the cache's calendar, which may be unknown.
        start, end, in_sample: choose other days than a part's, see `Asked`.
        stack_until: last day that decides how the sources are weighed, see `open_sources`; with "stack", the weights by
            horizon and source, in what is returned.
        years: also year by year, under "years" of what is returned; see `by_year`.
        out: a score file to write: what was evaluated, averaged or stacked.
        progress: of scoring all sources.

    Returns {"splits": {split: {horizon: metrics}}, "periods_per_year": of Sharpe ratios} and, with `against`,
    "against": {horizon: {rank_ic, rank_ic_against, difference, difference_se, difference_t, difference_p, days,
    samples}}, the test of the mean daily difference of RankIC. A score file's own split names its metrics. "days" holds
    the {first, last, days} of both, "in_sample" whether some are, and "notes" what has to be said with the figures.
    "look" counts how often figures of these days were seen (engine/reporting/looks.py); None for days of training.

    Raises InputError for unreadable files, scores of another cache, sources of different splits, days at or before the
    last validation day of a source, unless they are asked for, and sources that share no horizon or sample.
    """
    opened = open_sources(
        paths, split, against, arrow, cost_bps, periods_per_year, start=start, end=end, in_sample=in_sample,
        stack_until=stack_until, progress=progress,
    )  # fmt: skip
    result = opened.figures()
    if years:
        result["years"] = by_year(opened)
    if out is not None:
        write_scores(out, to_file(opened.panel, opened.joined()))
    count = look_at(opened, "evaluate", result)
    return result | {"look": None if count is None else asdict(count) | {"ledger": str(count.ledger)}}


def look_at(opened: Opened, command: str, result: dict[str, Any]) -> Count | None:
    """Enter the look that figures of some sources are; None where they are none.

    Args:
        result: of `Opened.figures`.
    """
    look = look_of_sources(opened, command, result)
    return None if look is None else record(opened.panel.folder, look)


def look_of_sources(opened: Opened, command: str, result: dict[str, Any]) -> Look | None:
    """The look that figures of some sources are; None where they are none."""
    split, names = opened.split, [source.name for source in opened.ours]
    ids = " ".join(source.run_id for source in opened.ours if source.run_id) or None
    config = Path(names[0]) / "config.toml"
    known = config_hash(load_config(config, [])) if len(names) == 1 and is_there(config) else None
    days, metrics = result["days"][split], result["splits"][split]
    return look_of(command, names, split, days, metrics, opened.panel.manifest.cache_id, ids, known)
