"""A study: the trials one after the other, which settings matter, and what they cost. Read from `trials.parquet` and
`best.toml`, so a study can be reported wherever its folder is.

N trials, P parameters
"""

from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.config_file import read_toml
from engine.reporting.content import Cell, Figure, Item, Missing, Section, Table, label, numbers, shown
from engine.reporting.style import BLUE, GREEN, GREY, ORANGE, bars, dots, faint, layout, line, sideways
from engine.score.cross_section import ranks_within_day
from loaders.disk.content import is_there
from loaders.disk.parquet import read_checked
from loaders.errors import InputError

TRIALS, BEST = "trials.parquet", "best.toml"
LEAST = 8  # complete trials that importance needs
GROUPS = 3  # of a number's values
TOP = 5

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Study:
    """The trials of a study."""

    folder: Path
    number: npt.NDArray[np.int64]  # [N]
    state: list[str]  # COMPLETE, PRUNED, FAIL, RUNNING or WAITING
    value: Float  # [N] of the first metric, NaN where there is none
    metric: str  # its name
    parameters: dict[str, list[Any]]  # [P] of N values, None where a trial has none
    epochs: Float  # [N]
    seconds: Float  # [N]
    best: dict[str, Any] | None  # the configuration of the best

    @property
    def complete(self) -> npt.NDArray[np.bool_]:
        return np.array([state == "COMPLETE" for state in self.state]) & np.isfinite(self.value)


def holds_study(folder: Path) -> bool:
    """Whether a folder is a study's."""
    return is_there(folder / TRIALS)


def read_study(folder: Path) -> Study:
    """Read a study's folder. Raises InputError for a file that is no table of trials."""
    path, cure = folder / TRIALS, "Repeat the `atft-engine hpo` command that made it"
    table = read_checked(path, cure)
    columns = table.to_pydict()
    known = {"number", "state", "epochs", "seconds", "reason"}
    values = [name for name in columns if name == "value" or name.startswith("value_")]
    if not known <= set(columns) or not values:
        raise InputError(str(path), "not a table of trials", f"It holds {', '.join(sorted(known))} and value")
    for name, kinds in {"number": (int,), "state": (str,), "epochs": (int, float)}.items():
        if not all(type(value) in kinds for value in columns[name]):
            raise InputError(str(path), f"column {name} holds something else than {kinds[0].__name__}", cure)
    for name in ("seconds", *values):
        if not all(type(value) in (int, float, NoneType) for value in columns[name]):
            raise InputError(str(path), f"column {name} holds something else than numbers", cure)
    parameters: dict[str, list[Any]] = {}
    for name in (name for name in columns if name not in known and name not in values):
        column = columns[name]
        sizes = {len(value) for value in column if isinstance(value, list)}
        size = max(sizes, default=0)
        if len(sizes) > 1:
            raise InputError(str(path), f"column {name} holds lists of several lengths", cure)
        if size:
            for i in range(size):
                parameters[f"{name}[{i}]"] = [None if value is None else value[i] for value in column]
        else:
            parameters[name] = column
    best = folder / BEST
    return Study(
        folder, np.array(columns["number"], np.int64), columns["state"], _floats(columns[values[0]]),
        values[0].removeprefix("value_") if values[0] != "value" else "value", parameters,
        _floats(columns["epochs"]), _floats(columns["seconds"]),
        read_toml(best) if is_there(best) else None,
    )  # fmt: skip


def sections(study: Study) -> list[Section]:
    return [
        Section("Search", "The trials in the order in which they were tried.", [_history(study), _best(study)]),
        Section("Settings", "Which settings the value depends on.", [_importance(study), _parallel(study)]),
        Section("Cost", "What the trials took.", [_cost(study)]),
    ]


def importances(study: Study) -> dict[str, float]:
    """Share of the variance of the complete trials' ranked values that groups of each parameter explain, largest first.

    Groups are a setting's choices, or thirds of a number's values. The share is epsilon squared (Kelley 1935), whose
    mean is 0 where the groups have nothing to do with the values; below 0 it is shown as 0.
    """
    some = study.complete
    values = ranks_within_day(study.value[some], np.zeros(int(some.sum())))
    found = {}
    for name, column in study.parameters.items():
        group = _groups([value for value, here in zip(column, some, strict=True) if here])
        count = int(group.max()) + 1
        if count < 2:
            continue
        size = np.bincount(group)
        mean = np.bincount(group, values) / size
        between = float((size * (mean - values.mean()) ** 2).sum())
        total = float(((values - values.mean()) ** 2).sum())
        within = (total - between) / max(len(values) - count, 1)
        found[name] = max((between - (count - 1) * within) / total, 0.0) if total else 0.0
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _groups(values: list[Any]) -> npt.NDArray[np.int64]:
    """The number of each value's group, from 0."""
    plain = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if plain and len(set(values)) > GROUPS:
        borders = np.quantile(np.array(values, float), np.arange(1, GROUPS) / GROUPS)
        raw = np.searchsorted(borders, np.array(values, float), "left")
    else:
        kinds = {kind: i for i, kind in enumerate(sorted({str(value) for value in values}))}
        raw = np.array([kinds[str(value)] for value in values])
    return np.unique(raw, return_inverse=True)[1]


def _history(study: Study) -> Item:
    some = study.complete
    if not some.any():
        return Missing("History", "no trial is complete")
    data = []
    for state, name, shade in (("PRUNED", "pruned", GREY), ("COMPLETE", "complete", BLUE)):
        here = np.array([each == state for each in study.state]) & np.isfinite(study.value)
        if here.any():
            marker = {"opacity": 0.75, "symbol": "circle" if state == "COMPLETE" else "circle-open"}
            data.append(dots(study.number[here].tolist(), numbers(study.value[here]), name, shade, marker=marker))
    best = np.maximum.accumulate(study.value[some])
    data.append(line(study.number[some].tolist(), numbers(best), "best so far", ORANGE, line={"shape": "hv"}))
    says = (
        "The value of each trial; the step line is the best complete one so far. A line that is flat for long says "
        "that more trials are unlikely to help. The best of many is flattered by chance: its test will be lower."
    )
    return Figure("History", says, data, layout(study.metric, "trial", form=".4f"), height=340)


def _best(study: Study) -> Item:
    some = np.flatnonzero(study.complete)
    if not len(some):
        return Missing("Best trials", "no trial is complete")
    top = some[np.argsort(-study.value[some], kind="stable")[:TOP]]
    rows: list[list[Cell | str]] = [
        [Cell(study.metric, strong=True), *(Cell(shown(float(study.value[i]), ".4f"), strong=True) for i in top)],
        [Cell("epochs", strong=True), *(shown(float(study.epochs[i]), ",.0f") for i in top)],
    ]
    rows += [[Cell(name, strong=True), *(_short(column[i]) for i in top)] for name, column in study.parameters.items()]
    says = "The settings of the best complete trials, the best on the left: what they have in common is what matters."
    return Table("Best trials", says, ["", *(f"trial {study.number[i]}" for i in top)], rows)


def _importance(study: Study) -> Item:
    title, count = "Importance", int(study.complete.sum())
    if count < LEAST:
        return Missing(title, f"{count} trials are complete, and fewer than {LEAST} tell chance from effect badly")
    found = importances(study)
    if not found:
        return Missing(title, "no setting varies among the complete trials")
    names = [label(name) for name in found]
    data = [
        bars(
            numbers(list(found.values())),
            names,
            "",
            BLUE,
            orientation="h",
            hovertemplate="%{y}: %{x:.1%}<extra></extra>",
        )
    ]
    says = (
        f"Share of the variance of the ranked values of {count} complete trials that each setting explains by itself, "
        "in thirds of its range, less what chance would: settings at zero may be left alone."
    )
    place = sideways("share explained", ".0%", legend=False)
    return Figure(title, says, data, place, height=130 + 24 * len(names))


def _parallel(study: Study) -> Item:
    title, some = "Parallel coordinates", study.complete
    axes = {
        name: positions for name, column in study.parameters.items() if (positions := _positions(column)) is not None
    }
    if some.sum() < 2 or not axes:
        return Missing(title, "two complete trials with different settings are needed")
    value = study.value
    low, high = float(value[some].min()), float(value[some].max())
    axes[study.metric] = ((value - low) / (high - low or 1), [shown(low, ".4f"), shown(high, ".4f")])
    names = list(axes)
    data = []
    order = np.flatnonzero(some)[np.argsort(value[some], kind="stable")]
    for i, height in zip(order, np.linspace(0, 1, len(order)), strict=True):
        shade = GREEN if height >= 0.8 else BLUE if height >= 0.4 else GREY
        text = [f"trial {study.number[i]}: {label(name)} = {label(_short(_at(study, name, i)))}" for name in names]
        data.append(
            line(
                list(range(len(names))), numbers(axes[name][0][i] for name in names), f"trial {study.number[i]}", shade,
                line={"color": faint(shade, 0.25 + 0.6 * height), "width": 1 + 1.5 * height}, text=text,
                hovertemplate="%{text}<extra></extra>", mode="lines+markers", marker={"size": 4},
            )
        )  # fmt: skip
    ends = [
        {"x": x, "y": y, "text": label(axes[name][1][which]), "showarrow": False, "yshift": 10 if which else -10,
         "font": {"size": 10}}
        for x, name in enumerate(names) for which, y in ((0, 0), (1, 1))
    ]  # fmt: skip
    place = layout(
        "", legend=False, annotations=ends,
        xaxis={"tickvals": list(range(len(names))),
               "ticktext": [label(name.partition(".")[2] or name) for name in names], "showgrid": True,
               "tickangle": -35, "automargin": True, "range": [-0.4, len(names) - 0.6]},
        yaxis={"visible": False, "range": [-0.12, 1.12], "zeroline": False},
    )  # fmt: skip
    says = (
        "A line is a complete trial, through the values of its settings from the lowest to the highest. Green lines "
        "are the best fifth of the trials. Where green lines meet, a setting matters."
    )
    return Figure(title, says, data, place, height=400)


def _positions(column: list[Any]) -> tuple[Float, list[str]] | None:
    """Where each trial lies on an axis, 0..1 and NaN without a value, and what its ends are; None where none differ."""
    known = [value for value in column if value is not None]
    if len({str(value) for value in known}) < 2:
        return None
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        values = _floats(column)
        positive = np.nanmin(values) > 0 and np.nanmax(values) / np.nanmin(values) > 20
        scale = np.log(values) if positive else values
        low, high = np.nanmin(scale), np.nanmax(scale)
        return (scale - low) / (high - low), [_short(float(np.nanmin(values))), _short(float(np.nanmax(values)))]
    kinds = sorted({str(value) for value in known})
    place = {kind: i / (len(kinds) - 1) for i, kind in enumerate(kinds)}
    return np.array([np.nan if v is None else place[str(v)] for v in column]), [kinds[0], kinds[-1]]


def _cost(study: Study) -> Figure:
    shades = {"COMPLETE": BLUE, "PRUNED": GREY}
    data = []
    for state in dict.fromkeys(study.state):
        here = np.array([each == state for each in study.state])
        data.append(
            bars(
                study.number[here].tolist(),
                numbers(study.epochs[here]),
                state.lower(),
                shades.get(state, ORANGE),
                width=0.8,
            )
        )
    total, seconds = float(np.nansum(study.epochs)), float(np.nansum(study.seconds))
    pruned = float(np.nansum(study.epochs[[state == "PRUNED" for state in study.state]]))
    says = (
        f"Epochs of each trial, {total:,.0f} in all and {pruned:,.0f} of them in trials that were pruned; all took "
        f"{seconds / 60:,.1f} minutes of training. Short grey bars are what pruning saves."
    )
    return Figure("Epochs by trial", says, data, layout("epochs", "trial") | {"barmode": "overlay"}, height=280)


def _at(study: Study, name: str, i: int) -> Any:
    return study.parameters[name][i] if name in study.parameters else float(study.value[i])


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "–" if value is None else str(value)


def _floats(values: list[Any]) -> Float:
    return np.array([np.nan if value is None else float(value) for value in values])
