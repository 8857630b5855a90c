"""Figures of runs and score files, from the same metrics, on the same samples, in the same table.

Several sources are averaged: the mean of their z-scores within the day, on the samples that all of them score. A
comparison takes the daily RankICs of both sides on the samples that both score, and tests the mean of the paired
differences.

N rows, H horizons
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from engine.config import Config, load_config
from engine.metrics import (
    Figures,
    Samples,
    daily_rank_ic,
    figures_of,
    newey_west_se,
    samples_of,
    split_metrics,
    zscores_within_day,
)
from engine.scores import Scores, present_rows, read_scores, rows_in_panel
from loaders.cache.format import SCORED
from loaders.errors import InputError
from loaders.panel import Panel, open_panel
from loaders.split import Days

Int = npt.NDArray[np.int64]

_LABELS = {  # figure: what the table calls it, and how it prints
    "rank_ic": ("RankIC", ".4f"),
    "rank_ic_se": ("  standard error", ".4f"),
    "rank_ic_t": ("  t", ".1f"),
    "rank_icir": ("RankICIR", ".3f"),
    "ic": ("IC", ".4f"),
    "icir": ("ICIR", ".3f"),
    "decile_spread": ("decile spread", ".3%"),
    "sharpe": ("Sharpe", ".2f"),
    "sharpe_net": ("  after costs", ".2f"),
    "turnover": ("turnover", ".2f"),
    "days": ("days", ",.0f"),
    "samples": ("samples", ",.0f"),
}
_COMPARED = {
    "rank_ic": ("RankIC", ".4f"),
    "rank_ic_against": ("RankIC against", ".4f"),
    "difference": ("difference", "+.4f"),
    "difference_se": ("  standard error", ".4f"),
    "difference_t": ("  t", "+.1f"),
    "days": ("days", ",.0f"),
    "samples": ("samples", ",.0f"),
}


@dataclass(frozen=True)
class _Source:
    """One run or score file, on the rows of the panel."""

    name: str
    split: str
    rows: Int  # [N] ascending
    values: dict[int, npt.NDArray[np.float32]]  # horizon -> [N]

    def at(self, rows: Int, horizon: int) -> npt.NDArray[np.float32]:
        return self.values[horizon][np.searchsorted(self.rows, rows)]


@dataclass(frozen=True)
class PartSamples:
    """What the figures of a part need and no score changes: made once, for scores of every epoch."""

    code: Int  # [N] the code's number of each present row, in the order of `present_rows`
    samples: dict[int, Samples]  # horizon -> those of the N rows that are scored and have a target


def part_samples(panel: Panel, part: Days) -> PartSamples:
    """The samples of a part, for `figures_of_part`."""
    rows, day, code = present_rows(panel, part)
    targets = panel.targets[rows]
    targets[panel.presence[rows] != SCORED] = np.nan
    return PartSamples(code, {h: samples_of(targets[:, i], day) for i, h in enumerate(panel.manifest.horizons)})


def figures_of_part(
    prepared: PartSamples, scores: npt.NDArray[np.floating], cost_bps: float = 10.0
) -> dict[str, Figures]:
    """Figures per horizon (keyed "1", "5", ...) of scores [N, H] in the order of `present_rows`.

    Only samples count: scored rows with a target. A figure that is not defined is NaN.
    """
    expected = (len(prepared.code), len(prepared.samples))
    if scores.shape != expected:
        raise ValueError(f"scores of shape {scores.shape} for a part of {expected[0]} rows and {expected[1]} horizons")
    return {
        str(h): figures_of(samples, scores[:, i], prepared.code, h, cost_bps)
        for i, (h, samples) in enumerate(prepared.samples.items())
    }


def evaluate_scores(
    panel: Panel, part: Days, scores: npt.NDArray[np.floating], cost_bps: float = 10.0
) -> dict[str, Figures]:
    """`figures_of_part` of scores that are evaluated once."""
    return figures_of_part(part_samples(panel, part), scores, cost_bps)


def evaluate(
    paths: list[Path], split: str, against: Path | None, arrow: str | None, cost_bps: float = 10.0
) -> dict[str, Any]:
    """Figures of the average of runs and score files, and their comparison with another.

    Args:
        paths: run folders, scored here on `split`, folders of folds, and score files, whose own rows count.
        against: a run folder or score file to compare with.
        arrow: the cache; default: that of the first run among the paths, else cache/.

    Returns {"splits": {split: {horizon: figures}}} and, with `against`, "against": {horizon: {rank_ic,
    rank_ic_against, difference, difference_se, difference_t, days, samples}}; difference_t is Newey-West's t of the
    mean daily difference of RankIC. A score file's own split names its figures.

    Raises InputError for unreadable files, scores of another cache, sources of different splits, and sources that
    share no horizon or sample.
    """
    every = paths if against is None else [*paths, against]
    panel = open_panel(*(_cache_of(every) if arrow is None else (arrow,)))
    sources = [_source(path, panel, split, arrow) for path in every]
    if len({source.split for source in sources}) > 1:
        found = ", ".join(f"{source.name} is {source.split}" for source in sources)
        raise InputError("evaluate", f"different splits: {found}", "Compare scores of one split")
    ours = sources[: len(paths)]
    rows = _common_rows(ours)
    figures = {}
    for h in _common_horizons(ours, panel):
        values, targets, day, code = _samples(panel, ours, rows, h)
        figures[str(h)] = split_metrics(values, targets, day, code, h, cost_bps)
    result: dict[str, Any] = {"splits": {ours[0].split: figures}}
    if against is not None:
        result["against"] = _compare(panel, ours, sources[-1])
    return result


def metrics_table(title: str, results: dict[str, Figures]) -> Table:
    """One column per horizon, one line per figure; an undefined figure (NaN or None) is a dash."""
    return _table(title, results, _LABELS)


def comparison_table(title: str, results: dict[str, Figures]) -> Table:
    """The same for the paired comparison that `evaluate` returns under "against"."""
    return _table(title, results, _COMPARED)


def _table(title: str, results: dict[str, Figures], labels: dict[str, tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("figure")
    for horizon in results:
        table.add_column(f"h={horizon}", justify="right")
    for key, (label, form) in labels.items():
        values = [figures[key] for figures in results.values()]
        table.add_row(label, *("–" if value is None or value != value else format(value, form) for value in values))
    return table


def _cache_of(paths: list[Path]) -> tuple[str, str]:
    """Where the cache of the first run lies, and where copies of remote ones do."""
    runs = (load_config(path / "config.toml", []) for path in paths if (path / "config.toml").exists())
    data = next(runs, Config()).data
    return data.arrow, data.store


def _source(path: Path, panel: Panel, split: str, arrow: str | None) -> _Source:
    if path.is_dir():
        from engine.folds import holds_folds, read_joined  # these import torch's model code: not needed for score files
        from engine.predict import predict_run

        scores = read_joined(path, split) if holds_folds(path) else predict_run(path, arrow, split)
    else:
        scores = read_scores(path)
    _check_cache(scores, panel, path)
    rows = rows_in_panel(scores, panel, str(path))
    order = np.argsort(rows)
    values = {h: column[order] for h, column in scores.values.items()}
    return _Source(str(path), scores.metadata.get("split", split), rows[order], values)


def _check_cache(scores: Scores, panel: Panel, path: Path) -> None:
    expected, found = panel.manifest.cache_id, scores.metadata.get("cache_id", panel.manifest.cache_id)
    if found != expected:
        what = f"made from cache {found}, but {panel.folder} is {expected}"
        raise InputError(str(path), what, "Pass the cache it was made from as --arrow")


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


def _samples(panel: Panel, sources: list[_Source], rows: Int, h: int) -> tuple[npt.NDArray[Any], ...]:
    """Averaged scores, targets, calendar indices and codes of the horizon's samples among the rows."""
    target = panel.targets[rows, panel.manifest.horizons.index(h)]
    sample = (panel.presence[rows] == SCORED) & np.isfinite(target)
    rows, target = rows[sample], target[sample]
    code = panel.code_of(rows)
    day = rows - panel.offset[code] + panel.first[code]
    columns: list[npt.NDArray[Any]] = [source.at(rows, h) for source in sources]
    if len(columns) > 1:
        columns = [zscores_within_day(column, day) for column in columns]
    return np.mean(columns, 0), target, day, code


def _compare(panel: Panel, ours: list[_Source], other: _Source) -> dict[str, Figures]:
    rows = _common_rows([*ours, other])
    result: dict[str, Figures] = {}
    for h in _common_horizons([*ours, other], panel):
        values, targets, day, _ = _samples(panel, ours, rows, h)
        days, rank_ic = daily_rank_ic(values, targets, day)
        _, rank_ic_against = daily_rank_ic(_samples(panel, [other], rows, h)[0], targets, day)
        both = np.isfinite(rank_ic) & np.isfinite(rank_ic_against)
        rank_ic, rank_ic_against = rank_ic[both], rank_ic_against[both]
        difference = rank_ic - rank_ic_against
        mean = float(difference.mean()) if len(difference) else np.nan
        se = newey_west_se(difference, max(h - 1, 5))
        result[str(h)] = {
            "rank_ic": float(rank_ic.mean()) if len(rank_ic) else np.nan,
            "rank_ic_against": float(rank_ic_against.mean()) if len(rank_ic) else np.nan,
            "difference": mean,
            "difference_se": se,
            "difference_t": mean / se if se > 0 else np.nan,
            "days": int(both.sum()),
            "samples": int(np.isin(day, days[both]).sum()),
        }
    return result
