"""Against a rival: RankICs of the same days and names, paired."""

from dataclasses import replace

from engine.evaluation.opened import Pairs
from engine.reporting.content import Cell, Item, Missing, Section, Table, horizon_name, shown
from engine.reporting.sections.rank_ic import cumulative_figure
from engine.reporting.style import colour
from engine.reporting.subject import Subject
from engine.score.tables import COMPARISON

TITLE = "Against the rival"


def section(subject: Subject) -> Section:
    intro = "Both sides on the same days and names, so that what moves both of them drops out."
    if subject.against is None:
        return Section(TITLE, intro, [Missing("Paired comparison", "no rival was named: pass --against RUN|SCORES")])
    found = subject.result["against"]
    columns = ["", *(horizon_name(h, subject.period) for h in found)]
    rows: list[list[Cell | str]] = [
        [Cell(name.strip(), strong=True), *(shown(values[key], form) for values in found.values())]
        for key, (name, form) in COMPARISON.items()
    ]
    table = Table(
        f"Less {subject.against}",
        "RankIC of both sides and the mean of their daily differences, with the t and p of that mean being zero.",
        columns, rows, half=True,
    )  # fmt: skip
    items: list[Item] = [table]
    pairs = {int(h): subject.opened.pairs(int(h)) for h in found}
    known = {h: pair for h, pair in pairs.items() if len(pair.days)}
    if known:
        items.append(_difference(subject, known))
    return Section(TITLE, intro, items)


def _difference(subject: Subject, known: dict[int, Pairs]) -> Item:
    lines = [
        (f"{horizon_name(h, subject.period)} ahead", subject.panel.calendar[pair.days], pair.ours - pair.against, h,
         colour(i))
        for i, (h, pair) in enumerate(known.items())
    ]  # fmt: skip
    says = (
        "The sum of the daily differences of RankIC so far: it climbs where the model ranks better and falls where the "
        "rival does. The band holds a difference that is the same at all times, on 95% of paths."
    )
    return replace(cumulative_figure("Cumulative difference of RankIC", says, "sum of differences", lines), half=True)
