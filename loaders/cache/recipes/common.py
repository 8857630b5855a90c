"""What every recipe takes, and the steps that all share: find the files, survey them, describe what was built."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from loaders.cache.format import ABSENT, CONTEXT, SCORED, Columns, Manifest
from loaders.cache.layout import Layout, Survey, survey
from loaders.cache.sources import calendar, dates
from loaders.cache.sources.calendar import Period
from loaders.cache.sources.table import Sources, open_sources, open_table
from loaders.errors import InputError

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """Settings of a build. A recipe adds its own; the command line offers each by its field's name."""

    date: str = "date"  # column of dates
    code: str = "code"  # column of codes
    rename: list[str] = field(default_factory=list)  # `old=new` columns
    horizons: list[int] | None = None  # days ahead
    dtype: str = "float16"  # of the stored features
    start: str | None = None  # ISO dates, both included; None: all
    end: str | None = None
    period: str | None = None  # day, week, month or era; None: as the calendar says
    periods_per_year: float | None = None
    min_codes: int | None = None  # dates with fewer codes are left out

    def checked(self) -> Self:
        """The same with start and end as ISO dates.

        Raises InputError for an unknown period, a start or end that is no date, and an end before the start.
        """
        calendar.check_period(self.period)
        if self.min_codes is not None and self.min_codes < 1:
            raise InputError("--min-codes", f"{self.min_codes} is less than 1", "Leave it out to keep all dates")
        start, end = self._iso("--start", self.start), self._iso("--end", self.end)
        if start is not None and end is not None and start > end:
            raise InputError("--end", f"{self.end} is before --start {self.start}", "Swap them")
        return replace(self, start=start, end=end)

    def as_read(self) -> dict[str, Any]:
        """What decided which rows were read and by what names, for the manifest."""
        names = ("date", "code", "rename", "start", "end", "min_codes")
        return {name: getattr(self, name) for name in names}

    def _iso(self, option: str, text: str | None) -> str | None:
        day = None if text is None else dates.parse(text, self.period)
        if text is not None and day is None:
            raise InputError(option, f"{text!r} is no date", dates.advice(text, self.period))
        return None if day is None else str(day)


def open_files(paths: list[Path], options: Options, on_progress: Progress) -> Sources:
    """The files of a build, open; see `open_sources`."""
    return open_sources(paths, options.date, options.code, options.rename, options.period, on_progress)


def survey_columns(
    sources: Sources, numbers: list[str], options: Options, start: str | None, on_progress: Progress
) -> tuple[Survey, Period]:
    """The first pass over number columns from `start` on, and what the calendar was read as, which is told."""
    table = open_table(sources, numbers, start, options.end, on_progress)
    found = survey(table, options.min_codes, on_progress)
    days = found.layout.calendar[~found.few]  # metrics skip the others
    period = calendar.period_of(days, options.period, options.periods_per_year)
    on_progress(calendar.told(found.layout.calendar, period, options.period, options.periods_per_year))
    return found, period


def summary(layout: Layout, n_features: int, n_files: int) -> str:
    """One line of what the files hold."""
    days = f"{len(layout.calendar):,} days from {layout.calendar[0]} to {layout.calendar[-1]}"
    return f"{n_files:,} files: {len(layout.codes):,} codes, {days}, {n_features} features"


def manifest_of(
    columns: Columns,
    layout: Layout,
    features: list[str],
    horizons: list[int],
    dtype: str,
    counts: dict[str, int],
    recipe: dict[str, Any],
    normalisation: str,
) -> Manifest:
    """The manifest of filled columns, without checksums."""
    kinds = {"absent": ABSENT, "context": CONTEXT, "scored": SCORED}
    return Manifest(
        features=features,
        horizons=horizons,
        dtype=dtype,
        calendar=[str(day) for day in layout.calendar],
        codes=layout.codes,
        first=layout.first.tolist(),
        days=layout.days.tolist(),
        rows=layout.rows,
        counts={name: int((columns.presence == kind).sum()) for name, kind in kinds.items()}
        | {"one_day_codes": int((layout.days == 1).sum())}
        | counts,
        recipe=recipe,
        normalisation=normalisation,
    )
