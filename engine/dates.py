"""The days of a run as dates, and the days that a later command scores.

A cache that is rebuilt with more history numbers its days anew, and fractions of its calendar mean other days. So the
checkpoints of a run hold the first and the last date of its parts (`dates_of`), and every command that scores the run
looks these dates up in the panel it scores (`choose_days`). Days at or before the last validation day are in sample.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.checkpoint import State
from loaders.errors import InputError
from loaders.panel import Panel
from loaders.split import Days, Split, find_days, parse_date

Dates = npt.NDArray[np.datetime64]  # [D] datetime64[D], ascending

SPAN = "span"  # the name of days that --start and --end choose


@dataclass(frozen=True)
class Asked:
    """The days that a command is asked to score.

    Raises InputError for a text that is no date, a span that is empty, and a span beside a part that is named.
    """

    split: str = "test"  # a part of the run
    start: str | None = None  # with `end` a span of dates instead; None: the first test day
    end: str | None = None  # None: the last day of the cache
    in_sample: bool = False  # whether the span may hold days at or before the last validation day

    @property
    def name(self) -> str:
        """What figures of these days are called."""
        return self.split if self.start is None and self.end is None else SPAN

    def __post_init__(self) -> None:
        for option, text in (("--start", self.start), ("--end", self.end)):
            if text is not None:
                parse_date(text, option)
        if self.start is not None and self.end is not None and self.end < self.start:
            raise InputError("--end", f"{self.end} is before --start {self.start}", "Name the first day as --start")
        if self.name == SPAN and self.split != "test":
            what = f"{self.split} names days, and so do --start and --end"
            raise InputError("--split", what, "Leave one of the two out")


def dates_of(split: Split, calendar: Dates) -> dict[str, list[str]]:
    """The first and the last day of each part, ISO, as `State.split` holds them."""
    return {name: [str(calendar[days.start]), str(calendar[days.stop - 1])] for name, days in vars(split).items()}


def span_of(dates: Dates) -> dict[str, Any]:
    """What JSON says of the days of figures: {first, last, days}."""
    return {"first": str(dates[0]), "last": str(dates[-1]), "days": len(dates)}


def spans_of(split: Split, calendar: Dates) -> dict[str, dict[str, Any]]:
    """`span_of` each part."""
    return {name: span_of(calendar[days.start : days.stop]) for name, days in vars(split).items()}


def span_text(span: dict[str, Any]) -> str:
    """A span in words, such as 2015-01-02..2016-12-30 (504 days)."""
    return f"{span['first']}..{span['last']} ({span['days']:,} days)"


def choose_days(
    state: State, asked: Asked, panel: Panel, where: str, tuned_until: str | None = None
) -> tuple[Days, list[str]]:
    """The asked days of a run in a panel, and what has to be said with their figures.

    Args:
        where: names the run in messages.
        tuned_until: `split.tuned_until` of the run.

    Raises InputError where the panel has none of the days, and for days at or before the run's last validation day,
    unless they are asked for.
    """
    if asked.split not in state.split:
        raise InputError("--split", f"no part named {asked.split!r}", f"Use {', '.join(state.split)}")
    calendar = panel.calendar
    first, last = state.split[asked.split]
    if asked.name == SPAN:
        first, last = asked.start or first, asked.end or str(calendar[-1])
    days = find_days(calendar, first, last)
    covers = f"{panel.folder} covers {calendar[0]}..{calendar[-1]}"
    if days.stop <= days.start:
        what = f"no day of the {asked.name} {first}..{last} is in the cache: {covers}"
        raise InputError(where, what, "Pass another --arrow, or other days as --start and --end")
    dates = calendar[days.start : days.stop]
    notes = [
        in_sample_note(where, asked.name, dates, state.split["valid"][1], asked.in_sample),
        tuned_note(where, asked.name, dates, tuned_until),
    ]
    if state.cache_id != panel.manifest.cache_id:
        own = f"{where} was trained on cache {state.cache_id} ({state.source})"
        notes.append(f"cache: {own}, and is scored on {panel.manifest.cache_id} ({panel.folder})")
    if first < str(calendar[0]) or last > str(calendar[-1]):
        notes.append(f"days: {where}: the {asked.name} is {first}..{last}, but {covers}")
    return days, [note for note in notes if note is not None]


def reach_in_sample(name: str, first: Any, trained_until: str | None) -> str | None:
    """How far days that begin with `first` reach into a run's own; None where they do not, or name a part of these."""
    if trained_until is None or name in ("train", "valid") or str(first) > trained_until:
        return None
    return f"reach back to {first}, trained until {trained_until}"


def in_sample_note(where: str, name: str, dates: Dates, trained_until: str | None, allowed: bool) -> str | None:
    """What to say of figures of days that a run was trained or chosen on; None where they are out of sample.

    Raises InputError for such days that are not `allowed`.
    """
    reach = reach_in_sample(name, dates[0], trained_until)
    if reach is not None and not allowed:
        what = f"in sample: the days reach back to {dates[0]}, its last validation day is {trained_until}"
        raise InputError(where, what, "Begin later with --start, or pass --in-sample")
    return None if reach is None else f"in sample: the days of {where} {reach}"


def tuned_note(where: str, name: str, dates: Dates, tuned_until: str | None) -> str | None:
    """What to say of figures of days that the choice of a run's settings has seen; None where it has seen none."""
    if tuned_until is None or name in ("train", "valid"):
        return None
    seen = int((dates <= np.datetime64(tuned_until)).sum())
    what = f"tuned: the settings of {where} were chosen with days until {tuned_until}"
    return f"{what}: {seen:,} of {len(dates):,} days are not out of sample" if seen else None
