"""What a page is made of, before it is HTML: sections of figures, tables, and lines that say what is missing.

Text is plain: page.py escapes it. A figure is the `data` and `layout` of plotly.js as plain values, so that making one
needs no package.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from engine.score.metrics import METRICS


@dataclass(frozen=True)
class Figure:
    """A chart with a sentence that says what it shows and how to read it."""

    title: str
    says: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int = 320  # pixels
    half: bool = False  # whether it takes half of the width where there is room


class Cell(NamedTuple):
    """Of a table. `shade` in -1..1 colours it, from low to high; `strong` sets it apart."""

    text: str
    shade: float = 0.0
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a sentence that says how to read it; its first column names the rows."""

    title: str
    says: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    half: bool = False


@dataclass(frozen=True)
class Missing:
    """A part that cannot be computed, and why."""

    title: str
    reason: str


Item = Figure | Table | Missing


@dataclass(frozen=True)
class Section:
    """A heading, a line below it, and what stands there."""

    title: str
    intro: str
    items: list[Item] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


def shown(value: float | None, form: str) -> str:
    """A number as `engine.score.tables` shows it: a dash where it is not defined."""
    return "–" if value is None or not math.isfinite(value) else format(value, form).replace("-", "−")


def metric(name: str, metrics: Mapping[str, float | None]) -> str:
    """A metric as tables of the terminal show it."""
    return shown(metrics[name], METRICS[name].form)


def label(text: Any) -> str:
    """Text for plotly.js, which reads tags in its labels."""
    return html.escape(str(text), quote=False)


def numbers(values: Iterable[Any]) -> list[float | None]:
    """Numbers for a figure, to six digits; None where they are not finite."""
    array = np.asarray(list(values) if not isinstance(values, np.ndarray) else values, np.float64)
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in array.tolist()]


def dates(values: Iterable[Any]) -> list[str]:
    """Dates for a figure, ISO."""
    return [str(value) for value in values]


def horizon_name(horizon: int | str, period: str = "day") -> str:
    """A horizon in words, such as 5 days."""
    return f"{horizon} {period}{'' if int(horizon) == 1 else 's'}"
