"""`python -m tests.audit --half judge`: which faults are caught at which dose, and how often clean panels are blamed.

Limits of checks are chosen on the half `tune` of the seeds and judged on the other one.
"""

import argparse
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.audit.clean import clean_panels
from tests.audit.faults.every import FAULTS
from tests.audit.faults.fault import DOSES, Dose
from tests.audit.real import findings, pieces
from tests.audit.trial import alarms as alarms_of
from tests.audit.trial import is_caught

FIRST_SEED = {"tune": 0, "judge": 500}


def main() -> int:
    """The command; 1 where a strong dose is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.audit", description=__doc__)
    parser.add_argument("--half", choices=list(FIRST_SEED), default="tune", help="seeds for choosing or for judging")
    parser.add_argument("--seeds", type=int, default=10, help="of each fault and dose")
    parser.add_argument("--only", action="append", help="faults whose name holds this, or `clean`; may be repeated")
    parser.add_argument("--bars", type=Path, help="instead, audit pieces of a file of daily bars (ticker, date, ...)")
    options = parser.parse_args()
    if options.bars is not None:
        for name, frame in pieces(options.bars):
            print(f"{name}:", *(f"\n    {each}" for each in findings(frame)), flush=True)
        return 0
    first = FIRST_SEED[options.half]
    names = [f.name for f in FAULTS if not options.only or any(part in f.name for part in options.only)]
    seeds = range(first, first + options.seeds)
    tasks = [(name, dose, seed) for name in names for dose in DOSES for seed in seeds]
    panels = clean_panels(first) if not options.only or "clean" in options.only else []
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        caught = list(pool.map(is_caught, tasks, chunksize=5))
        alarms = list(pool.map(alarms_of, panels, chunksize=2))
    console = Console(highlight=False)
    console.print(_faults_table(names, tasks, caught, options.seeds))
    for (name, _, seed), lines in zip(panels, alarms, strict=True):
        for line in lines:
            console.print(f"clean panel {name}, seed {seed}: {line}", markup=False, soft_wrap=True)
    if panels:
        console.print(f"{sum(map(bool, alarms))} of {len(panels)} clean panels with an alarm")
    strong = [hit for task, hit in zip(tasks, caught, strict=True) if task[1] == "strong"]
    return int(not all(strong))


def _faults_table(names: list[str], tasks: list[tuple[str, Dose, int]], caught: list[bool], seeds: int) -> Table:
    hits: Counter[tuple[str, str]] = Counter()
    for (name, dose, _), hit in zip(tasks, caught, strict=True):
        hits[name, dose] += hit
    table = Table("fault", *DOSES, title=f"caught of {seeds}")
    for name in names:
        table.add_row(name, *(str(hits[name, dose]) for dose in DOSES))
    return table


if __name__ == "__main__":
    sys.exit(main())
