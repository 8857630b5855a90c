"""Splits by date: train | gap | valid | gap | test, never by row.

The gap is dropped from the end of the earlier part, so that validation and test begin on the very day that was asked
for, and neither a label (h days ahead, or later) nor a context (L - 1 days back) crosses a border. This one gap does
the work of purging and of the embargo (Lopez de Prado 2018, chapter 7).
"""

from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt

from loaders.errors import InputError

VALID_YEARS = 2  # before the test year of a fold by year


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

    def refit(self) -> "Split":
        """The split of a refit: it trains on the validation days too, and on those between the two parts."""
        return Split(Days(self.train.start, self.valid.stop), self.valid, self.test)


def gap_days(context: int, horizons: list[int], known_after: int) -> int:
    """Days between parts so that neither labels nor contexts cross: the larger of L - 1 and the longest label.

    Args:
        known_after: days that a label ends after t + h.
    """
    return max(context - 1, max(horizons) + known_after)


def parse_date(text: str, where: str) -> str:
    """`text`, a date as YYYY-MM-DD. Raises InputError, which names `where` it stands, for anything else."""
    try:
        if str(date.fromisoformat(text)) == text:
            return text
    except ValueError:
        pass
    raise InputError(where, f"{text!r} is not a date", "Write it as YYYY-MM-DD")


def find_days(calendar: npt.NDArray[np.datetime64], first: str, last: str) -> Days:
    """The days of a calendar from the ISO date `first` to `last`, both included; empty where it has none of them."""
    start = np.searchsorted(calendar, np.datetime64(first), "left")
    stop = np.searchsorted(calendar, np.datetime64(last), "right")
    return Days(int(start), int(stop))


def split_by_date(
    calendar: npt.NDArray[np.datetime64],
    valid_start: str,
    test_start: str,
    test_end: str | None,
    gap: int,
    *,
    train_start: str | None = None,
    valid_end: str | None = None,
) -> Split:
    """Split at ISO dates: validation from `valid_start`, test from `test_start` to `test_end` (default: the last day).

    A date that is no trading day means the next one, or the last one before where it ends a part.

    Args:
        train_start: default: the first day.
        valid_end: default: the last day that leaves the gap before the test.

    Raises InputError where a part has no day left, and for a `valid_end` that is inside the gap.
    """

    def mark(key: str, text: str | None, default: int) -> int:
        if text is None:
            return default
        day = np.datetime64(parse_date(text, f"split.{key}"))
        return int(np.searchsorted(calendar, day, "right" if key.endswith("_end") else "left"))

    n = len(calendar)
    starts = mark("valid_start", valid_start, n), mark("test_start", test_start, n)
    split = _split(calendar, *starts, mark("test_end", test_end, n), gap, mark("train_start", train_start, 0))
    valid = Days(split.valid.start, mark("valid_end", valid_end, split.valid.stop))
    if not valid.start < valid.stop <= split.valid.stop:
        what = f"{valid_end} is not in {calendar[valid.start]}..{calendar[split.valid.stop - 1]}"
        raise InputError("split.valid_end", f"{what}, the days before the gap before the test", "Move it there")
    return Split(split.train, valid, split.test)


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


def walk_forward_by_year(
    calendar: npt.NDArray[np.datetime64], folds: int, gap: int, rolling: bool = False
) -> list[Split]:
    """Splits whose test parts are the last `folds` calendar years, as far as the calendar has them.

    Validation is the VALID_YEARS years before the test. Training is as for `walk_forward`. Raises InputError where the
    calendar has not so many years, and where the first fold has no day left to train on.
    """
    years = calendar.astype("datetime64[Y]")
    tested = np.unique(years)[-folds:]
    if len(tested) < folds:
        what = f"{folds} folds by year, the calendar has {len(tested)} years"
        raise InputError("split.folds", what, "Take fewer")
    first = np.searchsorted(years, np.append(tested, tested[-1] + 1))
    valid = np.searchsorted(years, tested - VALID_YEARS)
    if years[0] > tested[0] - VALID_YEARS:
        valid[0] = 0  # `_split` says what is empty
    return [
        _split(calendar, int(valid[i]), int(first[i]), int(first[i + 1]), gap, int(valid[i] - valid[0]) * rolling)
        for i in range(folds)
    ]


def tuning_folds(base: Split, folds: int, gap: int, rolling: bool = False) -> list[Split]:
    """Walk-forward splits for tuning, which never sees a day of the base split's test part.

    Validation parts are as long as that of `base`, follow one another, and end on its last day, so one fold is `base`
    itself. The test part of each is that of `base`. Every fold trains on all days before its validation or, where
    `rolling`, on the last of them, as many as the first fold has. Raises InputError where the first fold has no day
    left to train on.
    """
    days = len(base.valid)
    starts = [base.valid.stop - days * (folds - i) for i in range(folds)]
    if starts[0] - gap <= base.train.start:
        what = f"{folds} validation parts of {days} days before the test leave no day to train on"
        raise InputError("hpo.folds", what, "Take fewer folds, or a shorter validation part")
    return [
        Split(
            Days(base.train.start + (start - starts[0] if rolling else 0), start - gap),
            Days(start, start + days),
            base.test,
        )
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
