"""Benchmark runs that are kept: one small JSON per machine and commit, figures only, in bench/history/."""

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from loaders.errors import InputError

HISTORY = Path(__file__).parents[1] / "history"
Figures = dict[str, float | int | str]


@dataclass(frozen=True)
class Record:
    """One run of the benchmarks."""

    machine: str  # see machine.py
    commit: str  # of the code that was measured, with -dirty where files differed from it
    time: str  # when it ended, ISO 8601, UTC
    versions: dict[str, str]  # of the packages that the figures depend on
    benchmarks: dict[str, Figures]  # by name: median_s, rounds, and the extra_info of the benchmark


def write_record(folder: Path, record: Record) -> Path:
    """Write a run into the folder; a run of the same commit on the same machine is replaced."""
    path = _path(folder, record)
    content = asdict(record)
    content["benchmarks"] = {name: shortened(figures) for name, figures in record.benchmarks.items()}
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def add_to_record(folder: Path, record: Record) -> Path:
    """Write a run into the folder, beside other benchmarks of the same commit on the same machine."""
    path = _path(folder, record)
    before = json.loads(path.read_text())["benchmarks"] if path.exists() else {}
    return write_record(folder, replace(record, benchmarks=before | record.benchmarks))


def shortened(figures: Figures) -> Figures:
    """No benchmark is exact to more than six significant digits."""
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in figures.items()}


def read_history(folder: Path) -> list[Record]:
    """All kept runs, oldest first. Raises InputError for a file that is not a run, and where there is no file."""
    records = []
    for path in folder.glob("*.json"):
        try:
            records.append(Record(**json.loads(path.read_text())))
        except (ValueError, TypeError) as error:
            raise InputError(str(path), f"not a benchmark run ({error})", "Remove it, or run it again") from error
    if not records:
        cure = "Run `pytest bench/ --benchmark-only --history` first"
        raise InputError(str(folder), "no benchmark run is kept here", cure)
    return sorted(records, key=lambda record: record.time)


def _path(folder: Path, record: Record) -> Path:
    machine = re.sub(r"[^a-z0-9]+", "-", record.machine.lower()).strip("-")
    return folder / f"{machine}_{record.commit}.json"
