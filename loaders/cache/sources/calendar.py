"""What a calendar says: how many dates make a year, and which dates are held by few codes.

T dates
"""

from typing import Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from loaders.cache.sources.dates import ERA_ZERO
from loaders.errors import InputError

Days = npt.NDArray[np.datetime64]
PeriodName = Literal["day", "week", "month", "era", "other"]
PERIODS = ("day", "week", "month", "era")

_USUAL: dict[float, PeriodName] = {252: "day", 365: "day", 52: "week", 12: "month", 4: "other", 1: "other"}
_TOLERANCE = 0.15
_APART = 1.6  # times: what --period and the calendar may differ by
_WEEKDAYS = 261.0  # a year
_YEAR = 365.25

FEW = 0.2  # share of the codes of the dates around
AROUND = 20  # dates before and after


class Period(NamedTuple):
    """What one step of the calendar is."""

    name: PeriodName
    per_year: float | None  # steps a year; None: not known

    def __str__(self) -> str:
        pace = "not known" if self.per_year is None else f"{self.per_year:g}"
        return f"period {self.name}, periods per year {pace}"


def check_period(asked: str | None) -> None:
    """Raise InputError for an unknown --period."""
    if asked is not None and asked not in PERIODS:
        raise InputError("--period", f"{asked!r} is not known", f"Use {', '.join(PERIODS)}")


def period_of(calendar: Days, asked: str | None = None, per_year: float | None = None) -> Period:
    """The period of a calendar [T], and how many make a year.

    The number a year is measured on the complete years, then set to 252, 365, 52, 12, 4 or 1 where one is within 15%.

    Args:
        asked: states the period. Eras have no known number a year.
        per_year: states the number a year, whatever the calendar says.

    Raises InputError for an unknown period, for a number that is not positive, and where `asked` contradicts the
    calendar and `per_year` is not given.
    """
    check_period(asked)
    if per_year is not None and not (np.isfinite(per_year) and per_year > 0):
        raise InputError("--periods-per-year", f"{per_year:g} is not positive", "Leave it out to take the calendar's")
    measured = None if asked == "era" or len(calendar) < 2 else measure(calendar)
    name, pace = _snap(measured)
    if asked is not None:
        usual = [number for number, known in _USUAL.items() if known == asked]
        if measured is None:
            pace = usual[0] if usual else None
        elif per_year is None and not min(usual) / _APART <= measured <= max(usual) * _APART:
            what = f"{asked}, but the calendar has {measured:.4g} dates a year"
            raise InputError("--period", what, "Leave it out, or state --periods-per-year, too")
        name = cast(PeriodName, asked)
    return Period(name, pace if per_year is None else float(per_year))


def measure(calendar: Days) -> float:
    """Dates a year of a calendar of 2 dates or more: the median of its complete years, else from its whole stretch."""
    years = calendar.astype("datetime64[Y]").astype(int) + 1970
    counts = np.bincount(years - years[0])
    complete = counts[1:-1][counts[1:-1] > 0]
    if len(complete):
        return float(np.median(complete))
    steps = len(calendar) - 1
    if np.is_busday(calendar).all():  # a stretch of weekdays: weekends in it or not, it is the same market
        return float(steps / np.busday_count(calendar[0], calendar[-1]) * _WEEKDAYS)
    return float(steps / int((calendar[-1] - calendar[0]).astype(int)) * _YEAR)


def _snap(measured: float | None) -> Period:
    if measured is None:
        return Period("other", None)
    for number, name in _USUAL.items():
        if abs(measured / number - 1) <= _TOLERANCE:
            return Period(name, float(number))
    return Period("other", float(f"{measured:.3g}"))


def told(calendar: Days, period: Period, asked: str | None, per_year: float | None) -> str:
    """One line: what the calendar was read as."""
    line = str(period)
    if asked == "era":
        low, high = (int((day - np.datetime64(ERA_ZERO)).astype(int)) for day in (calendar[0], calendar[-1]))
        return f"{line}; eras {low} to {high} are read as {calendar[0]} to {calendar[-1]}: {ERA_ZERO} + one day an era"
    if period.name == "other" and period.per_year not in _USUAL and per_year is None and asked is None:
        line += (
            "; --periods-per-year states it"
            if period.per_year is None
            else ", as measured; --periods-per-year states it"
        )
    return line


def held_by_few(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which of the dates have less than a fifth of the codes of the dates around them.

    Args:
        codes: [T] codes on each date, in order. Compared with the medians of up to 20 dates before and 20 after, the
            smaller of the two, so that a panel may begin with few codes and grow.
    """
    before, after = _medians_before(codes), _medians_before(codes[::-1])[::-1]
    few: npt.NDArray[np.bool_] = codes < FEW * np.minimum(before, after)
    few[:1] = False  # the first date may be the first of a panel that grows
    return few


def _medians_before(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The median of up to 20 values before each [T]; infinite before the first."""
    start = [np.median(codes[:day]) for day in range(1, min(AROUND, len(codes)))]
    windows = np.lib.stride_tricks.sliding_window_view(codes, AROUND)[:-1] if len(codes) > AROUND else np.empty((0, 1))
    return np.concatenate([[np.inf], start, np.median(windows, axis=1)])
