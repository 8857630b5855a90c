"""`python -m tests.faults --hours 1 [--seed 0] [--only mutations]`: make faults until the time is up, print a table.

Every fault is drawn from (seed, kind, number), so `--replay mutations-0-17` makes number 17 again. What was wrong is
kept, files and command and all, in --out.
"""

import argparse
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.faults import ground, inputs, limits, mutations, readers
from tests.faults.calls import interrupted, shim
from tests.faults.limits import shelter
from tests.faults.readers import Tried
from tests.faults.server import assert_single_thread

Attempt = Callable[[Random, int, Path, Path, Callable[[str], Any]], Tried]  # number, ground, work, expected


@dataclass(frozen=True)
class Layer:
    """Faults of one sort.

    Args:
        share: of the time.
        count: how many there are; None: no end of them.
    """

    attempt: Attempt
    share: float
    count: Callable[[], int] | None = None
    is_below: bool = False  # the process: it needs the layer of calls/shim.c, and `calls.prepare`


def _mutation(random: Random, number: int, ground: Path, work: Path, expected: Callable[[str], Any]) -> Tried:
    return mutations.attempt(random, ground, work, expected)


def _input(random: Random, number: int, ground: Path, work: Path, expected: Callable[[str], Any]) -> Tried:
    return inputs.attempt(number, "inputs", ground, work)


def _limit(random: Random, number: int, ground: Path, work: Path, expected: Callable[[str], Any]) -> Tried:
    return limits.attempt(random, ground, work, expected)


LAYERS: dict[str, Layer] = {
    "mutations": Layer(_mutation, 0.4),
    "inputs": Layer(_input, 0.1, lambda: len(inputs.every_input())),
    "limits": Layer(_limit, 0.1),
    "kills": Layer(interrupted.attempt_kill, 0.2, lambda: len(interrupted.kills()), is_below=True),
    "errors": Layer(interrupted.attempt_error, 0.1, lambda: len(interrupted.errors()), is_below=True),
    "power": Layer(interrupted.attempt_cut, 0.1, lambda: len(interrupted.cuts()), is_below=True),
}
JOBS = 2  # children at a time
MARK = "<!-- faults: written by python -m tests.faults -->"


def main() -> int:
    """The command; 1 where anything was wrong."""
    options = _options()
    options.out = options.out.absolute()
    names = [options.replay.partition("-")[0]] if options.replay else options.only or list(LAYERS)
    if any(LAYERS[name].is_below for name in names) and not shim.is_loaded():
        shim.restart()
    console = Console(highlight=False)
    root = Path(tempfile.mkdtemp(prefix="atft-faults-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    root.chmod(0o711)  # a command may be another user's
    (root / "tmp").mkdir(mode=0o777)
    tempfile.tempdir = os.environ["TMPDIR"] = str(root / "tmp")
    try:
        made = _ground(options.ground, root, lambda line: console.print(line, markup=False, soft_wrap=True))
        found = _replay(options, made, root) if options.replay else _campaign(options, made, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    for name, tried in found:
        if tried.verdict == "wrong":
            console.print(f"{name} wrong: {tried.what}: {tried.why}", markup=False, soft_wrap=True)
    rows = tally([tried for _, tried in found])
    console.print(table(rows))
    if options.markdown:
        write_markdown(Path(options.markdown), rows)
    return int(any(tried.verdict == "wrong" for _, tried in found))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0, help="time for all faults together")
    parser.add_argument(
        "--count", action="append", default=[], help="the most faults of each sort, 100, or of one, kills=1000; may be "
        "repeated (default: as many as the time allows)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(LAYERS), action="append", help="faults of this sort; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("faults"), help="folder for what was wrong")
    parser.add_argument("--ground", type=Path, help="keep what is harmed in this folder, and take it from there")
    parser.add_argument("--markdown", help="a page whose table is written anew")
    parser.add_argument("--replay", help="the id of one fault, such as mutations-0-17")
    return parser.parse_args()


def _ground(kept: Path | None, root: Path, say: Callable[[str], None]) -> Path:
    """What is harmed, and this process warm."""
    if kept is None or not kept.exists():
        made = ground.make(root / "ground", say)
        if kept is not None:
            shutil.copytree(made, kept)
        return made
    shutil.copytree(kept, root / "ground")
    ground.warm_up(root / "ground")
    return root / "ground"


def _campaign(options: argparse.Namespace, made: Path, root: Path) -> list[tuple[str, Tried]]:
    """All layers one after the other, each for its share of the time."""
    names = options.only or list(LAYERS)
    whole, begun = sum(LAYERS[name].share for name in names), time.monotonic()
    counts = dict(each.rpartition("=")[::2] for each in options.count)
    found: list[tuple[str, Tried]] = []
    for name in names:
        seconds = 3600 * options.hours * LAYERS[name].share / whole
        count = counts.get(name, counts.get(""))
        of_layer = run_layer(
            name, options.seed, seconds, None if count is None else int(count), made, root, options.out
        )
        told = Counter(tried.verdict for _, tried in of_layer)
        print(f"{name}: {len(of_layer):,} tried, {told['wrong']} wrong, {time.monotonic() - begun:.0f} s", flush=True)
        found += of_layer
    return found


def run_layer(
    name: str, seed: int, seconds: float, count: int | None, made: Path, root: Path, out: Path
) -> list[tuple[str, Tried]]:
    """Make faults of one layer in JOBS processes; gives the id and the end of each."""
    assert_single_thread()
    deadline = time.monotonic() + seconds
    layer = LAYERS[name]
    if layer.is_below:
        interrupted.prepare(made, root / "unbroken")
    ends = [each for each in (layer.count and layer.count(), count) if each is not None]
    files = [root / f"{name}-{job}.jsonl" for job in range(JOBS)]
    pids = []
    for job, file in enumerate(files):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                numbers = itertools.islice(itertools.count(), job, min(ends) if ends else None, JOBS)
                _work(name, seed, numbers, deadline, made, root, out, file)
                code = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stdout.flush()
                os._exit(code)
        pids.append(pid)
    failed = [pid for pid in pids if os.waitpid(pid, 0)[1]]
    if failed:
        raise RuntimeError(f"{name}: {len(failed)} of {JOBS} processes failed")
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [(line.pop("id"), Tried(**line)) for line in lines]


def _work(name: str, seed: int, numbers: Any, deadline: float, made: Path, root: Path, out: Path, file: Path) -> None:
    shelter(root, out)
    expected = _expected(made, root / f"sound-{os.getpid()}")
    with file.open("w") as lines:
        for number in numbers:
            if time.monotonic() > deadline:
                break
            fault = f"{name}-{seed}-{number}"
            tried = attempt(fault, made, root / fault, expected)
            if tried.verdict == "wrong":
                shutil.rmtree(out / fault, ignore_errors=True)
                shutil.copytree(root / fault, out / fault, symlinks=True, ignore=_special)
                (out / fault / "fault.json").write_text(json.dumps(asdict(tried), indent=2))
            shutil.rmtree(root / fault)
            lines.write(json.dumps({"id": fault} | asdict(tried)) + "\n")
            lines.flush()


def attempt(fault: str, made: Path, work: Path, expected: Callable[[str], Any]) -> Tried:
    """Make the fault of an id, in a folder that is made for it."""
    name, _, number = fault.split("-")
    work.mkdir()
    return LAYERS[name].attempt(Random(fault), int(number), made, work, expected)


def _replay(options: argparse.Namespace, made: Path, root: Path) -> list[tuple[str, Tried]]:
    if LAYERS[options.replay.partition("-")[0]].is_below:
        interrupted.prepare(made, root / "unbroken")
    shelter(root, options.out)
    out = options.out / options.replay
    shutil.rmtree(out, ignore_errors=True)
    tried = attempt(options.replay, made, out, _expected(made, root / "sound"))
    print(json.dumps(asdict(tried), indent=2))
    return [(options.replay, tried)]


def _expected(made: Path, folder: Path) -> Callable[[str], Any]:
    """What a reader says of sound files; asked once."""

    @cache
    def of(reader: str) -> Any:
        work = folder / reader
        work.mkdir(parents=True)
        return readers.sound(reader, made, work)

    return of


def _special(folder: str, names: list[str]) -> list[str]:
    """What cannot be copied: pipes and sockets."""
    return [name for name in names if not (Path(folder, name).is_file() or Path(folder, name).is_dir())]


def tally(tried: list[Tried]) -> dict[str, Counter[str]]:
    """Verdicts by kind, and of all."""
    rows: dict[str, Counter[str]] = {kind: Counter() for kind in sorted({each.kind for each in tried})}
    for each in tried:
        rows[each.kind][each.verdict] += 1
    return rows | {"all": sum(rows.values(), Counter())}


def table(rows: dict[str, Counter[str]]) -> Table:
    """The verdicts for a terminal."""
    shown = Table("fault", *[(name) for name in ("tried", "right", "refused", "wrong")])
    for column in shown.columns[1:]:
        column.justify = "right"
    for kind, counts in rows.items():
        shown.add_row(kind, *(f"{n:,}" for n in _numbers(counts)))
    return shown


def write_markdown(page: Path, rows: dict[str, Counter[str]]) -> None:
    """Put the table between the two marks of a page, with date, commit and machine."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    lines = [
        f"{date.today()}, commit {commit}, {platform.machine()} {platform.release()}, {JOBS} commands at a time.", "",
        "| fault | tried | right | refused | wrong |", "|---|--:|--:|--:|--:|",
        *(f"| {kind} | " + " | ".join(f"{n:,}" for n in _numbers(counts)) + " |" for kind, counts in rows.items()),
    ]  # fmt: skip
    before, _, after = page.read_text().split(MARK)
    page.write_text(MARK.join([before, "\n" + "\n".join(lines) + "\n", after]))


def _numbers(counts: Counter[str]) -> list[int]:
    return [counts.total(), counts["right"], counts["refused"], counts["wrong"]]


if __name__ == "__main__":
    sys.exit(main())
