"""Splits by date: train | gap | valid | gap | test, never by row.

The gap is dropped from the end of the earlier part, so that validation and test begin on the very day that was asked
for, and neither a label (h days ahead, or later) nor a context (L - 1 days back) crosses a border. This one gap does
the work of purging and of the embargo (Lopez de Prado 2018, chapter 7).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loaders.errors import InputError


@dataclass(frozen=True)
class Days:
    """Consecutive calendar days: the indices start..stop-1."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Split:
    """The scored days of each part; a score may look back on days before its own part."""

    train: Days
    valid: Days
    test: Days

    def part(self, name: str) -> Days:
        """`train`, `valid` or `test`. Raises InputError for another name."""
        if name not in ("train", "valid", "test"):
            raise InputError("--split", f"no part named {name!r}", "Use train, valid or test")
        part: Days = getattr(self, name)
        return part


def gap_days(context: int, horizons: list[int], known_after: int = 0) -> int:
    """Days between parts so that neither labels nor contexts cross: the larger of L - 1 and the longest label.

    Args:
        known_after: days that a label ends after t + h.
    """
    return max(context - 1, max(horizons) + known_after)


def split_by_date(
    calendar: npt.NDArray[np.datetime64], valid_start: str, test_start: str, test_end: str | None, gap: int
) -> Split:
    """Split at ISO dates: validation from `valid_start`, test from `test_start` to `test_end` (default: the last day).

    A date that is no trading day means the next one. Raises InputError where a part has no day left.
    """
    marks = []
    for key, text in (
        ("split.valid_start", valid_start),
        ("split.test_start", test_start),
        ("split.test_end", test_end),
    ):
        if text is None:
            marks.append(len(calendar))
            continue
        try:
            day = np.datetime64(text, "D")
        except ValueError as error:
            raise InputError(key, f"{text!r} is not a date", "Write it as YYYY-MM-DD") from error
        inclusive = key == "split.test_end"
        marks.append(int(np.searchsorted(calendar, day, "right" if inclusive else "left")))
    return _split(calendar, marks[0], marks[1], marks[2], gap)


def split_by_fraction(calendar: npt.NDArray[np.datetime64], valid: float, test: float, gap: int) -> Split:
    """Split so that validation and test hold the given fractions of the calendar's days, at its end."""
    n = len(calendar)
    test_start = n - round(test * n)
    return _split(calendar, test_start - round(valid * n), test_start, n, gap)


def walk_forward(
    calendar: npt.NDArray[np.datetime64], folds: int, valid: float, test: float, gap: int, rolling: bool = False
) -> list[Split]:
    """Splits whose test parts follow one another without overlap and end on the last day.

    Every fold trains on all days before its validation part or, where `rolling`, on the last of them, as many as the
    first fold has; `valid` and `test` are fractions of the calendar for each fold. Raises InputError where the first
    fold has no day left to train on.
    """
    n = len(calendar)
    test_days, valid_days = round(test * n), round(valid * n)
    starts = [n - test_days * (folds - i) for i in range(folds)]
    return [
        _split(calendar, start - valid_days, start, start + test_days, gap, start - starts[0] if rolling else 0)
        for start in starts
    ]


def _split(
    calendar: npt.NDArray[np.datetime64], valid_start: int, test_start: int, test_end: int, gap: int,
    train_start: int = 0,
) -> Split:  # fmt: skip
    split = Split(Days(train_start, valid_start - gap), Days(valid_start, test_start - gap), Days(test_start, test_end))
    for name in ("train", "valid", "test"):
        days = split.part(name)
        if days.start < 0 or days.stop <= days.start:
            cache = f"the cache covers {calendar[0]} to {calendar[-1]}, {len(calendar)} days"
            what = f"the {name} part is empty ({cache}; {gap} days are dropped between parts)"
            cure = "Move split.valid_start and split.test_start, or the fractions, or take fewer folds"
            raise InputError("split", what, cure)
    return split
