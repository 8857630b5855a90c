"""The figures that a part leaves behind, in the form of bench/history/, also where it failed or was interrupted.

Each function is told whether the part ended well, and its seconds.
"""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq

from bench.measurement.record import Figures

COUNTED = ("passed", "failed", "error", "skipped")  # in pytest's last line


def of_command(name: str, well: bool, seconds: float) -> dict[str, Figures]:
    """The time alone."""
    return {name: {"median_s": seconds, "rounds": 1}} if well else {}


def of_tests(log: Path, _well: bool, seconds: float) -> dict[str, Figures]:
    """How many tests passed and failed, as pytest says last, after an interruption too."""
    said = [line for line in log.read_text(errors="replace").splitlines() if re.search(r"\d+ \w+.* in [\d.]+s", line)]
    counts = {word: re.search(rf"(\d+) {word}", said[-1]) for word in COUNTED} if said else {}
    found = {f"tests_{word}": int(match[1]) if match else 0 for word, match in counts.items()}
    return {"tests": {"median_s": seconds, "rounds": 1, **found}} if found else {}


def of_benchmarks(figures: Path, _well: bool, _seconds: float) -> dict[str, Figures]:
    """What the benchmarks had measured: a line of JSON each. One that was cut off is left out."""
    lines = figures.read_text().splitlines(keepends=True) if figures.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return {entry["name"]: entry["figures"] for entry in whole}


def of_training(name: str, run: Path, _well: bool, seconds: float) -> dict[str, Figures]:
    """The whole command's time, and the run's own summary."""
    path = run / "summary.json"
    if not path.exists():
        return {}
    summary = json.loads(path.read_text())
    measured = {key: value for key, value in summary["throughput"].items() if value is not None}
    ranked = {f"rank_ic_h{h}": found["rank_ic"] for h, found in summary["splits"]["test"].items()}
    epochs = {"epochs": summary["epochs"]}
    return {name: {"median_s": seconds, "rounds": 1, **measured, **epochs, **ranked}}


def of_study(folder: Path, _well: bool, seconds: float) -> dict[str, Figures]:
    """The study's time, how many of its trials are complete, and the best value."""
    path = folder / "trials.parquet"
    if not path.exists():
        return {}
    table = pq.read_table(path).to_pydict()
    values = [value for state, value in zip(table["state"], table["value"], strict=True) if state == "COMPLETE"]
    best = {"best": max(values)} if values else {}
    return {"hpo": {"median_s": seconds, "rounds": 1, "trials": len(values), **best}}
