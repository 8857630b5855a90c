"""Recipe `columns`: a ready panel; its features are transformed within each date, its targets taken as they are.

What happens to odd values: a missing feature becomes the middle (see `cross_sections`) and is counted, a missing
target stays missing (NaN), an infinite value is refused by name. Ids (`--categories`) are stored as they are. What is
stored without a transform must survive float16, or is refused by name: values beyond 65,504, values that would become
zero, or a spread that drowns in rounding.

F features, H horizons, n rows of a batch
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loaders.cache.atomic import atomic_folder
from loaders.cache.columns import NewColumns
from loaders.cache.cross_sections import Collected, collecting, store
from loaders.cache.format import SCORED, Manifest
from loaders.cache.layout import Int, Layout, stream
from loaders.cache.manifest.text import check_names
from loaders.cache.recipes.common import (
    Content,
    Options,
    PerCode,
    Tell,
    check_lengths,
    new_columns,
    per_code,
    summary,
    survey_columns,
    write_manifests,
)
from loaders.cache.recipes.growth import Growth
from loaders.cache.recipes.horizons import check_horizons, horizons_of
from loaders.cache.recipes.source_rows import HERE, SourceRows, new_source
from loaders.cache.sources import faults
from loaders.cache.sources.frames import Source
from loaders.cache.sources.names import match_columns
from loaders.cache.sources.table import Sources, Table
from loaders.cache.statistics import RunningStats
from loaders.errors import InputError
from loaders.progress import Progress, part_of, quiet

LARGEST_ERROR = 0.01  # rounding error that float16 may add, in standard deviations of the column
LARGEST_LOSS = 0.001  # share of nonzero values that float16 may turn into zero


@dataclass(frozen=True)
class ColumnsOptions(Options):
    """Settings of recipe `columns`.

    Args:
        features, targets: names or patterns (`*`, `?`, `[...]`) of columns; patterns never take a target, the date or
            the code as a feature. Targets `none` alone: there are none.
        horizons: rows ahead of each target in the order of `targets`; None: their names state them.
        trust_horizons: do not ask the targets whether they have these horizons.
        categories: names or patterns of features that are ids from 0 on; they are not transformed.
    """

    features: list[str] = field(default_factory=list)
    trust_horizons: bool = False
    categories: list[str] = field(default_factory=list)


def build_columns(
    paths: Sequence[Source], out: Path, options: ColumnsOptions, on_progress: Tell, progress: Progress = quiet
) -> None:
    """Build a cache of a ready panel: its features transformed within each date, its targets as they are.

    Raises InputError naming file, column, code or date for bad input; nothing is written then.
    """
    options = options.checked()
    sources = options.open(paths, on_progress)
    chosen = choose(sources, options)
    # Shares of the time, about.
    progress(0, 1, "reading dates and codes")
    found, period = survey_columns(sources, chosen.features + chosen.targets, options, on_progress)
    layout = found.layout
    on_progress(summary(layout, len(chosen.features), len(sources.files)))
    pairs = zip(chosen.targets, chosen.horizons, strict=True)
    on_progress("horizons: " + (", ".join(f"{target} -> {h}" for target, h in pairs) or "none, a cache to score"))
    recipe = {"name": "columns", **options.as_read(), "targets": chosen.targets}
    with atomic_folder(out) as folder:
        source = new_source(folder, found.table.numbers, layout) if options.keeps_source else None
        content = Content(
            layout, chosen.features, chosen.horizons, chosen.targets, recipe, period, found.left_out, source,
            chosen.categories,
        )  # fmt: skip
        columns, shards = new_columns(folder, content, options)
        with collecting(folder, layout, len(chosen.features)) as collected:
            fill(columns, collected, found.table, chosen, options, source, part_of(progress, 0.1, 0.4))
            check_lengths(chosen.horizons, layout)
            for name, line in _evidence(columns, layout, chosen, options):
                on_progress(f"target {name}: rank correlation with itself at {line}")
            on_progress(f"transform within each date: {options.transform}")
            stats = store(collected, options.transform, columns, chosen.ids, progress=part_of(progress, 0.4, 0.9))
        counts = {"missing_targets": missing_targets(columns, layout)}
        write_manifests(shards, content, options, counts, stats, part_of(progress, 0.9, 1))


def missing_targets(columns: NewColumns, layout: Layout) -> PerCode:
    """Targets that scored rows lack, of each code."""
    scored = columns.presence[:] == SCORED
    return per_code((np.isnan(columns.targets[:]) & scored[:, None]).sum(1), layout)


def extend_columns(growth: Growth, options: ColumnsOptions, delisting_returns: Source | None) -> Manifest:
    """Fill in the new rows of a cache that days are appended to, and targets that have become known; describes it.

    Raises what `build_columns` raises for a value, and InputError for delisting returns.
    """
    if delisting_returns is not None:
        raise InputError("--delisting-returns", "recipe columns does not take it", "Leave it out")
    manifest, columns, fresh, now = growth.manifest, growth.columns, growth.fresh, growth.now
    features, width = manifest.features, len(manifest.features)
    chosen = Chosen(features, manifest.targets, manifest.horizons, manifest.categories)
    rows, place = now.layout.last_rows(fresh), growth.kept.last_rows(fresh)
    here = np.flatnonzero(now.present[rows] == HERE)
    numbers = now.values[rows[here]]
    _check_values(rows[here], numbers, chosen, growth.table, now.layout, options.dtype == "float16")
    rounding = _rounding(chosen, options, growth.table, now.layout)
    if rounding is not None:
        rounding.add(numbers[:, :width], rows[here])
    new = growth.empty(fresh, width)
    new.targets[here], new.presence[here] = numbers[:, width:], SCORED
    with collecting(growth.folder, fresh, width) as collected:
        collected.put(here, numbers[:, :width])
        stats = store(collected, options.transform, new, chosen.ids, RunningStats.resume(growth.built.moments))
    columns.features[place], columns.targets[place], columns.presence[place] = new.features, new.targets, new.presence
    columns.targets[growth.completed] = now.values[growth.completed][:, width:]
    counts = {"missing_targets": int(missing_targets(columns, growth.kept).sum())}
    return growth.described(options, counts, stats)


def _evidence(columns: NewColumns, layout: Layout, chosen: "Chosen", options: ColumnsOptions) -> list[tuple[str, str]]:
    if options.trust_horizons or not chosen.targets:
        return []
    found = check_horizons(columns, layout, chosen.targets, chosen.horizons)
    return [(name, evidence.line()) for name, evidence in zip(chosen.targets, found, strict=True)]


@dataclass(frozen=True)
class Chosen:
    """The columns of a build; targets ascending in their horizon."""

    features: list[str]
    targets: list[str]
    horizons: list[int]
    categories: list[str]

    @property
    def ids(self) -> list[int]:
        """Places of the categories among the features."""
        return [self.features.index(name) for name in self.categories]


def choose(sources: Sources, options: ColumnsOptions) -> Chosen:
    """Resolve names and patterns. Raises InputError naming the option at fault."""
    names, features, targets = sources.names, options.features, options.targets
    has = f"The files have {', '.join(names[:30])}"
    if not targets:
        raise InputError("--targets", "no target column is named", f"{has}. Pass none for a cache to score")
    if not features:
        # Never a default: any other column of the file may be a forward return too.
        raise InputError("--features", "no feature column is named", has)
    chosen_targets = [] if options.untargeted else match_columns("--targets", targets, names, sources.reserved)
    if options.horizons is not None:
        for pattern in targets:
            found = match_columns("--targets", [pattern], names, sources.reserved)
            if len(found) > 1:
                what = f"{pattern!r} matches {len(found)} columns ({', '.join(found[:5])}): their order is not stated"
                raise InputError("--horizons", what, "Name each target in full, or let the names state the horizons")
    reserved = sources.reserved | set(chosen_targets)
    chosen_features = match_columns("--features", features, names, reserved)
    if options.exclude:
        left_out = set(match_columns("--exclude", options.exclude, chosen_features, set()))
        chosen_features = [name for name in chosen_features if name not in left_out]
    check_names("--features", "column", chosen_features)
    check_names("--targets", "column", chosen_targets)
    for name in chosen_features:
        if name in sources.key_columns or name in chosen_targets:
            raise InputError("--features", f"{name!r} is also the date, the code or a target", "Leave it out")
    categories = []
    if options.categories:
        categories = match_columns("--categories", options.categories, chosen_features, set())
    horizons = horizons_of(chosen_targets, options.horizons)
    order = np.argsort(horizons)
    return Chosen(chosen_features, [chosen_targets[i] for i in order], [horizons[i] for i in order], categories)


def fill(
    columns: NewColumns,
    collected: Collected,
    table: Table,
    chosen: Chosen,
    options: ColumnsOptions,
    source: SourceRows | None,
    progress: Progress = quiet,
) -> None:
    """Stream the table into place: targets and presence into the columns, features to be transformed, all into the
    source that is kept. Every row is scored.
    """
    n_features, layout = len(chosen.features), collected.layout
    half, rounding = options.dtype == "float16", _rounding(chosen, options, table, layout)
    for rows, numbers in stream(table, layout, progress):
        _check_values(rows, numbers, chosen, table, layout, half)
        values = numbers[:, :n_features]
        if rounding is not None:
            rounding.add(values, rows)
        collected.put(rows, values)
        columns.targets[rows] = numbers[:, n_features:]
        columns.presence[rows] = SCORED
        if source is not None:
            source.put(rows, numbers)
    if rounding is not None:
        rounding.check()


def _check_values(
    rows: Int, numbers: npt.NDArray[np.float32], chosen: Chosen, table: Table, layout: Layout, half: bool
) -> None:
    """Raise InputError for infinite values, and for ids that are none."""
    names = chosen.features + chosen.targets
    infinite = np.isinf(numbers)
    if infinite.any():
        row, column = np.argwhere(infinite)[0]
        what = f"column {names[column]!r} of {layout.place(int(rows[row]))} is infinite, or beyond float32"
        raise InputError(
            faults.file_of(table, *layout.code_and_date(int(rows[row]))),
            what,
            "Make it missing, or leave the column out",
        )
    for column in chosen.ids:
        ids = numbers[:, column]
        exact = ids.astype(np.float16).astype(np.float32) if half else ids
        wrong = ~((ids >= 0) & (ids == np.floor(ids)) & (ids == exact))
        if wrong.any():
            row = int(np.argmax(wrong))
            what = f"column {names[column]!r} of {layout.place(int(rows[row]))} is {ids[row]:g}, no id from 0 on"
            cure = "Number ids from 0 on and give the missing one its own" + ("; above 2,048: --dtype float32" * half)
            raise InputError(faults.file_of(table, *layout.code_and_date(int(rows[row]))), what, cure)


def _rounding(chosen: Chosen, options: ColumnsOptions, table: Table, layout: Layout) -> "_Rounding | None":
    """What watches the features that float16 stores without a transform; None where there are none."""
    plain = np.arange(len(chosen.features)) if options.transform == "none" else np.array(chosen.ids, np.int64)
    return _Rounding(chosen.features, plain, table, layout) if options.dtype == "float16" and len(plain) else None


class _Rounding:
    """What float16 does to some columns of a stream: running sums per column, float64 [F]."""

    def __init__(self, names: list[str], columns: Int, table: Table, layout: Layout) -> None:
        self.names, self.columns, self.table, self.layout = [names[i] for i in columns], columns, table, layout
        self.rows = 0
        self.nonzero, self.lost, self.error, self.sum, self.square = np.zeros((5, len(columns)))
        self.shift: npt.NDArray[np.float64] | None = None  # of the sums, against cancellation

    def add(self, values: npt.NDArray[np.float32], rows: Int) -> None:
        """Take in all features, float32, of rows [n]. Raises InputError for values beyond float16."""
        values = np.nan_to_num(values[:, self.columns], nan=0.0)
        over = np.abs(values).max(0, initial=0) >= 65520  # rounds to infinity
        if over.any():
            column = int(np.argmax(over))
            row = int(np.argmax(np.abs(values[:, column])))
            code, day = self.layout.code_and_date(int(rows[row]))
            what = f"{values[row, column]:g} for {code} on {day}, beyond 65,504,"
            self._refuse(column, what, faults.file_of(self.table, code, day))
        exact = values.astype(np.float64)
        stored = values.astype(np.float16).astype(np.float64)
        if self.shift is None:
            self.shift = exact[:1].sum(0)
        centred = exact - self.shift
        self.rows += len(values)
        self.nonzero += (exact != 0).sum(0)
        self.lost += ((exact != 0) & (stored == 0)).sum(0)
        self.error += np.square(stored - exact).sum(0)
        self.sum += centred.sum(0)
        self.square += np.square(centred).sum(0)

    def check(self) -> None:
        """Raises InputError for the first column that float16 does not keep."""
        zeroed = self.lost > LARGEST_LOSS * self.nonzero
        if zeroed.any():
            self._refuse(int(np.argmax(zeroed)), "values so small that they would become zero")
        deviation = np.sqrt(np.maximum(self.square / self.rows - np.square(self.sum / self.rows), 0))
        error = np.sqrt(self.error / self.rows)
        coarse = (deviation > 0) & (error > LARGEST_ERROR * deviation)
        if coarse.any():
            self._refuse(int(np.argmax(coarse)), "a range so wide that its spread would be lost in rounding")

    def _refuse(self, column: int, what: str, where: str | None = None) -> None:
        cure = "Pass --dtype float32, or normalise the column"
        raise InputError(where or self.table.sources.name, f"column {self.names[column]!r} has {what} in float16", cure)
