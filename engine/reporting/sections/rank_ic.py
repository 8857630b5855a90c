"""RankIC over time: by day, cumulative, by month and year.

T days, W days of a window
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.reporting.content import Cell, Figure, Item, Missing, Section, Table, dates, horizon_name, numbers, shown
from engine.reporting.style import band, colour, dots, faint, layout, line
from engine.reporting.subject import Subject
from engine.score.standard_error import degrees_of_freedom, half_width, mean_test

Float = npt.NDArray[np.float64]

WINDOW = 60  # days of a rolling mean
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def section(subject: Subject) -> Section:
    items: list[Item] = []
    known = {h: found for h in subject.horizons if (found := subject.daily(h)) is not None}
    for h in subject.horizons:
        if h not in known:
            why = f"no {subject.period} has 20 samples and scores that differ"
            items.append(Missing(f"RankIC for {horizon_name(h, subject.period)}", why))
    half = len(known) > 1
    items += [_by_day(subject, i, h, *known[h], half=half) for i, h in enumerate(known)]
    if known:
        items.append(_cumulative(subject, known))
    items += [_calendar(subject, h, found[0], found[1].rank_ic) for h, found in known.items()]
    intro = f"Rank correlation of the scores with the returns that followed, {subject.period} by {subject.period}."
    return Section("RankIC over time", intro, items)


def rolling(rank_ic: Float, horizon: int, window: int) -> tuple[Float, Float]:
    """Mean of each window of a daily series [T], and half the width of its 95% interval: [T - W + 1] each."""
    windows = np.lib.stride_tricks.sliding_window_view(rank_ic, window)
    se = mean_test(windows, horizon).se
    unit = half_width(1.0, window, horizon) if degrees_of_freedom(window, horizon) else np.nan
    return windows.mean(1), unit * se


def steady(series: Float, horizon: int) -> tuple[Float, Float]:
    """Where the sum of a daily series would be if its mean held all the time, [T], and half the width of the band that
    holds it on 95% of paths at each day."""
    days = np.arange(1, len(series) + 1)
    half = half_width(float(mean_test(series, horizon).se), len(series), horizon)
    return series.mean() * days, half * np.sqrt(days * len(series))


def cumulative_figure(title: str, says: str, y: str, lines: list[tuple[str, Any, Float, int, str]]) -> Figure:
    """Sums of daily series with their bands; a line is name, dates [T], series [T], horizon, colour."""
    data = []
    for name, when, series, horizon, shade in lines:
        middle, half = steady(series, horizon)
        x = dates(when)
        if np.isfinite(half).all():
            data += band(x, numbers(middle - half), numbers(middle + half), shade, name)
        data.append(line(x, numbers(np.cumsum(series)), name, shade, legendgroup=name))
    return Figure(title, says, data, layout(y, dated=True), height=340)


def _by_day(subject: Subject, i: int, horizon: int, when: Any, daily: Any, *, half: bool) -> Figure:
    rank_ic, x, shade = daily.rank_ic, dates(when), colour(i)
    window = min(WINDOW, max(len(rank_ic) // 4, 3))
    data = [
        dots(
            x,
            numbers(rank_ic),
            f"one {subject.period}",
            shade,
            legendgroup="one",
            marker={"color": faint(shade, 0.24), "size": 3.5},
        )
    ]
    if len(rank_ic) >= window:
        mean, width = rolling(rank_ic, horizon, window)
        if np.isfinite(width).all():
            data += band(x[window - 1 :], numbers(mean - width), numbers(mean + width), shade, "mean")
        data.append(
            line(x[window - 1 :], numbers(mean), f"mean of {window} {subject.period}s", shade, legendgroup="mean")
        )
    says = (
        f"Dots are single {subject.period}s, the line is the mean of the last {window} with its 95% interval: "
        f"where the band lies above zero, the ranking of that stretch was right beyond chance."
    )
    title = f"RankIC by {subject.period}, {horizon_name(horizon, subject.period)} ahead"
    return Figure(title, says, data, layout("RankIC", dated=True, form=".2f"), half=half)


def _cumulative(subject: Subject, known: dict[int, Any]) -> Figure:
    lines = [
        (f"{horizon_name(h, subject.period)} ahead", when, daily.rank_ic, h, colour(i))
        for i, (h, (when, daily)) in enumerate(known.items())
    ]
    says = (
        "The sum of RankIC so far; a straight line is a steady forecast. The band holds the sum of a forecast whose "
        "true RankIC is the mean at all times on 95% of paths: a line that leaves it changed its strength."
    )
    return cumulative_figure("Cumulative RankIC", says, "sum of RankIC", lines)


def _calendar(subject: Subject, horizon: int, when: Any, rank_ic: Float) -> Item:
    years = when.astype("datetime64[Y]").astype(int) + 1970
    month = when.astype("datetime64[M]").astype(int) % 12
    scale = max(float(np.quantile(np.abs(_means(years * 12 + month, rank_ic)), 0.9)), 1e-9)
    rows: list[list[Cell | str]] = []
    for year in np.unique(years):
        here = years == year
        cells: list[Cell | str] = [Cell(str(year), strong=True)]
        for m in range(12):
            values = rank_ic[here & (month == m)]
            mean = float(values.mean()) if len(values) else np.nan
            cells.append(Cell(shown(mean, ".3f"), 0.0 if np.isnan(mean) else float(np.clip(mean / scale, -1, 1))))
        test = mean_test(rank_ic[here], horizon)
        cells += [Cell(shown(float(rank_ic[here].mean()), ".4f"), strong=True), Cell(shown(float(test.t), ".1f"))]
        rows.append(cells)
    says = (
        f"Mean RankIC of each month and year, blue above zero and orange below; t tests that the year's mean is zero. "
        f"Months hold about 20 {subject.period}s, so single ones vary much."
        if subject.period == "day"
        else "Mean RankIC of each month and year, blue above zero and orange below."
    )
    title = f"RankIC by month, {horizon_name(horizon, subject.period)} ahead"
    return Table(title, says, ["", *MONTHS, "year", "t"], rows)


def _means(group: npt.NDArray[np.int64], values: Float) -> Float:
    _, place = np.unique(group, return_inverse=True)
    return np.bincount(place, values) / np.bincount(place)
