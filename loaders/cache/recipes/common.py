"""What every recipe takes, and the steps that all share: find the files, survey them, describe what was built."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loaders.cache.format import ABSENT, CONTEXT, SCORED, Columns, Manifest
from loaders.cache.layout import Layout
from loaders.errors import InputError

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """Settings of a build. A recipe adds its own; the command line offers each by its field's name."""

    date: str = "date"  # column of dates
    code: str = "code"  # column of codes
    horizons: list[int] | None = None  # days ahead
    dtype: str = "float16"  # of the stored features
    start: str | None = None  # ISO dates, both included; None: all
    end: str | None = None

    def check_dates(self) -> None:
        """Raise InputError for a start or end that is no date, or an end before the start."""
        for option, text in (("--start", self.start), ("--end", self.end)):
            try:
                if text is not None and str(np.datetime64(text, "D")) != text:
                    raise ValueError
            except ValueError as error:
                raise InputError(option, f"{text!r} is no date", "Write it as YYYY-MM-DD") from error
        if self.start is not None and self.end is not None and self.start > self.end:
            raise InputError("--end", f"{self.end} is before --start {self.start}", "Swap them")


def source_name(paths: list[Path], files: list[Path]) -> str:
    """What messages call the files."""
    return str(paths[0]) if len(paths) == 1 else f"{len(files)} files"


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
