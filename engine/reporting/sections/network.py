"""A look into the network: what its features weigh, what permuting them costs, how its quantiles are calibrated."""

import numpy as np
import numpy.typing as npt

from engine.reporting.content import Cell, Figure, Item, Missing, Section, Table, horizon_name, label, numbers, shown
from engine.reporting.probe import MOST_FEATURES, Probe, probe
from engine.reporting.style import BLUE, GREY, bars, colour, layout, line, sideways
from engine.reporting.subject import Subject
from engine.score.standard_error import half_width, mean_test

TITLE = "Inside the network"
TOP = 20


def section(subject: Subject) -> Section:
    intro = "What the network reads from the features, on a sample of the days."
    if subject.run is None:
        parts = ("Weights of features", "Permutation importance", "Calibration of quantiles")
        return Section(TITLE, intro, [Missing(part, subject.no_run) for part in parts])
    found = probe(subject.run, subject.panel, subject.days, importance=not subject.brief)
    intro = (
        f"What the network reads from the features, on {found.days} {subject.period}s spread over the part and up to "
        f"{found.codes:,} names."
    )
    return Section(TITLE, intro, [_weights(subject, found), _importance(subject, found), *_calibration(subject, found)])


def _weights(subject: Subject, found: Probe) -> Item:
    title = "Weights of features"
    if found.weights is None:
        return Missing(title, "the network has no variable selection")
    top = np.argsort(-found.weights, kind="stable")[:TOP]
    says = (
        f"What variable selection weighs the features with, mean over names and {subject.period}s, the largest "
        f"{len(top)} of {len(found.weights)}; 1 is the weight of each if all were alike. "
        "A large weight is attention, not a merit."
    )
    names = [label(subject.panel.manifest.features[i]) for i in top]
    data = [
        bars(
            numbers(found.weights[top]), names, "", BLUE, orientation="h", hovertemplate="%{y}: %{x:.2f}<extra></extra>"
        )
    ]
    return Figure(title, says, data, sideways("weight", ".2f", legend=False), _height(len(top)), half=True)


def _importance(subject: Subject, found: Probe) -> Item:
    title = "Permutation importance"
    if subject.brief:
        why = f"it takes a forward pass per feature; `atft-engine report {subject.folder}` makes it"
        return Missing(title, why)
    total: npt.NDArray[np.float64] = sum(drop.mean(1) for drop in found.drop.values()) if found.drop else np.empty(0)
    if not len(total) or not np.isfinite(total).all():
        return Missing(title, f"no {subject.period} of the sample has 20 names with a return")
    top = np.argsort(-total, kind="stable")[:TOP]
    names = [label(subject.panel.manifest.features[found.permuted[i]]) for i in top]
    data = []
    for i, (h, drop) in enumerate(found.drop.items()):
        error = [half_width(float(se), drop.shape[1], h) for se in mean_test(drop[top], h).se]
        data.append(
            bars(
                numbers(drop[top].mean(1)), names, f"{horizon_name(h, subject.period)} ahead", colour(i),
                orientation="h", hovertemplate="%{y}: %{x:.4f}",
                error_x={"type": "data", "array": numbers(error), "thickness": 1, "width": 2},
            )
        )  # fmt: skip
    some = "" if len(found.permuted) < MOST_FEATURES else f" of the {MOST_FEATURES} that weigh most"
    says = (
        f"How much RankIC of the network alone is lost when one feature is shuffled among the names, the largest "
        f"{len(top)}{some}, with 95% intervals: what the forecast rests on. Features that say the same cover for "
        "one another."
    )
    return Figure(title, says, data, sideways("RankIC lost", ".3f"), _height(len(top)), half=True)


def _calibration(subject: Subject, found: Probe) -> list[Item]:
    title = "Calibration of quantiles"
    assert subject.run is not None
    levels, weight = subject.run.config.model.quantiles, subject.run.config.objective.quantile
    if not levels or found.below is None:
        return [Missing(title, "no quantiles: model.quantiles is empty")]
    if not weight and not subject.run.config.phases:
        return [Missing(title, "the quantiles are not trained: objective.quantile is 0")]
    data = [line([0, 1], [0, 1], "as promised", GREY, line={"dash": "dot", "width": 1.5}, hoverinfo="skip")]
    for i, (h, shares) in enumerate(found.below.items()):
        data.append(
            line(
                list(levels), numbers(shares), f"{horizon_name(h, subject.period)} ahead", colour(i),
                mode="lines+markers", marker={"size": 8}, hovertemplate="promised %{x:.0%}, found %{y:.1%}",
            )
        )  # fmt: skip
    says = (
        "Share of names whose standardised return ended at or below each quantile, against the level that the quantile "
        "promises: points on the dotted line are calibrated, below it the quantile is too low."
    )
    place = layout(
        "found", "level", form=".0%", xaxis={"tickformat": ".0%", "range": [0, 1], "tickvals": [0, *levels, 1]},
        yaxis={"range": [0, 1]},
    )  # fmt: skip
    columns = ["level", *(f"{horizon_name(h, subject.period)} ahead" for h in found.below)]
    rows: list[list[Cell | str]] = [
        [Cell(f"{level:.0%}", strong=True), *(shown(float(shares[i]), ".1%") for shares in found.below.values())]
        for i, level in enumerate(levels)
    ]
    table = Table("Share below each quantile", "The same in numbers.", columns, rows, half=True)
    return [Figure(title, says, data, place, height=300, half=True), table]


def _height(count: int) -> int:
    return 130 + 22 * count
