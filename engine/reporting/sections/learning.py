"""How the training went: losses and validation RankIC by epoch, and what it took."""

from pathlib import Path
from typing import Any

from engine.checkpoint import read_history
from engine.reporting.content import Cell, Figure, Item, Missing, Section, Table, horizon_name, numbers, shown
from engine.reporting.style import colour, dots, layout, line
from engine.reporting.subject import Subject
from engine.score.files import fold_folders
from engine.score.tables import find_summary

TITLE = "Training"


def section(subject: Subject) -> Section:
    intro = "Epoch by epoch, and what it took."
    if subject.folder is None:
        return Section(
            TITLE, intro, [Missing(part, subject.no_run) for part in ("Learning curves", "Speed and memory")]
        )
    runs = {"": subject.folder}
    if subject.has_folds:
        runs = {f"fold {i + 1}": path for i, path in enumerate(fold_folders(subject.folder))}
    histories = {name: lines for name, path in runs.items() if (lines := read_history(path))}
    items: list[Item] = []
    if histories:
        items += [_loss(histories), _validation(subject, histories)]
    else:
        items.append(Missing("Learning curves", f"{subject.folder} has no metrics.jsonl with a validation"))
    items.append(_speed(subject, runs))
    return Section(TITLE, intro, items)


def _loss(histories: dict[str, list[dict[str, Any]]]) -> Figure:
    data = []
    for i, (name, lines) in enumerate(histories.items()):
        epochs = [each["epoch"] for each in lines]
        data.append(line(epochs, numbers(each["train"]["loss"] for each in lines), name or "loss", colour(i)))
    says = "Mean loss of the blocks of each epoch: it should fall, and flatten towards the end."
    return Figure("Training loss", says, data, layout("loss", "epoch", legend=len(data) > 1), half=True)


def _validation(subject: Subject, histories: dict[str, list[dict[str, Any]]]) -> Figure:
    data = []
    if len(histories) == 1 and "" in histories:
        lines = histories[""]
        epochs = [each["epoch"] for each in lines]
        for i, h in enumerate(lines[0]["valid"]):
            values = numbers(_or_nan(each["valid"][h]["rank_ic"]) for each in lines)
            data.append(line(epochs, values, f"{horizon_name(h, subject.period)} ahead", colour(i)))
            kept = [place for place, each in enumerate(lines) if each["best"]][-1:]
            x, y = [epochs[place] for place in kept], [values[place] for place in kept]
            data.append(dots(x, y, "kept", colour(i), marker={"size": 10, "symbol": "diamond"}, showlegend=i == 0))
    else:
        for i, (name, lines) in enumerate(histories.items()):
            epochs = [each["epoch"] for each in lines]
            data.append(line(epochs, numbers(_or_nan(each["valid_rank_ic"]) for each in lines), name, colour(i)))
    says = (
        "RankIC of the validation days after each epoch; the model of the best epoch is kept, so its validation figure "
        "is the best of several and flatters."
    )
    return Figure("Validation RankIC", says, data, layout("RankIC", "epoch", form=".3f"), half=True)


def _speed(subject: Subject, runs: dict[str, Path]) -> Item:
    found = {}
    for name, path in runs.items():
        if (summary := find_summary(path)) is not None:
            found[name] = summary
    if not found:
        return Missing("Speed and memory", f"{subject.folder} has no summary.json yet")
    rows: list[list[Cell | str]] = []
    forms = (
        ("samples a second", "samples_per_s", 1.0, ",.0f"),
        ("rows read a second", "rows_per_s", 1.0, ",.0f"),
        ("seconds an epoch", "epoch_s", 1.0, ",.1f"),
        ("time waiting for data", "data_wait_fraction", 1.0, ".2%"),
        ("time validating", "validation_fraction", 1.0, ".1%"),
        ("device utilisation", "device_utilization", 1.0, ".0%"),
        ("peak memory, MB", "peak_memory_bytes", 1e-6, ",.0f"),
        ("peak of mapped files, MB", "peak_mapped_bytes", 1e-6, ",.0f"),
    )
    for title, key, unit, form in forms:
        values = [summary["throughput"].get(key) for summary in found.values()]
        cells = [shown(None if value is None else value * unit, form) for value in values]
        rows.append([Cell(title, strong=True), *cells])
    rows.insert(0, [Cell("epochs", strong=True), *(f"{summary['epochs']}" for summary in found.values())])
    rows.insert(1, [Cell("best epoch", strong=True), *(f"{summary['best_epoch']}" for summary in found.values())])
    devices = ", ".join(dict.fromkeys(summary["device"] for summary in found.values()))
    says = f"What the training took on {devices}. A dash is what this device does not measure."
    return Table("Speed and memory", says, ["", *(name or "run" for name in found)], rows)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
