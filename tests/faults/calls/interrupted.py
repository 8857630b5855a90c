"""Works that are killed at a call, or whose disk fails at one, or that lose power: what is left, and how it goes on.

Each case is one fault of one work (works.py). It is right where what is left is what was there or what was to come, and
where the user's next command ends with the figures of an unbroken work, to the last digit.
"""

import atexit
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.faults.calls.power import Call, Disk, read_log
from tests.faults.calls.shim import (
    CHANGES,
    COUNT,
    ERRORS,
    EVERY,
    FAIL,
    FAIL_ON,
    KILL_AFTER,
    KILL_BEFORE,
    KINDS,
    OPEN,
    TEAR,
    Fault,
    counted,
)
from tests.faults.calls.works import Figures, Work, works
from tests.faults.readers import Tried, keep
from tests.faults.server import run

WRITES = OPEN | CHANGES
MOMENTS = 60  # of a work without power, the most that are tried


@dataclass(frozen=True)
class Unbroken:
    """A work without a fault."""

    work: Work
    before: Figures
    after: Figures
    counts: list[int]  # its calls of each kind
    log: list[Call]  # what they did to the disk

    def calls(self, kinds: int) -> int:
        """How many calls it has of some kinds."""
        return sum(count for kind, count in enumerate(self.counts) if kinds >> kind & 1)


@dataclass(frozen=True)
class Cut:
    """A loss of power after some calls; see `Disk.leave` for `names`."""

    after: int
    names: bool

    def __str__(self) -> str:
        return f"power lost after call {self.after}, {'all names' if self.names else 'what was synced'} on the disk"


_known: dict[str, Unbroken] = {}


def prepare(ground: Path, folder: Path) -> None:
    """Do each work without a fault, once. Raises AssertionError where one does not succeed."""
    for work in works():
        if work.name not in _known:
            _known[work.name] = _unbroken(work, folder, ground)
    shutil.rmtree(folder, ignore_errors=True)


def kills() -> list[tuple[str, Fault]]:
    """Each call of a work that changes the disk: killed before it, after it, and in the middle of a write."""
    found = [
        (name, Fault(WRITES, what, number + 1))
        for name, known in _known.items()
        for number in range(known.calls(WRITES))
        for what in (KILL_BEFORE, KILL_AFTER, TEAR)
    ]
    return _shuffled(found)


def errors() -> list[tuple[str, Fault]]:
    """Each error at each call of a work that can answer it, once and from there on.

    A file system has no locks from the first call on: it does not lose them.
    """
    found = [
        (name, Fault(kinds, what, number + 1, error))
        for name, known in _known.items()
        for error, kinds in ERRORS.items()
        for number in range(known.calls(kinds))
        for what in (FAIL, FAIL_ON)
        if error != errno.ENOLCK or what == FAIL or number == 0
    ]
    return _shuffled(found)


def cuts() -> list[tuple[str, Cut]]:
    """Losses of power in the middle of works, and at the end of each."""
    found = []
    for name, known in _known.items():
        calls = len(known.log)
        moments = Random(name).sample(range(calls), min(MOMENTS, calls))
        found += [(name, Cut(after, names)) for after in {*moments, calls} for names in (False, True)]
    return _shuffled(found)


def attempt_kill(random: Random, number: int, ground: Path, folder: Path, expected: Any) -> Tried:
    """A kill of the list."""
    name, fault = kills()[number]
    return _attempt("kill", name, fault, lambda known: _killed(known, fault, folder, ground))


def attempt_error(random: Random, number: int, ground: Path, folder: Path, expected: Any) -> Tried:
    """A call of the list that fails."""
    name, fault = errors()[number]
    return _attempt("error", name, fault, lambda known: _failed(known, fault, folder, ground))


def attempt_cut(random: Random, number: int, ground: Path, folder: Path, expected: Any) -> Tried:
    """A loss of power of the list."""
    name, cut = cuts()[number]
    return _attempt("power", name, cut, lambda known: _without_power(known, cut, folder, ground))


def _attempt(kind: str, name: str, fault: Fault | Cut, end: Callable[[Unbroken], str | None]) -> Tried:
    wrong = end(_known[name])
    what = f"{' '.join(_known[name].work.argv)}: {fault}"
    return Tried(f"{kind}: {name}", what, "right" if wrong is None else "wrong", wrong or "")


def _killed(known: Unbroken, fault: Fault, folder: Path, ground: Path) -> str | None:
    known.work.start(folder, ground)
    outcome = run(known.work.argv, folder, before=lambda: fault.arm(folder))
    keep(folder, outcome)
    if outcome.code == 0:  # killed after all was done, or an attempt of fewer calls
        return _differs(known, folder)
    return _left(known, folder) or _gone_on(known, folder)


def _failed(known: Unbroken, fault: Fault, folder: Path, ground: Path) -> str | None:
    known.work.start(folder, ground)
    outcome = run(known.work.argv, folder, before=lambda: fault.arm(folder))
    keep(folder, outcome)
    if (crash := outcome.crash()) is not None:
        return crash
    if outcome.code == 0 and known.work.is_told:
        return _differs(known, folder)
    return _left(known, folder) or _gone_on(known, folder)


def _without_power(known: Unbroken, cut: Cut, folder: Path, ground: Path) -> str | None:
    known.work.start(folder, ground)
    disk = Disk(folder)
    for call in known.log[: cut.after]:
        disk.play(call)
    shutil.rmtree(folder)
    disk.leave(folder, cut.names)
    if cut.after == len(known.log) and known.work.is_told:
        return _differs(known, folder)  # it has said that it was done
    return _left(known, folder) or _gone_on(known, folder)


def _unbroken(work: Work, folder: Path, ground: Path) -> Unbroken:
    work.start(folder, ground)
    before = work.figures(folder)
    with tempfile.TemporaryFile() as counts, tempfile.TemporaryFile() as log:

        def arm() -> None:
            Fault(EVERY, COUNT).arm(folder, log.fileno())
            atexit.register(lambda: os.pwrite(counts.fileno(), json.dumps(counted()).encode(), 0))

        outcome = run(work.argv, folder, before=arm)
        assert outcome.code == 0, f"{work.name}: {outcome}"
        counts.seek(0)
        log.seek(0)
        found, calls = json.loads(counts.read()), read_log(log.read(), folder)
    assert len(found) == KINDS
    after = work.figures(folder)
    assert after is not None, work.name
    return Unbroken(work, before, after, found, calls)


def _left(known: Unbroken, folder: Path) -> str | None:
    """What is wrong with what a fault has left."""
    try:
        left = known.work.figures(folder)
    except Exception as error:  # whatever a reader makes of half a file
        return f"left half-written: {type(error).__name__}: {error}"
    if known.work.is_atomic and left not in (known.before, known.after):
        return "left something else than before or after"
    return None


def _gone_on(known: Unbroken, folder: Path) -> str | None:
    """What is wrong with what a user's next commands make of it."""
    outcome = known.work.go_on(folder, lambda argv, where: run(argv, where))
    keep(folder, outcome, "gone-on.txt")
    if (crash := outcome.crash()) is not None:
        return f"going on: {crash}"
    if outcome.code != 0 and not (known.work.is_refused_when_done and known.work.figures(folder) == known.after):
        return f"cannot go on: {outcome.err.strip():.300}"
    return _differs(known, folder)


def _differs(known: Unbroken, folder: Path) -> str | None:
    try:
        found = known.work.figures(folder)
    except Exception as error:  # as above
        return f"not readable: {type(error).__name__}: {error}"
    return None if found == known.after else f"other figures: {found!s:.200}"


def _shuffled(found: Sequence[Any]) -> list[Any]:
    return Random(0).sample(found, len(found))
