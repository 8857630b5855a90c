"""What trading the scores asks for: turnover, and how many names are scored."""

from typing import Any

import numpy as np

from engine.reporting.content import Figure, Item, Missing, Section, dates, horizon_name, numbers
from engine.reporting.style import BLUE, GREY, colour, layout, line
from engine.reporting.subject import Subject
from engine.score.rows import present_rows
from loaders.cache.format import SCORED

WINDOW = 20  # rebalances of a rolling mean


def section(subject: Subject) -> Section:
    known = {h: found for h in subject.horizons if (found := subject.daily(h)) is not None}
    items: list[Item] = [
        _turnover(subject, known) if known else Missing("Turnover", "no day counts"),
        _coverage(subject),
    ]
    return Section(
        "Trading and coverage", "How much of the book changes, and how many names it can choose from.", items
    )


def _turnover(subject: Subject, known: dict[int, Any]) -> Item:
    data = []
    for i, (h, (when, daily)) in enumerate(known.items()):
        values = daily.turnover[h:]  # the first h buy theirs from nothing
        window = min(WINDOW, len(values))
        if not window:
            continue
        mean = np.convolve(values, np.ones(window) / window, "valid")
        name = horizon_name(h, subject.period)
        data.append(line(dates(when[h + window - 1 :]), numbers(mean), f"every {name}", colour(i)))
    if not data:
        return Missing("Turnover", "there is one rebalance alone")
    says = (
        f"Share of the book that a rebalance replaces, mean of the last {WINDOW}: 0 is no trade, 2 a wholly new book, "
        "1 long and 1 short. Costs are in proportion to it."
    )
    return Figure(
        "Turnover", says, data, layout("turnover", dated=True, form=".2f", yaxis={"rangemode": "tozero"}), half=True
    )


def _coverage(subject: Subject) -> Figure:
    panel, days = subject.panel, subject.days
    present = present_rows(panel, days)
    universe = present.day[panel.presence[present.rows] == SCORED]
    rows = subject.opened.rows
    rows = rows[panel.presence[rows] == SCORED]
    code = panel.code_of(rows)
    scored = rows - panel.offset[code] + panel.first[code]
    size = len(days)
    counts = [np.bincount(day - days.start, minlength=size)[:size].astype(float) for day in (universe, scored)]
    x = dates(panel.calendar[days.start : days.stop])
    data = [
        line(x, numbers(counts[0]), "in the universe", GREY, line={"dash": "dot"}),
        line(x, numbers(counts[1]), "scored", BLUE),
    ]
    says = f"Names of the universe on each {subject.period}, and those of them with a score: a gap is what has none."
    return Figure(
        "Names scored", says, data, layout("names", dated=True, form=",", yaxis={"rangemode": "tozero"}), half=True
    )
