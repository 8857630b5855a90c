"""Metrics as tables for a terminal and as JSON. What is not defined (NaN) is a dash in a table and null in JSON.

`summary.json`, of a run or of folds, holds a checksum of itself (loaders/disk/content.py), and is read by one function.
"""

import json
import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, ValidationError
from rich import box
from rich.console import Group
from rich.table import Table

from engine.score.metrics import METRICS, Metrics
from loaders.cache.atomic import write_atomically
from loaders.disk.content import checked_json, find_file, in_words, with_checksum
from loaders.errors import InputError

_METRICS = {name: (metric.label, metric.form) for name, metric in METRICS.items()}
WIDTH, GAP = 80, 3  # characters of a table, and between its columns
COMPARISON = {
    "rank_ic": ("RankIC", ".4f"),
    "rank_ic_against": ("RankIC against", ".4f"),
    "difference": ("difference", "+.4f"),
    "difference_se": ("  standard error", ".4f"),
    "difference_t": ("  t", "+.1f"),
    "difference_p": ("  p", ".2g"),
    "days": ("days", ",.0f"),
    "samples": ("samples", ",.0f"),
}


def metrics_table(
    title: str,
    results: dict[str, Metrics],
    periods_per_year: float | None,
    cost_bps: float = 10.0,
    notes: Sequence[str] = (),
) -> Group:
    """One column per horizon, one line per metric, and what Sharpe ratios rest on.

    Args:
        title: names the source of the figures and their days.
        periods_per_year: that made them annual. None: not known, and so there are none.
        cost_bps: that they are net of.
        notes: what has to be said with the figures, such as days that are in sample; stands below them.
    """
    below = [_of_sharpe(periods_per_year, cost_bps), *notes]
    return Group(title, *_tables([_by_horizon(results)], _METRICS), *below)


def splits_table(
    title: str,
    splits: dict[str, dict[str, Metrics]],
    days: dict[str, str],
    periods_per_year: float | None,
    cost_bps: float = 10.0,
    notes: Sequence[str] = (),
) -> Group:
    """The same of several parts side by side, such as valid and test.

    Args:
        days: in words, of each part.
    """
    parts = [_by_horizon(results, f"{name}\n") for name, results in splits.items()]
    heading = [title, *(f"{name} {days[name]}" for name in splits)]
    return Group(*heading, *_tables(parts, _METRICS), _of_sharpe(periods_per_year, cost_bps), *notes)


def comparison_table(title: str, results: dict[str, Metrics], notes: Sequence[str] = ()) -> Group:
    """The same for the paired comparison that `evaluate` returns under "against"."""
    return Group(title, *_tables([_by_horizon(results)], COMPARISON), *notes)


def years_table(title: str, years: dict[str, Metrics]) -> Group:
    """One line per year of what `by_year` returns for a horizon."""
    every = _METRICS | COMPARISON
    rows = {name: every[name] for metrics in years.values() for name in metrics}
    table = plain_table()
    table.add_column("year", no_wrap=True)
    for label, _ in rows.values():
        table.add_column(label.strip(), justify="right", no_wrap=True)
    for year, metrics in years.items():
        table.add_row(year, *_column(metrics, rows))
    return Group(title, table)


def plain_table() -> Table:
    """An empty table in the look of all: a line below the headings and no other."""
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)


def _by_horizon(results: dict[str, Metrics], before: str = "") -> dict[str, Metrics]:
    return {f"{before}h={h}": metrics for h, metrics in results.items()}


def _of_sharpe(periods_per_year: float | None, cost_bps: float) -> str:
    if periods_per_year is None:
        return "No Sharpe: the cache does not say how many periods a year has (--periods-per-year)"
    return f"Sharpe: {periods_per_year:g} periods a year; costs: {cost_bps:g} bp of turnover, half of what is traded"


def _tables(parts: Sequence[dict[str, Metrics]], rows: dict[str, tuple[str, str]]) -> Iterator[Table]:
    """The columns of all parts side by side where they fit into WIDTH, else those of each part, as many as fit."""
    columns = {heading: _column(metrics, rows) for part in parts for heading, metrics in part.items()}
    labels = [label for label, _ in rows.values()]
    widths = [GAP + max(map(len, [*heading.splitlines(), *cells])) for heading, cells in columns.items()]
    room = WIDTH - max(map(len, labels))
    if len(parts) > 1 and sum(widths) > room:
        for part in parts:
            yield from _tables([part], rows)
        return
    headings = list(columns)
    while headings:
        fitting = max(sum(total <= room for total in accumulate(widths)), 1)
        some, headings, widths = headings[:fitting], headings[fitting:], widths[fitting:]
        table = plain_table()
        table.add_column("metric", no_wrap=True)
        for heading in some:
            table.add_column(heading, justify="right", no_wrap=True)
        for label, *cells in zip(labels, *(columns[heading] for heading in some), strict=True):
            table.add_row(label, *cells)
        yield table


def _column(metrics: Metrics, rows: dict[str, tuple[str, str]]) -> list[str]:
    values = ((metrics[key], form) for key, (_, form) in rows.items())
    return ["–" if value is None or value != value else format(value, form) for value, form in values]


def finite(value: Any) -> Any:
    """The same nested structure with numbers that are NaN or infinite replaced by None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON text, null for numbers that are NaN or infinite."""
    return json.dumps(finite(value), indent=indent, allow_nan=False)


SUMMARY = "summary.json"  # in the folder of a run, or of folds


def _complete(metrics: dict[str, Any]) -> dict[str, Any]:
    for name in METRICS:
        if name not in metrics:
            raise ValueError(f"{name} is missing")
    return metrics


Number = Annotated[float, Field(allow_inf_nan=False)] | None
Parts = dict[str, dict[str, Annotated[dict[str, Number], AfterValidator(_complete)]]]  # part -> horizon -> metrics


class _Span(BaseModel, strict=True):
    first: str
    last: str
    days: int


class _Summary(BaseModel, strict=True):
    cache_id: str
    days: dict[str, _Span]
    notes: list[str]
    splits: Parts
    periods_per_year: Number


class _OfRun(_Summary):
    run_id: str
    config_hash: str
    device: str
    epochs: int
    best_epoch: int
    throughput: dict[str, Number]


class _Fold(BaseModel, strict=True):
    run_id: str
    test_start: str
    test_end: str
    rank_ic: Annotated[dict[str, Number], Field(min_length=1)]


class _OfFolds(_Summary):
    folds: Annotated[list[_Fold], Field(min_length=1)]


def write_summary(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Write summary.json, and give what it says: the content, null where a number is not finite, with its checksum.

    Raises WriteError where it cannot be written.
    """
    signed = with_checksum(finite(content))
    write_atomically(folder / SUMMARY, to_json(signed, indent=2).encode())
    return signed


def find_summary(folder: Path) -> dict[str, Any] | None:
    """The content of the summary.json of a run, or of folds; None where there is none yet.

    Raises InputError where it cannot be read, is damaged or was edited.
    """
    path, cure = folder / SUMMARY, f"Remove it, then resume: `atft-engine train --resume --out {folder}` writes it anew"
    content = find_file(path, cure)
    if content is None:
        return None
    summary = checked_json(content, str(path), cure)
    try:
        (_OfFolds if "folds" in summary else _OfRun).model_validate(summary)
    except ValidationError as error:
        raise InputError(str(path), in_words(error), cure) from error
    return summary


def read_summary(folder: Path) -> dict[str, Any]:
    """The same. Raises InputError where there is none too."""
    summary = find_summary(folder)
    if summary is None:
        raise InputError(str(folder), f"has no {SUMMARY} yet", "Train it to its end, or resume it")
    return summary
