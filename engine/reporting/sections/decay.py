"""How fast the forecast fades: RankIC for returns over more days, and when the book is entered later."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.reporting.content import Figure, Item, Missing, Section, horizon_name, numbers
from engine.reporting.style import colour, layout, line
from engine.reporting.subject import Subject
from engine.score.metrics import daily_rank_ic
from engine.score.rows import later_targets
from engine.score.standard_error import half_width, mean_test

AHEAD = (1, 2, 3, 4, 5, 7, 10, 15, 20)
DELAYS = (0, 1, 2, 3, 5, 7, 10, 15, 20)


def section(subject: Subject) -> Section:
    items: list[Item] = [_ahead(subject), _delay(subject)]
    intro = "A forecast that fades slowly can be traded slowly."
    return Section("Decay", intro, items)


def rank_ic_of(scores: Any, targets: Any, day: Any, horizon: int) -> tuple[float, float]:
    """Mean daily RankIC over the samples that have such a target, and half the width of its 95% interval."""
    known = np.isfinite(targets)
    values = daily_rank_ic(scores[known], targets[known], day[known])[1]
    values = values[np.isfinite(values)]
    if not len(values):
        return np.nan, np.nan
    days = np.unique(day)
    apart = max((days[-1] - days[0]) / max(len(days) - 1, 1), 1.0)  # of sampled days: labels overlap on fewer of them
    covered = max(math.ceil(horizon / apart), 1)
    return float(values.mean()), half_width(float(mean_test(values, covered).se), len(values), covered)


def delayed(subject: Subject, horizon: int, delays: tuple[int, ...]) -> list[tuple[float, float]]:
    """RankIC of the same scores, entered so many days later; a delay of 1 is `rank_ic_late`."""
    s, column = subject.samples(horizon), subject.panel.manifest.horizons.index(horizon)
    here = subject.sampled(s.day)
    rows, code, day, scores = s.rows[here], s.code[here], s.day[here], s.scores[here]
    return [
        rank_ic_of(scores, later_targets(subject.panel, rows, code, late)[:, column], day, horizon) for late in delays
    ]


def _delay(subject: Subject) -> Figure:
    data = []
    for i, h in enumerate(subject.horizons):
        data.append(_line(DELAYS, delayed(subject, h, DELAYS), f"return of {horizon_name(h, subject.period)}", i))
    says = (
        f"RankIC of the same scores when the position is taken so many {subject.period}s later, with 95% intervals: "
        f"what is left of the forecast for a slow trader.{subject.sampling}"
    )
    place = layout("RankIC", f"{subject.period}s between score and entry", form=".3f")
    return Figure("By delay of entry", says, data, place, half=True)


def _ahead(subject: Subject) -> Item:
    title, horizons = f"By {subject.period}s held", subject.panel.manifest.horizons
    if 1 not in horizons:
        have = ", ".join(map(str, horizons))
        return Missing(title, f"returns over other {subject.period}s are made of 1-{subject.period} returns, and the "
                       f"cache has targets over {have} alone")  # fmt: skip
    data = []
    for i, h in enumerate(subject.horizons):
        s = subject.samples(h)
        here = subject.sampled(s.day)
        rows, code, day, scores = s.rows[here], s.code[here], s.day[here], s.scores[here]
        growth: npt.NDArray[np.float64] = np.ones(len(rows))
        found = []
        for k in range(1, AHEAD[-1] + 1):
            with np.errstate(over="ignore", invalid="ignore"):  # of returns that no market has
                growth = growth * (1 + later_targets(subject.panel, rows, code, k - 1)[:, horizons.index(1)])
            if k in AHEAD:
                found.append(rank_ic_of(scores, growth - 1, day, k))
        data.append(_line(AHEAD, found, f"score for {horizon_name(h, subject.period)}", i))
    says = (
        f"RankIC of each score with returns over 1 to {AHEAD[-1]} {subject.period}s, compounded from single ones, with "
        f"95% intervals: a line that rises has more to earn by holding on.{subject.sampling}"
    )
    return Figure(title, says, data, layout("RankIC", f"{subject.period}s held", form=".3f"), half=True)


def _line(x: tuple[int, ...], found: list[tuple[float, float]], name: str, i: int) -> dict[str, Any]:
    means, widths = zip(*found, strict=True)
    error = {"type": "data", "array": numbers(widths), "thickness": 1, "width": 3}
    shift = [at + 0.08 * i for at in x]  # so that bars of several do not cover one another
    return line(
        shift, numbers(means), name, colour(i), mode="lines+markers", error_y=error, customdata=list(x),
        hovertemplate="%{customdata}: %{y:.4f}",
    )  # fmt: skip
