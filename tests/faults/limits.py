"""Too little of what a machine gives, and two of everything at once.

memory, files, sizes, threads   limits of the child
stdout, home, read-only         where it prints, and where it may not write
two at once                     two commands that write one thing, or one that reads what the other writes
"""

import ctypes
import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, get_args

from tests.faults.ground import HPO, TRAIN
from tests.faults.readers import READERS, Tried, copy, judge, keep
from tests.faults.server import How, Outcome, Stdout, run, start
from tests.servers import Postgresql, Proxy

MEMORY = (
    0,
    1 << 20,
    16 << 20,
    64 << 20,
    128 << 20,
    256 << 20,
    512 << 20,
    1 << 30,
    4 << 30,
)  # bytes beyond what a child has
FILES = (3, 5, 8, 12, 16, 24, 40)  # open at once
SIZES = (0, 1, 100, 4096, 1 << 16)  # bytes of a file
NOBODY = 65534  # root is not bound by the limit of threads
LIMITED = [name for name, reader in READERS.items() if reader.seconds < 2.5]
ROOT = Path(__file__).resolve().parents[2]  # of the repository, where numba keeps compiled code
NEW_NAMESPACE, BIND, RECURSIVE, PRIVATE, REMOUNT, READ_ONLY = 0x20000, 4096, 16384, 1 << 18, 32, 1
Expected = Callable[[str], Any]


def attempt(random: Random, ground: Path, work: Path, expected: Expected) -> Tried:
    """One of all these, drawn."""
    if random.random() < 0.02:
        return _server_killed(random, ground, work)
    if random.random() < 0.3:
        return _two_at_once(random, ground, work, expected)
    name = random.choice(LIMITED)
    kind, what, how = random.choice([_memory, _files, _sizes, _threads, _stdout, _home, _read_only])(random, work)
    copy(ground, work, READERS[name].needs)
    outcome = run(READERS[name].argv, work, **how)
    if how.get("stdout") == "broken" and outcome.code == 1 and not outcome.err.strip():
        return Tried(kind, f"{what}; {name}", "refused")  # as a pipe to `head` ends
    verdict, why = judge(name, work, outcome, expected(name) if kind != "stdout" else None)
    if verdict == "wrong" and why == "exit code 1":
        verdict, why = "refused", ""  # what a machine does not give may fail, and need not be bad input
    return Tried(kind, f"{what}; {name}", verdict, why)


def _limit(number: int, value: int) -> None:
    resource.setrlimit(number, (value, value))


def _memory(random: Random, work: Path) -> tuple[str, str, How]:
    size = random.choice(MEMORY)
    return "memory", f"{size >> 20} MiB more", {"memory": size}


def _files(random: Random, work: Path) -> tuple[str, str, How]:
    count = random.choice(FILES)
    return "open files", f"{count} files", {"before": partial(_limit, resource.RLIMIT_NOFILE, count)}


def _sizes(random: Random, work: Path) -> tuple[str, str, How]:
    size = random.choice(SIZES)
    return "size of files", f"{size} bytes", {"before": partial(_limit, resource.RLIMIT_FSIZE, size)}


def _threads(random: Random, work: Path) -> tuple[str, str, How]:
    count = random.choice([1, 2, 3, 5, 8])

    def few() -> None:
        _limit(resource.RLIMIT_NPROC, count)
        _become(NOBODY)

    return "threads", f"{count} threads", {"before": few}


def _become(user: int) -> None:
    """As root, be another user who still may read and write every file: Python itself may lie in root's home."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(8, 1)  # PR_SET_KEEPCAPS
    os.setuid(user)
    files = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    header, rights = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(files, files, 0, 0, 0, 0)
    if libc.capset(header, rights):
        raise OSError(ctypes.get_errno(), "capset")


def _stdout(random: Random, work: Path) -> tuple[str, str, How]:
    stdout = random.choice([kind for kind in get_args(Stdout) if kind != "pipe"])
    stdin = random.choice(["null", "closed"])
    return "stdout", f"stdout {stdout}, stdin {stdin}", {"stdout": stdout, "stdin": stdin}


def _home(random: Random, work: Path) -> tuple[str, str, How]:
    home = random.choice([None, "", "/nowhere", "/proc", str(work / "file")])

    def leave() -> None:
        os.environ.pop("HOME", None)
        if home is not None:
            os.environ["HOME"] = home
        if home is None:
            _become(4242)  # whom no file of users knows

    return "home", f"HOME {home}", {"before": leave}


def shelter(*kept: Path) -> None:
    """Keep faults from harming the machine: as root, `--out /dev/null` could replace the device.

    In this process and its children alone, everything is mounted read-only but some folders, and where compiled code
    is kept. Without the right to do so, which only root has, nothing is done, since such a process cannot do harm.
    """
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: str, target: str, flags: int) -> None:
        if libc.mount(source.encode(), target.encode(), None, flags, None):
            raise OSError(ctypes.get_errno(), f"mount {target}")

    if libc.unshare(NEW_NAMESPACE):
        raise OSError(ctypes.get_errno(), "a mount namespace, without which root is not safe here")
    here = os.getcwd()
    mount("none", "/", RECURSIVE | PRIVATE)
    points = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    writable = {str(path) for path in (*kept, ROOT, Path.home() / ".cache")}
    for folder in writable:
        os.makedirs(folder, exist_ok=True)
        mount(folder, folder, BIND)
    for point in sorted(points - writable - {"/dev/shm"}, key=len):  # numba needs its semaphores
        if not point.startswith(("/proc/", "/sys/")):
            with suppress(OSError):  # a point below another one that has just been covered
                mount("none", point, REMOUNT | BIND | READ_ONLY)
    os.chdir(here)  # as it is mounted now


def _read_only(random: Random, work: Path) -> tuple[str, str, How]:
    return "read-only", "every folder read-only", {"before": shelter}


@dataclass(frozen=True)
class Pair:
    """Two commands at once in one folder.

    Args:
        ends: whether what both have left is right, from the folder, their outcomes, and what sound readers say.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    needs: tuple[str, ...]
    ends: Callable[[Path, list[Outcome], Expected], str | None]


def _epochs_once(folder: Path, outcomes: list[Outcome], expected: Expected) -> str | None:
    """No epoch of a run was trained by both."""
    trained = [
        line.partition(":")[0] for each in outcomes for line in each.out.splitlines() if line.startswith("epoch ")
    ]
    twice = {line for line in trained if trained.count(line) > 1}
    both = all(each.code == 0 for each in outcomes)
    return f"both trained {', '.join(sorted(twice))}, and one is lost" if twice and both else None


def _as(reader: str) -> Callable[[Path, list[Outcome], Expected], str | None]:
    """One of both says what a reader says of sound files, and what is left is that."""

    def ends(folder: Path, outcomes: list[Outcome], expected: Expected) -> str | None:
        done = [outcome for outcome in outcomes if outcome.code == 0]
        right = [READERS[reader].figures(folder, outcome) == expected(reader) for outcome in done]
        return None if any(right) else f"what is left is not what {reader} alone leaves"

    return ends


def _trials(folder: Path, outcomes: list[Outcome], expected: Expected) -> str | None:
    """Each trial has a folder, and none has two."""
    numbers = sorted(int(path.name) for path in (folder / "study" / "trials").iterdir() if path.name.isdigit())
    return None if numbers[:5] == [0, 1, 2, 3, 4] else f"trials {numbers}"


def _any(folder: Path, outcomes: list[Outcome], expected: Expected) -> str | None:
    """Each may see the files before or after the other."""
    return None


NEW = (*TRAIN, "--out", "new", "--set", "train.epochs=2", "--set", "train.blocks=2")
RESUME = READERS["resume"].argv
APPEND = READERS["append"].argv
BUILD = READERS["build parquet"].argv
MORE_TRIALS = (*HPO, "--out", "study", "--trials", "5")
PAIRS: dict[str, Pair] = {
    "two trainings": Pair(NEW, NEW, ("cache", "config.toml"), _epochs_once),
    "two resumed": Pair(RESUME, RESUME, ("cache", "stopped"), _epochs_once),
    "two appended": Pair(APPEND, APPEND, ("cache", "more.parquet"), _as("append")),
    "two builds": Pair(BUILD, BUILD, ("panel.parquet",), _as("build parquet")),
    "two predictions": Pair(READERS["predict"].argv, READERS["predict"].argv, ("cache", "run"), _as("predict")),
    "two studies": Pair(MORE_TRIALS, MORE_TRIALS, ("cache", "config.toml", "study"), _trials),
    "two reports": Pair(READERS["report"].argv, READERS["report"].argv, ("cache", "run"), _as("report")),
    "append and evaluate": Pair(APPEND, READERS["evaluate"].argv, ("cache", "more.parquet", "run"), _any),
    "append and verify": Pair(APPEND, READERS["verify"].argv, ("cache", "more.parquet"), _any),
    "append and train": Pair(APPEND, NEW, ("cache", "more.parquet", "config.toml"), _any),
    "append and predict": Pair(APPEND, READERS["predict"].argv, ("cache", "more.parquet", "run"), _any),
    "resume and evaluate": Pair(RESUME, ("evaluate", "stopped", "--arrow", "cache"), ("cache", "stopped"), _any),
    "resume and report": Pair(RESUME, ("report", "stopped", "--arrow", "cache", "--out", "a.html"),
                              ("cache", "stopped"), _any),
}  # fmt: skip


def _two_at_once(random: Random, ground: Path, work: Path, expected: Expected) -> Tried:
    name = random.choice(list(PAIRS))
    pair = PAIRS[name]
    copy(ground, work, pair.needs)
    apart_s = random.choice([0, 0, 0.05, 0.2, 0.5])
    first = start(pair.first, work)
    time.sleep(apart_s)
    second = start(pair.second, work)
    outcomes = [first.wait(), second.wait()]
    what = f"{name}, {apart_s} s apart"
    for outcome in outcomes:
        if (crash := outcome.crash()) is not None:
            keep(work, outcome)
            return Tried("two at once", what, "wrong", crash)
    if all(outcome.code for outcome in outcomes):
        return Tried("two at once", what, "wrong", f"both refused: {outcomes[0].err} {outcomes[1].err}")
    if (odd := pair.ends(work, outcomes, expected)) is not None:
        return Tried("two at once", what, "wrong", odd)
    return Tried("two at once", what, "refused" if any(outcome.code for outcome in outcomes) else "right")


def _server_killed(random: Random, ground: Path, work: Path) -> Tried:
    """A study whose storage is killed under it ends with a line; when the server is back, the same command goes on."""
    kind = random.choice([Postgresql, Proxy])
    seconds = random.uniform(0.2, 4)
    what = f"{kind.__name__} killed after {seconds:.1f} s"
    copy(ground, work, ("cache", "config.toml"))
    try:
        server = kind()
    except FileNotFoundError as error:
        return Tried("storage server killed", f"{what}: not tried, {error}", "refused")
    argv = (*HPO, "--out", "new", "--trials", "3", "--storage", server.url)
    try:
        server.start()
        child = start(argv, work)
        time.sleep(seconds)
        server.kill()
        first = child.wait()
        server.start()
        second = run(argv, work)
        server.kill()
    finally:
        server.close()
    for outcome in (first, second):
        keep(work, outcome)
        if (crash := outcome.crash()) is not None:
            return Tried("storage server killed", what, "wrong", crash)
    if second.code != 0:
        return Tried("storage server killed", what, "wrong", f"not gone on with: {second.err}")
    return Tried("storage server killed", what, "right" if first.code == 0 else "refused")
