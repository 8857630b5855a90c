"""Walk-forward folds one by one; the other sections show their joined tests."""

from engine.reporting.content import Cell, Figure, Item, Missing, Section, Table, horizon_name, numbers, shown
from engine.reporting.style import bars, colour, layout
from engine.reporting.subject import Subject


def section(subject: Subject) -> Section:
    intro = "Each fold is tested on days after all that it was trained and chosen on; their tests follow one another."
    summary = subject.summary
    if summary is None:
        return Section("Fold by fold", intro, [Missing("Folds", f"{subject.folder} has no summary.json yet")])
    folds = summary["folds"]
    horizons = list(folds[0]["rank_ic"])
    rows: list[list[Cell | str]] = [
        [
            Cell(f"fold {i + 1}", strong=True), f"{fold['test_start']} to {fold['test_end']}",
            *(shown(fold["rank_ic"][h], ".4f") for h in horizons),
        ]
        for i, fold in enumerate(folds)
    ]  # fmt: skip
    joined = subject.metrics
    rows.append([
        Cell("all days joined", strong=True), f"{folds[0]['test_start']} to {folds[-1]['test_end']}",
        *(Cell(shown(joined[h]["rank_ic"] if h in joined else None, ".4f"), strong=True) for h in horizons),
    ])  # fmt: skip
    names = [f"fold {i + 1}" for i in range(len(folds))]
    data = [
        bars(names, numbers(_or_nan(fold["rank_ic"][h]) for fold in folds), horizon_name(h, subject.period), colour(i))
        for i, h in enumerate(horizons)
    ]
    says = "RankIC of each fold's test: bars of one height are a forecast that holds from one period to the next."
    figure = Figure("RankIC by fold", says, data, layout("RankIC", form=".3f"), height=280)
    columns = ["", "test", *(f"RankIC, {horizon_name(h, subject.period)}" for h in horizons)]
    table = Table("Folds", "RankIC of each fold's test, and of all their days together.", columns, rows)
    items: list[Item] = [figure, table]
    return Section("Fold by fold", intro, items)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
