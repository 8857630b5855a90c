"""What every recipe takes, and the steps that all share: describe the files, make the folders, write what was built.

S codes, F features, H horizons
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from loaders.cache.columns import NewColumns, create_columns, joined
from loaders.cache.cross_sections import DESCRIPTION, TRANSFORMS
from loaders.cache.format import ABSENT, CONTEXT, SCORED, write_manifest
from loaders.cache.layout import Layout, Survey, survey
from loaders.cache.manifest.model import BuiltFrom, Delisting, Dtype, Manifest, Transform
from loaders.cache.manifest.text import check_names
from loaders.cache.recipes.source_rows import SourceRows
from loaders.cache.sources import calendar, dates
from loaders.cache.sources.calendar import Period
from loaders.cache.sources.frames import Source
from loaders.cache.sources.table import Sources, open_sources, open_table
from loaders.cache.statistics import RunningStats
from loaders.errors import InputError
from loaders.progress import Progress, part_of, quiet

Tell = Callable[[str], None]  # receives lines to show
ROWS = 1 << 20  # that are looked at together
NUMBERS = {"periods_per_year": 0.1, "min_price": 0.0, "min_dollar_volume": 0.0}  # the least that each can be
PerCode = npt.NDArray[np.int64]  # [S]


@dataclass(frozen=True)
class Options:
    """Settings of a build. A recipe adds its own; the command line offers each by its field's name."""

    date: str = "date"  # column of dates
    code: str = "code"  # column of codes
    rename: list[str] = field(default_factory=list)  # `old=new` columns
    targets: list[str] = field(default_factory=list)  # columns; `none` alone: a cache to score, without targets
    horizons: list[int] | None = None  # days ahead
    exclude: list[str] = field(default_factory=list)  # names or patterns of features that are left out
    transform: Transform = "rank"  # of features, within each date: a key of cross_sections.TRANSFORMS
    dtype: Dtype = "float16"  # of the stored features
    start: str | None = None  # ISO dates, both included; None: all
    end: str | None = None
    period: str | None = None  # day, week, month or era; None: as the calendar says
    periods_per_year: float | None = None
    min_codes: int | None = None  # dates with fewer codes are left out
    shards: int = 1  # caches of some of the codes each, in one folder
    keep_source: bool = True  # beside the rows, so that days can be appended; shards keep none

    @property
    def untargeted(self) -> bool:
        """Whether the cache is to have no targets."""
        return self.targets == ["none"]

    @property
    def keeps_source(self) -> bool:
        """Whether the cache will keep what it was built from."""
        return self.keep_source and self.shards == 1

    def checked(self) -> Self:
        """The same with start and end as ISO dates.

        Raises InputError for an unknown period or transform, horizons of no targets, a start or end that is no date,
        an end before it, and text with a control character.
        """
        calendar.check_period(self.period)
        for name, value in vars(self).items():
            texts = value if isinstance(value, list) else [value]
            check_names(f"--{name.replace('_', '-')}", "value", [text for text in texts if isinstance(text, str)])
        if self.transform not in TRANSFORMS:
            raise InputError("--transform", f"no transform {self.transform!r}", f"Use {', '.join(TRANSFORMS)}")
        if self.min_codes is not None and self.min_codes < 1:
            raise InputError("--min-codes", f"{self.min_codes} is less than 1", "Leave it out to keep all dates")
        for name, least in NUMBERS.items():
            value = getattr(self, name, None)
            if value is not None and not (math.isfinite(value) and value >= least):
                what = f"{value} is no finite number of {least:g} or more"
                raise InputError(f"--{name.replace('_', '-')}", what, "Pass another one, or leave it out")
        if self.untargeted and self.horizons is not None:
            raise InputError("--horizons", "there are no targets to have any (--targets none)", "Leave one of them out")
        start, end = self.iso("--start", self.start), self.iso("--end", self.end)
        if start is not None and end is not None and start > end:
            raise InputError("--end", f"{self.end} is before --start {self.start}", "Swap them")
        return replace(self, start=start, end=end)

    def open(self, paths: Sequence[Source], on_progress: Tell) -> Sources:
        """The files and frames of a build, open; see `open_sources`."""
        return open_sources(paths, self.date, self.code, self.rename, self.period, on_progress)

    @property
    def first_read(self) -> str | None:
        """The first date that is read; None: all."""
        return self.start

    def as_read(self) -> dict[str, Any]:
        """What decided which rows were read and by what names, for the manifest."""
        names = ("date", "code", "rename", "start", "end", "min_codes")
        return {name: getattr(self, name) for name in names}

    def iso(self, option: str, text: str | None) -> str | None:
        """The ISO date that a text means. Raises InputError naming the option where it is none."""
        day = None if text is None else dates.parse(text, self.period)
        if text is not None and day is None:
            raise InputError(option, f"{text!r} is no date", dates.advice(text, self.period))
        return None if day is None else str(day)


@dataclass(frozen=True)
class Content:
    """What a recipe builds, beside the rows."""

    layout: Layout
    features: list[str]
    horizons: list[int]  # ascending
    targets: list[str]  # what the target of each horizon is
    recipe: dict[str, Any]  # name and settings
    period: Period
    left_out: dict[str, int]  # dates that the whole build left out, and how many codes held each
    source: SourceRows | None  # None: not kept
    categories: list[str] = field(default_factory=list)
    known_after: int = 0
    delistings: list[Delisting] = field(default_factory=list)


def survey_columns(sources: Sources, numbers: list[str], options: Options, on_progress: Tell) -> tuple[Survey, Period]:
    """The first pass over number columns, and what the calendar was read as, which is told."""
    table = open_table(sources, numbers, options.first_read, options.end, on_progress)
    found = survey(table, options.min_codes, on_progress)
    days = found.layout.calendar[~found.few]  # metrics skip the others
    period = calendar.period_of(days, options.period, options.periods_per_year)
    on_progress(calendar.told(found.layout.calendar, period, options.period, options.periods_per_year))
    return found, period


def left_out_counts(left_out: dict[str, int], options: Options) -> dict[str, int]:
    """Counts of the dates that --min-codes left out; none where it is not asked."""
    if options.min_codes is None:
        return {}
    return {"dates_of_few_codes": len(left_out), "rows_on_dates_of_few_codes": sum(left_out.values())}


def summary(layout: Layout, n_features: int, n_files: int) -> str:
    """One line of what the files or frames hold."""
    days = f"{len(layout.calendar):,} days from {layout.calendar[0]} to {layout.calendar[-1]}"
    sources = "1 source" if n_files == 1 else f"{n_files:,} sources"
    return f"{sources}: {len(layout.codes):,} codes, {days}, {n_features} features"


@dataclass(frozen=True)
class Shard:
    """A cache that is being written: its folder, its codes, and where its batches lie."""

    folder: Path
    codes: slice
    columns: NewColumns


def new_columns(folder: Path, content: Content, options: Options) -> tuple[NewColumns, list[Shard]]:
    """The columns of a new cache, or of `options.shards` caches in the folder, by the layout's row numbers.

    Raises InputError for more shards than codes.
    """
    days = content.layout.days
    width = (len(content.features), len(content.horizons), options.dtype)
    if options.shards == 1:
        columns = create_columns(folder, days, *width)
        return columns, [Shard(folder, slice(0, len(days)), columns)]
    if not 1 <= options.shards <= len(days):
        raise InputError("--shards", f"{options.shards} shards of {len(days)} codes", f"Pass 1 to {len(days)}")
    cuts = np.searchsorted(np.cumsum(days), np.arange(1, options.shards) * (days.sum() / options.shards)) + 1
    cuts = np.maximum.accumulate(np.maximum(cuts, np.arange(1, options.shards)))
    cuts = np.minimum(cuts, len(days) - options.shards + np.arange(1, options.shards))
    shards = []
    for i, (first, stop) in enumerate(zip([0, *cuts.tolist()], [*cuts.tolist(), len(days)], strict=True)):
        inside = folder / f"shard-{i:0{len(str(options.shards - 1))}d}"
        inside.mkdir()
        shards.append(Shard(inside, slice(first, stop), create_columns(inside, days[first:stop], *width)))
    return joined([shard.columns for shard in shards]), shards


def write_manifests(
    shards: list[Shard],
    content: Content,
    options: Options,
    counts: dict[str, PerCode],
    stats: RunningStats,
    progress: Progress = quiet,
) -> None:
    """Describe and complete the caches whose columns are filled.

    Args:
        counts: by name, of each code.
        stats: of the features as the files have them.
    """
    layout = content.layout
    _check_targets(shards, content)
    for number, shard in enumerate(shards):
        codes = shard.codes
        whole = left_out_counts(content.left_out, options) if shard is shards[0] else {}  # of shards, added up
        first, days = layout.first[codes], layout.days[codes]
        begin, end = int(first.min()), int((first + days).max())
        presence = shard.columns.presence[:]
        kinds = {"absent": ABSENT, "context": CONTEXT, "scored": SCORED}
        manifest = Manifest(
            features=content.features,
            horizons=content.horizons,
            dtype=options.dtype,
            calendar=[str(day) for day in layout.calendar[begin:end]],
            codes=layout.codes[codes],
            first=(first - begin).tolist(),
            days=days.tolist(),
            rows=int(days.sum()),
            counts={name: int((presence == kind).sum()) for name, kind in kinds.items()}
            | {"one_day_codes": int((days == 1).sum())}
            | {name: int(of_code[codes].sum()) for name, of_code in counts.items()}
            | whole,
            recipe=content.recipe,
            normalisation=DESCRIPTION[options.transform],
            transform=options.transform,
            categories=content.categories,
            targets=content.targets,
            known_after=content.known_after,
            period=content.period.name,
            periods_per_year=content.period.per_year,
            source=stats.result(),
            batches=shard.columns.batches,
        )
        if content.source is not None:
            manifest.built_from = built_from(content.source, options, stats, content.left_out, content.delistings)
        write_manifest(shard.folder, manifest, part_of(progress, number / len(shards), (number + 1) / len(shards)))


def check_lengths(horizons: list[int], layout: Layout) -> None:
    """Raise InputError for a horizon that the calendar is too short for."""
    for h in horizons:
        if h > len(layout.calendar):
            what = f"a horizon of {h} rows, and the calendar has {len(layout.calendar):,}"
            raise InputError("--horizons", what, "Name shorter ones, or read more days")


def _check_targets(shards: list[Shard], content: Content) -> None:
    """Raise InputError for a cache with targets none of whose rows is scored, or lacks the targets of a horizon."""
    scored, found = False, np.zeros(len(content.horizons), bool)
    for part in (part for shard in shards for part in shard.columns.parts):
        for start in range(0, len(part.presence), ROWS):
            here = part.presence[start : start + ROWS] == SCORED
            scored = scored or bool(here.any())
            found |= np.isfinite(part.targets[start : start + ROWS][here]).any(0)
            if scored and found.all():
                return
    if not scored:
        where, cure = "the universe", "Lower --min-price and --min-dollar-volume, or read more days"
        raise InputError(where, "no row is in it: none can be scored", cure)
    h = content.horizons[int(np.argmin(found))]
    what = f"no scored row has a target over {h} rows ({content.targets[int(np.argmin(found))]})"
    raise InputError("--targets", what, "Name others, or read more days; --targets none builds a cache to score")


def built_from(
    source: SourceRows, options: Options, stats: RunningStats, left_out: dict[str, int], delistings: list[Delisting]
) -> BuiltFrom:
    """What a manifest says of the source that its cache keeps; size and checksums to be filled in."""
    layout = source.layout
    return BuiltFrom(
        settings={f.name: getattr(options, f.name) for f in fields(options) if f.name != "delisting_returns"},
        columns=source.names,
        calendar=[str(day) for day in layout.calendar],
        codes=layout.codes,
        first=layout.first.tolist(),
        days=layout.days.tolist(),
        left_out=dict(sorted(left_out.items())),
        delistings=delistings,
        moments=stats.state(),
        batches=source.batches,
    )


def per_code(rows: npt.NDArray[Any], layout: Layout) -> PerCode:
    """Sums over each code's rows of a value or mask per row [N]."""
    return np.add.reduceat(rows.astype(np.int64), layout.offset)
