"""The ledger of looks: how often the figures of a test part have been seen.

Each look at a test makes the next choice depend on it, and the best of many models looks better than it is. So whatever
evaluates days that no model was trained or chosen on appends a line of JSON to `<cache>.looks.jsonl`, beside the cache:

    when, command, what      UTC time; train, evaluate, baseline or report; the run, folds or score files
    run, config, cache       run id, hash of the configuration and id of the cache, where they are known
    first, last, days        the days whose figures were seen
    rank_ic                  by horizon

A line is one write in append mode: writers do not lock, and a killed one leaves at most one line. Readers skip lines
that they cannot read, and say how many.
Figures of training and validation days are no looks, nor is what tuning sees.
"""

import errno
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from engine.score.metrics import Metrics
from engine.score.tables import to_json
from loaders.disk.content import find_file, parse_json
from loaders.disk.durable import sync_folder
from loaders.errors import InputError

SUFFIX = ".looks.jsonl"
NO_LOOK = ("train", "valid")  # names of days whose figures are none

_told: set[Path] = set()  # ledgers of which something was told


@dataclass(frozen=True)
class Look:
    """One evaluation of days that are out of sample."""

    command: str
    what: str
    first: str  # ISO
    last: str
    days: int
    rank_ic: Mapping[str, float | None]  # by horizon
    cache: str
    run: str | None = None
    config: str | None = None
    when: str = ""

    @property
    def model(self) -> str:
        """What was looked at, the same for the same scores."""
        return self.run or self.what


@dataclass(frozen=True)
class Count:
    """Where a look stands among all at overlapping days."""

    number: int  # this look's, from 1
    models: int  # different runs and score files among them
    ledger: Path
    unwritten: str | None = None  # why this look is not in the ledger
    unread: str | None = None  # what of the ledger is not counted

    @property
    def notes(self) -> list[str]:
        """What has to be said with the count."""
        return [each for each in (self.unwritten, self.unread) if each is not None]

    def __str__(self) -> str:
        models = "one model" if self.models == 1 else f"{self.models:,} different models"
        return f"look number {self.number:,} at these days, at {models} ({self.ledger})"


def ledger_of(cache: Path) -> Path:
    """The file of a cache's looks. Two names of one folder share it."""
    real = Path(os.path.realpath(cache))
    return real.with_name(real.name + SUFFIX)


def record(cache: Path, look: Look) -> Count:
    """Append a look and count those whose days overlap with it, itself included. Never raises for a file system."""
    ledger = ledger_of(cache)
    look = replace(look, when=look.when or datetime.now(UTC).isoformat(timespec="seconds"))
    unwritten = None
    try:
        _append(ledger, to_json({key: value for key, value in asdict(look).items() if value is not None}))
    except OSError as error:
        unwritten = f"{ledger} cannot be written ({error.strerror}): this look is not counted from now on"
    return replace(_count(cache, look.first, look.last, [] if unwritten is None else [look]), unwritten=unwritten)


def count_at(cache: Path, first: str, last: str) -> Count:
    """How many looks there have been at days that overlap with these, without another one."""
    return _count(cache, first, last, [])


def _count(cache: Path, first: str, last: str, more: list[Look]) -> Count:
    every, unread = read_looks(cache)
    found = [look for look in every if look.first <= last and first <= look.last] + more
    return Count(len(found), len({each.model for each in found}), ledger_of(cache), unread=unread)


def read_looks(cache: Path) -> tuple[list[Look], str | None]:
    """All looks at a cache's days, in the order of the ledger, and what has to be said of what cannot be read of it.

    None where there is no ledger.
    """
    ledger = ledger_of(cache)
    try:
        content = find_file(ledger, "")
    except InputError as error:
        return [], f"{ledger} {error.what}: looks before this one are not counted"
    lines = [] if content is None else content.decode(errors="replace").split("\n")
    found = [_parsed(line) for line in lines if line.strip()]
    lost = sum(look is None for look in found)
    said = f"{lost:,} line{'s' * (lost != 1)} of {ledger} cannot be read and {'are' if lost != 1 else 'is'} not counted"
    return [look for look in found if look is not None], said if lost else None


def told_once(count: Count | None) -> str | None:
    """What has to be said with a count, the first time a process asks for that ledger; else None."""
    if count is None or not count.notes or count.ledger in _told:
        return None
    _told.add(count.ledger)
    return "\n".join(count.notes)


def look_of(
    command: str, what: Iterable[Any], split: str, days: dict[str, Any], metrics: dict[str, Metrics], cache: str,
    run: str | None = None, config: str | None = None,
) -> Look | None:  # fmt: skip
    """The look that figures of such days are; None where they are none.

    Args:
        split: name of the days.
        days: {first, last, days} of them.
        metrics: by horizon.
    """
    if split in NO_LOOK:
        return None
    rank_ic = {h: values["rank_ic"] for h, values in metrics.items()}
    named = ", ".join(map(str, what))
    return Look(command, named, days["first"], days["last"], days["days"], rank_ic, cache, run, config)


def _append(ledger: Path, line: str) -> None:
    descriptor = os.open(ledger, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        # A line that a kill or a full disk has cut short must not take this one with it.
        cut = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        content = ("\n" * cut + line + "\n").encode()
        if os.write(descriptor, content) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if size == 0:
        sync_folder(ledger.parent)


def _parsed(line: str) -> Look | None:
    try:
        value = parse_json(line, "", "")
        known = isinstance(value, dict) and set(value) <= {each.name for each in fields(Look)}
        look = TypeAdapter(Look).validate_python(value) if known else None
        return look if look and date.fromisoformat(look.first) <= date.fromisoformat(look.last) else None
    except (InputError, ValidationError, ValueError):
        return None
