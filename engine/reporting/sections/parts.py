"""The network, what is added to it, and neutralisation apart: what each ranks alone, and what all do together."""

import numpy as np

from engine.reporting.content import Cell, Figure, Missing, Section, Table, horizon_name, label, numbers, shown
from engine.reporting.decomposition import scores_apart
from engine.reporting.style import colour, dots, layout
from engine.reporting.subject import Subject
from engine.score.metrics import Metrics, split_metrics
from engine.score.rows import later_targets
from engine.score.standard_error import half_width
from loaders.cache.format import SCORED

TITLE = "Parts of the score"
INTRO = (
    "The score adds an online regression to the network, trees and a refitted last layer where there are any, and "
    "removes a share of the exposure to risk factors."
)


def section(subject: Subject) -> Section:
    if subject.run is None:
        return Section(TITLE, INTRO, [Missing("Parts apart", subject.no_run)])
    if subject.brief:
        why = f"it takes more passes of the network; `atft-engine report {subject.folder}` makes them"
        return Section(TITLE, INTRO, [Missing("Parts apart", why)])
    panel, rows = subject.panel, subject.opened.rows
    code = panel.code_of(rows)
    targets = np.where((panel.presence[rows] == SCORED)[:, None], panel.targets[rows], np.nan)
    later, day = later_targets(panel, rows, code), rows - panel.offset[code] + panel.first[code]
    found, periods = {}, subject.result["periods_per_year"]
    for name, scores in scores_apart(subject.run, panel, subject.days, subject.opened.ours[0], rows).items():
        found[name] = {
            str(h): split_metrics(scores[:, i], targets[:, i], day, code, h, subject.cost_bps, periods, later[:, i])
            for i, h in enumerate(panel.manifest.horizons)
        }
    return Section(TITLE, INTRO, [_figure(subject, found), _table(subject, found)])


def _figure(subject: Subject, found: dict[str, dict[str, Metrics]]) -> Figure:
    data = []
    for i, h in enumerate(subject.horizons):
        values = [metrics[str(h)] for metrics in found.values()]
        error = [half_width(v["rank_ic_se"], int(v["days"]), h) for v in values]
        place = [at + 0.16 * (i - (len(subject.horizons) - 1) / 2) for at in range(len(found))]
        data.append(
            dots(
                numbers(v["rank_ic"] for v in values), place, f"{horizon_name(h, subject.period)} ahead", colour(i),
                marker={"size": 9}, error_x={"type": "data", "array": numbers(error), "thickness": 1.5, "width": 0},
                customdata=[label(name) for name in found], hovertemplate="%{customdata}: %{x:.4f}",
            )
        )  # fmt: skip
    says = "RankIC of each part by itself and of all together, with 95% intervals: what adds nothing stands at zero."
    names = {"tickvals": list(range(len(found))), "ticktext": [label(name) for name in found]}
    place_of = layout(
        "", "RankIC",
        xaxis={"zeroline": True, "showgrid": True, "tickformat": ".3f", "rangemode": "tozero", "nticks": 6,
               "tickangle": 0},
        yaxis={"autorange": "reversed", "zeroline": False, "automargin": True} | names,
    )  # fmt: skip
    return Figure("RankIC of the parts", says, data, place_of, height=150 + 46 * len(found))


def _table(subject: Subject, found: dict[str, dict[str, Metrics]]) -> Table:
    columns = [""]
    for h in subject.horizons:
        columns += [f"RankIC, {horizon_name(h, subject.period)}", "t", "one later", "Sharpe, net"]
    rows: list[list[Cell | str]] = []
    for name, metrics in found.items():
        cells: list[Cell | str] = [Cell(name, strong=True)]
        for h in subject.horizons:
            values = metrics[str(h)]
            forms = (("rank_ic", ".4f"), ("rank_ic_t", ".1f"), ("rank_ic_late", ".4f"), ("sharpe_net", ".2f"))
            cells += [shown(float(np.float64(values[key])), form) for key, form in forms]
        rows.append(cells)
    says = (
        f"The same with t, RankIC when entered one {subject.period} later, and the annual Sharpe ratio after costs; "
        "the last row is the model's own score."
    )
    return Table("Figures of the parts", says, columns, rows)
