"""What the order of the scores earns: returns by tenth, and the book of the top tenth less the bottom tenth."""

from typing import Any

import numpy as np

from engine.reporting.content import (
    Cell,
    Figure,
    Item,
    Missing,
    Section,
    Table,
    dates,
    horizon_name,
    metric,
    numbers,
    shown,
)
from engine.reporting.style import BLUE, GREY, ORANGE, bars, colour, faint, layout, line
from engine.reporting.subject import Subject
from engine.score.metrics import daily_tenths
from engine.score.standard_error import half_width, mean_test

NAMES = ["bottom", *map(str, range(2, 10)), "top"]


def section(subject: Subject) -> Section:
    items: list[Item] = []
    half = len(subject.horizons) > 1
    known = {h: found for h in subject.horizons if (found := subject.daily(h)) is not None}
    for h in subject.horizons:
        if h in known:
            items.append(_tenths(subject, h, half))
        else:
            items.append(Missing(f"Return by tenth, {horizon_name(h, subject.period)}", "no day counts"))
    if known:
        items += [_cumulative(subject, known), _book(subject, known)]
    intro = f"Every {subject.period} the names are sorted by score and cut into ten groups of equal size."
    return Section("Returns by score", intro, items)


def _tenths(subject: Subject, horizon: int, half: bool) -> Figure:
    s = subject.samples(horizon)
    _, tenths = daily_tenths(s.scores, s.targets, s.day)
    above = tenths - tenths.mean(1, keepdims=True)
    test = mean_test(above.T, horizon)
    error = [half_width(float(se), len(above), horizon) for se in test.se]
    mean = above.mean(0)
    shades = [faint(BLUE if value >= 0 else ORANGE, 0.85) for value in mean]
    data = [
        bars(
            NAMES, numbers(mean), "", BLUE, marker={"color": shades},
            error_y={"type": "data", "array": numbers(error), "color": GREY, "thickness": 1.2, "width": 3},
            hovertemplate="%{x}: %{y:.3%}<extra></extra>",
        )
    ]  # fmt: skip
    says = (
        f"Mean return over {horizon_name(horizon, subject.period)} of each tenth less the mean of all ten, with 95% "
        f"intervals. Bars that climb from left to right mean that the whole order is right, not its ends alone."
    )
    title = f"Return by tenth, {horizon_name(horizon, subject.period)} ahead"
    named = {"type": "category", "dtick": 1}
    place = layout("above the mean", "tenth of the scores", form=".2%", legend=False, xaxis=named)
    return Figure(
        title,
        says,
        data,
        place,
        300,
        half,
    )


def _cumulative(subject: Subject, known: dict[int, Any]) -> Figure:
    data = []
    for i, (h, (when, daily)) in enumerate(known.items()):
        name, x = horizon_name(h, subject.period), dates(when)
        data.append(line(x, numbers(np.cumsum(daily.spread) / h), f"{name}, before costs", colour(i)))
        after = line(x, numbers(np.cumsum(daily.net) / h), f"{name}, after costs", colour(i), line={"dash": "dot"})
        data.append(after)
    says = (
        f"Sum of the returns of the top tenth less the bottom tenth, one unit long and one short. The book for h "
        f"{subject.period}s is renewed by a part of h each {subject.period}; costs are {subject.cost_bps:g} bp of "
        "turnover. Nothing is reinvested."
    )
    return Figure("Top tenth less bottom tenth", says, data, layout("sum of returns", dated=True, form=".0%"), 340)


def _book(subject: Subject, known: dict[int, Any]) -> Table:
    rows: list[list[Cell | str]] = []
    for h, (when, daily) in known.items():
        year = when.astype("datetime64[Y]")
        for each in np.unique(year):
            here = year == each
            spread, net = daily.spread[here], daily.net[here]
            rows.append([
                Cell(f"{each}, {horizon_name(h, subject.period)}", strong=True), f"{here.sum():,}",
                shown(float(spread.mean()), ".3%"),
                shown(daily.sharpe(spread), ".2f"), shown(daily.sharpe(net), ".2f"),
            ])  # fmt: skip
        values = subject.metrics[str(h)]
        rows.append([
            Cell(f"all, {horizon_name(h, subject.period)}", strong=True), Cell(metric("days", values), strong=True),
            *(Cell(metric(name, values), strong=True) for name in ("decile_spread", "sharpe", "sharpe_net")),
        ])  # fmt: skip
    columns = ["", f"{subject.period}s", "spread", "Sharpe", "after costs"]
    says = (
        "Mean return of the top tenth less the bottom tenth over the horizon, and the annual Sharpe ratio of that book "
        "before and after costs, by year."
    )
    return Table("The book by year", says, columns, rows)
