"""What the campaign interrupts: commands that write, what each leaves, and how a user goes on after a fault.

Every work runs in a folder of its own, on copies of small inputs (ground.py), and is compared with an unbroken one
by its `figures`: everything that does not depend on clocks, ids or paths.
"""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MANIFEST, SUMMARY = "manifest.json", "summary.json"
Figures = Any
Run = Callable[[list[str], Path], Any]  # the server's: arguments and working folder -> outcome

TRAIN = ["train", "--config", "config.toml", "--arrow", "cache", "--out", "out"]


@dataclass(frozen=True)
class Work:
    """A command and what has to be true of it."""

    name: str
    given: tuple[str, ...]  # of the inputs, copied into the folder
    argv: list[str]
    figures: Callable[[Path], Figures]
    resume: list[str] | None = None  # where the same command again is refused, this one goes on
    is_atomic: bool = True  # after a fault its figures are those from before, or the new ones
    is_refused_when_done: bool = False  # a second time; then the figures are the new ones
    is_told: bool = True  # exit code 0 says that all is written

    def start(self, folder: Path, inputs: Path) -> None:
        """Make the folder anew with what the command is given."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in self.given:
            source = inputs / name
            shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(source, folder / name)

    def go_on(self, folder: Path, run: Run) -> Any:
        """What a user does after a fault: the same command again and, where that is refused, to resume."""
        outcome = run(self.argv, folder)
        if outcome.code == 2 and self.resume is not None:
            outcome = run(self.resume, folder)
        return outcome


def works() -> list[Work]:
    """All of them."""
    resume = ["train", "--out", "out", "--resume", "--arrow", "cache"]
    columns = ["panel.parquet", "--features", "f*", "--targets", "fwd_1,fwd_5"]
    bars = ["bars.parquet", "--recipe", "ohlcv", "--code", "code"]
    predict = ["predict", "run", "--arrow", "cache", "--out", "scores.parquet"]
    given = ("cache", "config.toml")
    return [
        Work("build", ("panel.parquet",), ["cache", "build", *columns, "--out", "out"], cache_at("out")),
        Work("build over a cache", ("bars.parquet", "cache"), ["cache", "build", *bars, "--out", "cache"],
             cache_at("cache")),
        Work("append", ("cache", "more.parquet"), ["cache", "append", "cache", "more.parquet"], cache_at("cache"),
             is_refused_when_done=True),
        Work("simulate", (), ["cache", "simulate", "--codes", "30", "--days", "80", "--features", "4", "--out", "out"],
             cache_at("out")),
        Work("train", given, TRAIN, run_at("out"), resume, is_atomic=False),
        Work("folds", given, [*TRAIN, "--folds", "2"], folds_at("out"), resume, is_atomic=False),
        Work("hpo", given, [
            "hpo", "--config", "config.toml", "--arrow", "cache", "--batch", "1", "--out", "out", "--trials", "3",
        ], study_at("out"), is_atomic=False),
        Work("predict", ("cache", "run", "scores.parquet"), [*predict, "--split", "valid", "--in-sample"],
             scores_at("scores.parquet")),
        Work("predict latest", ("cache", "run", "scores.parquet"), [*predict, "--date", "latest"],
             scores_at("scores.parquet")),
        Work("baseline", given, [
            "baseline", "--config", "config.toml", "--arrow", "cache", "--kind", "ridge", "--out", "out.parquet",
        ], scores_at("out.parquet")),
        Work("evaluate", ("cache", "run"), ["evaluate", "run", "--arrow", "cache"], last_look, is_atomic=False,
             is_told=False),
        Work("export", ("cache", "run"), ["export", "run", "--to", "torch", "--out", "out.pt2"], exported),
        Work("report", ("cache", "run"), ["report", "run", "--arrow", "cache", "--out", "out.html"], reported),
    ]  # fmt: skip


def cache_at(name: str) -> Callable[[Path], Figures]:
    """Identity and bytes of a cache; None where there is none."""

    def figures(folder: Path) -> Figures:
        manifest = folder / name / MANIFEST
        if not manifest.exists():
            return None
        rows = (path for path in manifest.parent.iterdir() if path.name != MANIFEST)
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in rows}
        return json.loads(manifest.read_text())["cache_id"], files

    return figures


def run_at(name: str) -> Callable[[Path], Figures]:
    """Metrics of every epoch and of the parts; None where the training has not ended."""

    def figures(folder: Path) -> Figures:
        out = folder / name
        if not (out / SUMMARY).exists():
            return None
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        kept = [{key: line[key] for key in ("epoch", "step", "train", "valid", "best")} for line in lines]
        return kept, json.loads((out / SUMMARY).read_text())["splits"]

    return figures


def folds_at(name: str) -> Callable[[Path], Figures]:
    """Those of each fold, and of all together."""

    def figures(folder: Path) -> Figures:
        summary = folder / name / SUMMARY
        if not summary.exists():
            return None
        return [run_at(f"{name}/fold-{i}")(folder) for i in range(2)], json.loads(summary.read_text())["splits"]

    return figures


def study_at(name: str) -> Callable[[Path], Figures]:
    """What each finished trial was."""

    def figures(folder: Path) -> Figures:
        table = folder / name / "trials.parquet"
        if not table.exists():
            return None
        trials = [trial for trial in _read(table) if trial["state"] in ("COMPLETE", "PRUNED")]
        return [{key: value for key, value in trial.items() if key not in ("number", "seconds")} for trial in trials]

    return figures


def scores_at(name: str) -> Callable[[Path], Figures]:
    """The content of a score file; None where there is none."""
    return lambda folder: _read(folder / name) if (folder / name).exists() else None


def last_look(folder: Path) -> Figures:
    """The figures of the last look at the cache's test part; None where there was none."""
    ledger = folder / "cache.looks.jsonl"
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    if not lines:  # or the ledger was made, and no look is in it yet
        return None
    look = json.loads(lines[-1])
    return {key: look[key] for key in ("command", "first", "last", "days", "rank_ic")}


def exported(folder: Path) -> Figures:
    """Whether there is a network that can be opened; its bytes hold times."""
    out = folder / "out.pt2"
    return zipfile.is_zipfile(out) if out.exists() else None


def reported(folder: Path) -> Figures:
    """Whether there is a page, with its end; it holds times."""
    page = folder / "out.html"
    return page.read_text().rstrip().endswith("</html>") if page.exists() else None


def _read(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file, read without threads."""
    rows: list[dict[str, Any]] = (
        pq.ParquetFile(pa.BufferReader(path.read_bytes()), pre_buffer=False).read(use_threads=False).to_pylist()
    )
    return rows
