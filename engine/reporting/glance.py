"""The head of a page: what it is, on which days, with what data, how often the test was looked at, and the figures."""

from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np

from engine.reporting.content import Cell, Table, horizon_name, metric, shown
from engine.reporting.sections.study import Study
from engine.reporting.subject import Subject
from engine.score.metrics import METRICS
from loaders.cache.format import SCORED


@dataclass(frozen=True)
class Tile:
    """One figure in large type."""

    name: str
    value: str
    below: str


@dataclass(frozen=True)
class Glance:
    """The head of a page."""

    kind: str
    title: str
    says: str
    facts: list[tuple[str, str]]
    notes: list[str]
    tiles: list[Tile]
    table: Table | None


def of_scores(subject: Subject) -> Glance:
    """The head of a report on scores."""
    days = subject.result["days"][subject.split]
    span = f"{_long(days['first'])} to {_long(days['last'])}"
    kind = "Score file" if subject.folder is None else "Walk-forward folds" if subject.has_folds else "Training run"
    kind = kind if len(subject.paths) == 1 else f"Average of {len(subject.paths)}"
    title = " + ".join(path.name or str(path) for path in subject.paths)
    part = {"test": "the test", "valid": "the validation part", "train": "the training part"}
    where = part.get(subject.split, "the span")
    number = f"{days['days']:,} {subject.period}s"
    says = f"How well its scores ranked {_names(subject):,} names on the {number} of {where}, {span}."
    return Glance(kind, title, says, _facts(subject, span), _notes(subject), _tiles(subject), _table(subject))


def of_study(study: Study) -> Glance:
    """The head of a report on a study."""
    states = {state: study.state.count(state) for state in dict.fromkeys(study.state)}
    complete = study.value[study.complete]
    told = ", ".join(f"{count:,} {state.lower()}" for state, count in states.items())
    facts = [("Study", str(study.folder)), ("Trials", f"{len(study.state):,}: {told}")]
    if study.best is not None:
        facts.append(("Cache", str(study.best["data"]["arrow"])))
        until = study.best.get("split", {}).get("tuned_until")
        if until:
            facts.append(("Days seen", f"until {_long(until)}; a test that begins later is out of sample"))
    facts.append(("Looks at the test", "none: a study sees validation alone"))
    best = float(complete.max()) if len(complete) else np.nan
    first = float(complete[0]) if len(complete) else np.nan
    tiles = [
        Tile("Best value", shown(best, ".4f"), study.metric if study.metric != "value" else "mean validation RankIC"),
        Tile("Over the first complete trial", shown(best - first, "+.4f"), "what the search found"),
        Tile("Epochs", shown(float(np.nansum(study.epochs)), ",.0f"), "of all trials"),
        Tile("Minutes", shown(float(np.nansum(study.seconds)) / 60, ",.1f"), "of training"),
    ]
    says = f"A search over {len(study.parameters)} settings in {len(study.state):,} trials."
    return Glance("Study", study.folder.name, says, facts, [], tiles, None)


def _facts(subject: Subject, span: str) -> list[tuple[str, str]]:
    panel, config, period = subject.panel, subject.config, subject.period
    manifest, days = panel.manifest, subject.result["days"][subject.split]
    facts = [("What", ", ".join(map(str, subject.paths)))]
    if config is not None:
        seeds = f", {config.train.seeds} seeds averaged" if config.train.seeds > 1 else ""
        params = (subject.summary or {}).get("params")
        size = f", {params:,} parameters" if params else ""
        model = f"{config.model.name} {config.model.size}{size}{seeds}, context {config.data.context} {period}s"
        facts.append(("Model", model))
    facts.append(("Days", f"{span}, {days['days']:,} {period}s ({subject.split})"))
    if subject.run is not None:
        split = subject.run.state.split
        train, valid = (f"{_long(split[name][0])} to {_long(split[name][1])}" for name in ("train", "valid"))
        facts.append(("Trained on", f"{train}, chosen on {valid}"))
    size = f"{len(manifest.codes):,} names, {len(manifest.features):,} features, {manifest.rows:,} rows"
    facts.append(("Data", f"{panel.folder}: {size}, cache {manifest.cache_id}"))
    # The recipe ohlcv says where returns begin, such as "return over 1 days from the close".
    _, begins, where = (manifest.targets or [""])[0].partition(" days from ")
    returns = " and ".join(horizon_name(h, period) for h in subject.horizons)
    facts.append(("Forecasts", f"returns over {returns}" + (f", from {where}" if begins else "")))
    if subject.against is not None:
        facts.append(("Against", str(subject.against)))
    periods = subject.result["periods_per_year"]
    unknown = "no Sharpe ratios, since the cache does not say how many periods a year has"
    ratios = unknown if periods is None else f"{periods:g} {period}s a year"
    facts.append(("Costs", f"{subject.cost_bps:g} bp of turnover; {ratios}"))
    facts.append(("Looks at the test", _looks(subject)))
    return facts


def _looks(subject: Subject) -> str:
    count = subject.count
    if count is None:
        return "none: these are days of training or validation"
    models = "one model" if count.models == 1 else f"{count.models:,} different models"
    return f"number {count.number:,} at these days, at {models}; counted in {count.ledger.name}"


def _notes(subject: Subject) -> list[str]:
    notes = list(subject.result["notes"])
    if subject.count is not None and subject.count.models >= 5:
        notes.append(
            f"{subject.count.models:,} different models have been looked at on these days: the best of so many looks "
            "better than it is."
        )
    if subject.count is not None:
        notes += subject.count.notes
    if subject.brief:
        what = "Brief report, written at the end of training: what takes longer is left out or sampled, and says so."
        notes.append(f"{what} `atft-engine report {subject.folder}` writes the whole.")
    return notes


def _tiles(subject: Subject) -> list[Tile]:
    tiles = []
    for h in subject.horizons[:3]:
        values = subject.metrics[str(h)]
        name = horizon_name(h, subject.period)
        tiles.append(Tile(f"RankIC, {name}", metric("rank_ic", values), f"t {metric('rank_ic_t', values)}"))
        net = f"Sharpe {metric('sharpe_net', values)} after costs"
        tiles.append(Tile(f"Top less bottom tenth, {name}", metric("decile_spread", values), net))
    return tiles


def _table(subject: Subject) -> Table:
    rows: list[list[Cell | str]] = [
        [
            Cell(each.label.strip(), strong=not each.label.startswith(" ")),
            *(metric(name, values) for values in subject.metrics.values()),
        ]
        for name, each in METRICS.items()
    ]
    columns = ["", *(f"{horizon_name(h, subject.period)} ahead" for h in subject.metrics)]
    says = (
        "The figures of `atft-engine evaluate`: RankIC is the mean daily rank correlation of scores and returns, with "
        "its standard error and the t and p of its being zero."
    )
    return Table("All figures", says, columns, rows)


def _names(subject: Subject) -> int:
    panel, rows = subject.panel, subject.opened.rows
    return len(np.unique(panel.code_of(rows[panel.presence[rows] == SCORED])))


def _long(day: Any) -> str:
    when = date.fromisoformat(str(day))
    return f"{when.day} {when:%b %Y}"
