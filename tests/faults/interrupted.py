"""Works that are killed at a write, or whose disk fails at a call, or that lose power: and what is left, and goes on.

Each case is one fault of one work. It is right where what is left is what was there or what was to come, and where the
user's next command ends with the figures of an unbroken work, to the last digit.
"""

import atexit
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.power import Disk, read_log
from tests.faults.server import Outcome, run
from tests.faults.shim import (
    CHANGES,
    COUNT,
    ERRORS,
    EVERY,
    FAIL,
    FAIL_ON,
    KILL_AFTER,
    KILL_BEFORE,
    OPEN,
    TEAR,
    Fault,
    counted,
)
from tests.faults.works import Work

Figures = Any


@dataclass(frozen=True)
class Unbroken:
    """A work without a fault."""

    work: Work
    before: Figures
    after: Figures
    out: str
    writes: int  # calls that change the disk
    calls: dict[int, int]  # error -> calls that can answer it


def unbroken(work: Work, folder: Path, inputs: Path) -> Unbroken:
    """Do a work and count its calls. Raises AssertionError where it does not succeed."""
    work.start(folder, inputs)
    before = work.figures(folder)
    writes, outcome = _count(work, folder, OPEN | CHANGES)
    assert outcome.code == 0, f"{work.name}: {outcome}"
    after = work.figures(folder)
    assert after is not None, work.name
    calls = {}
    for error, kinds in ERRORS.items():
        work.start(folder, inputs)
        calls[error], _ = _count(work, folder, kinds)
    return Unbroken(work, before, after, outcome.out, writes, calls)


def kills(known: Unbroken, random: random.Random) -> Iterator[Fault]:
    """Each call of a work that changes the disk, in random order: killed before it, after it, and in its middle."""
    every = [
        Fault(OPEN | CHANGES, what, n + 1) for n in range(known.writes) for what in (KILL_BEFORE, KILL_AFTER, TEAR)
    ]
    yield from random.sample(every, len(every))


def errors(known: Unbroken, random: random.Random) -> Iterator[Fault]:
    """Each error at each call of a work that can answer it, once and from there on, in random order."""
    every = [
        Fault(ERRORS[error], what, n + 1, error)
        for error, calls in known.calls.items()
        for n in range(calls)
        for what in (FAIL, FAIL_ON)
    ]
    yield from random.sample(every, len(every))


def killed(known: Unbroken, fault: Fault, folder: Path, inputs: Path) -> str | None:
    """What is wrong after a kill; None where all is right."""
    work = known.work
    work.start(folder, inputs)
    outcome = run(work.argv, folder, before=lambda: fault.arm(folder))
    if outcome.signal is None and outcome.code == 0:
        return _differs(known, folder)  # a run of fewer calls than the counted one
    return _left(known, folder) or _gone_on(known, folder)


def failed(known: Unbroken, fault: Fault, folder: Path, inputs: Path) -> str | None:
    """What is wrong after a call that failed; None where all is right."""
    work = known.work
    work.start(folder, inputs)
    outcome = run(work.argv, folder, before=lambda: fault.arm(folder))
    if (crash := outcome.crash()) is not None:
        return crash
    if outcome.code == 0 and work.is_told:
        return _differs(known, folder)
    return _left(known, folder) or _gone_on(known, folder)


def without_power(
    known: Unbroken, random: random.Random, most: int, folder: Path, inputs: Path
) -> Iterator[str | None]:
    """What is wrong when the power goes at some moments of a work, the last one included, on the worst disks.

    Args:
        most: moments, of the many.
    """
    work = known.work
    work.start(folder, inputs)
    disk = Disk(folder)
    with tempfile.TemporaryFile() as log:
        outcome = run(work.argv, folder, before=lambda: Fault(EVERY, COUNT).arm(folder, log.fileno()))
        log.seek(0)
        calls = read_log(log.read(), folder)
    assert outcome.code == 0, f"{work.name}: {outcome}"
    moments = set(random.sample(range(len(calls)), min(most, len(calls))))
    for number, call in enumerate(calls):
        disk.play(call)
        for names in (False, True) if number in moments else ():
            _leave(disk, folder, names)
            yield _left(known, folder) or _gone_on(known, folder)
    for names in (False, True):
        _leave(disk, folder, names)
        yield _differs(known, folder)  # it has said that it was done


def _leave(disk: Disk, folder: Path, names: bool) -> None:
    shutil.rmtree(folder)
    disk.leave(folder, names)


def _count(work: Work, folder: Path, kinds: int) -> tuple[int, Outcome]:
    """The calls of a work, of some kinds."""
    read, write = os.pipe()

    def arm() -> None:
        Fault(kinds, COUNT).arm(folder)
        atexit.register(lambda: os.write(write, str(counted()).encode()))

    outcome = run(work.argv, folder, before=arm)
    os.close(write)
    with os.fdopen(read) as counts:
        return int(counts.read() or 0), outcome


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
