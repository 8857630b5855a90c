"""Metrics as tables for a terminal and as JSON. What is not defined (NaN) is a dash in a table and null in JSON."""

import json
import math
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from engine.score.metrics import METRICS, Metrics

_METRICS = {name: (metric.label, metric.form) for name, metric in METRICS.items()}
_COMPARISON = {
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
) -> Table:
    """One column per horizon, one line per metric, and what Sharpe ratios rest on.

    Args:
        title: names the source of the figures and their days.
        periods_per_year: that made them annual. None: not known, and so there are none.
        cost_bps: that they are net of.
        notes: what has to be said with the figures, such as days that are in sample; stands below them.
    """
    sharpe = (
        "No Sharpe: the cache does not say how many periods a year has (--periods-per-year)"
        if periods_per_year is None
        else f"Sharpe: {periods_per_year:g} periods a year; costs: {cost_bps:g} bp of turnover, half of what is traded"
    )
    return _table(title, results, [sharpe, *notes], _METRICS)


def comparison_table(title: str, results: dict[str, Metrics], notes: Sequence[str] = ()) -> Table:
    """The same for the paired comparison that `evaluate` returns under "against"."""
    return _table(title, results, notes, _COMPARISON)


def _table(title: str, results: dict[str, Metrics], notes: Sequence[str], rows: dict[str, tuple[str, str]]) -> Table:
    below = _whole("\n".join(notes)) if notes else None
    table = Table(title=_whole(title), title_justify="left", caption=below, caption_justify="left")
    table.add_column("metric")
    for horizon in results:
        table.add_column(f"h={horizon}", justify="right")
    for key, (label, form) in rows.items():
        values = [metrics[key] for metrics in results.values()]
        table.add_row(label, *("–" if value is None or value != value else format(value, form) for value in values))
    return table


def _whole(text: str) -> Text:
    """Text whose lines are not broken at the table's width."""
    return Text(text, no_wrap=True, overflow="ignore")


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
