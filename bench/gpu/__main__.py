"""What a GPU is needed for, in two halves of at most six minutes: python -m bench.gpu [first|second].

Without a half, both run one after the other. Neither needs anything of the other. First: kernel and tier tests, the
step eager and compiled, a training on every tier. Second: kernels beside their peers, page-locking and upload, DALI,
whole trainings and a study.

Every part is a process with a limit of its own. Its log, its figures so far and the record of all go to --work, and
the record to bench/history/ too. A table of targets ends the output, also after an interruption. Exit code: 0 all parts
ended well, 1 one did not, 2 no CUDA device.
"""

import argparse
import signal
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console

from bench.compare import terminal
from bench.gpu import report
from bench.gpu.parts import HALF_S, HALVES, Part, parts_of
from bench.gpu.running import Outcome, Run, outcomes, run
from bench.measurement.here import record_of
from bench.measurement.record import HISTORY, Figures, add_to_record

TABLE_WIDTH = 150
TAIL = 12  # lines
WORK = Path("runs/gpu")


def main(arguments: list[str] | None = None) -> int:
    """Entry point; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("half", nargs="?", choices=HALVES, help="one of them (default: both)")
    parser.add_argument("--work", type=Path, default=WORK, help=f"folder of logs and figures (default: {WORK})")
    parser.add_argument("--cache", type=Path, help="train on this cache (default: simulated ones)")
    parser.add_argument("--prices", type=Path, help="daily bars, Parquet: build the README's cache for the second half")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("error: no CUDA device here. Run it on a machine with one", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    halves = [options.half] if options.half else list(HALVES)
    given = [path and path.resolve() for path in (options.cache, options.prices)]
    return max([measure(half, options.work.resolve(), *given) for half in halves])


def measure(
    half: str, kept: Path, cache: Path | None, prices: Path | None, history: Path = HISTORY, start: Run = run
) -> int:
    """Run a half and print what it found; gives the exit code."""
    kept.mkdir(parents=True, exist_ok=True)
    here = record_of({})
    versions = ", ".join(f"{name} {version}" for name, version in here.versions.items())
    print(f"{here.machine}; {versions}; commit {here.commit}", flush=True)
    benchmarks: dict[str, Figures] = {}
    ended: list[Outcome] = []
    with TemporaryDirectory(prefix="atft-gpu-") as scratch:
        parts = parts_of(half, kept, Path(scratch), cache, prices)
        for old in kept.glob("*.jsonl"):
            old.unlink()
        for outcome in outcomes(parts, kept, HALF_S, start):
            ended.append(outcome)
            benchmarks |= outcome.figures
            print(f"== {outcome}", *_said(outcome, kept), sep="\n", flush=True)
            if benchmarks:
                for folder in (kept, history):
                    add_to_record(folder, record_of(benchmarks))
    with suppress(KeyboardInterrupt):  # a second one does not cost the table
        _show(half, kept, parts, ended, benchmarks)
    return 0 if len(ended) == len(parts) and all(outcome.code == 0 for outcome in ended) else 1


def _said(outcome: Outcome, kept: Path) -> list[str]:
    """The last lines of what a part that did not end well wrote."""
    log = kept / f"{outcome.name}.log"
    return log.read_text(errors="replace").splitlines()[-TAIL:] if outcome.code != 0 and log.exists() else []


def _show(half: str, kept: Path, parts: list[Part], ended: list[Outcome], benchmarks: dict[str, Figures]) -> None:
    missing = [f"{part.name}: not begun" for part in parts[len(ended) :]]
    with (kept / f"{half}.txt").open("w") as file:
        for console in (Console(width=TABLE_WIDTH, highlight=False), Console(width=TABLE_WIDTH, file=file)):
            rest = report.others(benchmarks)
            tables = [report.steps(benchmarks), report.trainings(benchmarks)]
            for table in [*tables, *([terminal(record_of(rest), None)] if rest else [])]:
                if table.row_count:
                    console.print(table)
            for lines in (
                report.longest_kernels(benchmarks),
                report.compile_rules(benchmarks),
                [*map(str, ended), *missing],
            ):
                if lines:
                    console.print("\n".join(lines), markup=False)
            console.print(report.targets(benchmarks))


if __name__ == "__main__":
    sys.exit(main())
