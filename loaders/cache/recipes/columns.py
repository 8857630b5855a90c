"""Recipe `columns`: a ready panel; its features are transformed within each date, its targets taken as they are.

What happens to odd values: a missing feature becomes the middle (see `cross_sections`) and is counted, a missing
target stays missing (NaN), an infinite value is refused by name. Ids (`--categories`) are stored as they are. What is
stored without a transform must survive float16, or is refused by name: values beyond 65,504, values that would become
zero, or a spread that drowns in rounding.

F features, H horizons, n rows of a batch
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loaders.cache.atomic import atomic_folder
from loaders.cache.columns import NewColumns
from loaders.cache.cross_sections import Collected, collecting, store
from loaders.cache.format import SCORED
from loaders.cache.layout import Int, Layout, stream
from loaders.cache.recipes.common import (
    Content,
    Options,
    Progress,
    new_columns,
    open_files,
    per_code,
    summary,
    survey_columns,
    write_manifests,
)
from loaders.cache.recipes.horizons import check_horizons, horizons_of
from loaders.cache.sources import faults
from loaders.cache.sources.names import match_columns
from loaders.cache.sources.table import Sources, Table
from loaders.errors import InputError

LARGEST_ERROR = 0.01  # rounding error that float16 may add, in standard deviations of the column
LARGEST_LOSS = 0.001  # share of nonzero values that float16 may turn into zero


@dataclass(frozen=True)
class ColumnsOptions(Options):
    """Settings of recipe `columns`.

    Args:
        features, targets: names or patterns (`*`, `?`, `[...]`) of columns; patterns never take a target, the date or
            the code as a feature.
        horizons: rows ahead of each target in the order of `targets`; None: their names state them.
        trust_horizons: do not ask the targets whether they have these horizons.
        categories: names or patterns of features that are ids from 0 on; they are not transformed.
    """

    features: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    trust_horizons: bool = False
    categories: list[str] = field(default_factory=list)


def build_columns(paths: list[Path], out: Path, options: ColumnsOptions, on_progress: Progress) -> None:
    """Build a cache of a ready panel: its features transformed within each date, its targets as they are.

    Raises InputError naming file, column, code or date for bad input; nothing is written then.
    """
    options = options.checked()
    sources = open_files(paths, options, on_progress)
    chosen = choose(sources, options)
    found, period = survey_columns(sources, chosen.features + chosen.targets, options, options.start, on_progress)
    layout = found.layout
    on_progress(summary(layout, len(chosen.features), len(sources.files)))
    pairs = zip(chosen.targets, chosen.horizons, strict=True)
    on_progress("horizons: " + ", ".join(f"{target} -> {h}" for target, h in pairs))
    recipe = {"name": "columns", **options.as_read(), "targets": chosen.targets}
    content = Content(
        layout, chosen.features, chosen.horizons, chosen.targets, recipe, period, found.counts, chosen.categories
    )
    with atomic_folder(out) as folder:
        columns, shards = new_columns(folder, content, options)
        with collecting(folder, layout, len(chosen.features)) as collected:
            fill(columns, collected, found.table, chosen, options)
            for name, line in _evidence(columns, layout, chosen, options):
                on_progress(f"target {name}: rank correlation with itself at {line}")
            on_progress(f"transform within each date: {options.transform}")
            stats = store(collected, options.transform, columns, chosen.ids)
        presence, targets = columns.presence[:] == SCORED, columns.targets[:]
        counts = {"missing_targets": per_code((np.isnan(targets) & presence[:, None]).sum(1), layout)}
        write_manifests(shards, content, options, counts, stats)


def _evidence(columns: NewColumns, layout: Layout, chosen: "Chosen", options: ColumnsOptions) -> list[tuple[str, str]]:
    if options.trust_horizons:
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
        raise InputError("--targets", "no target column is named", has)
    if not features:
        # Never a default: any other column of the file may be a forward return too.
        raise InputError("--features", "no feature column is named", has)
    chosen_targets = match_columns("--targets", targets, names, sources.reserved)
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
    for name in chosen_features:
        if name in sources.key_columns or name in chosen_targets:
            raise InputError("--features", f"{name!r} is also the date, the code or a target", "Leave it out")
    categories = []
    if options.categories:
        categories = match_columns("--categories", options.categories, chosen_features, set())
    horizons = horizons_of(chosen_targets, options.horizons)
    order = np.argsort(horizons)
    return Chosen(chosen_features, [chosen_targets[i] for i in order], [horizons[i] for i in order], categories)


def fill(columns: NewColumns, collected: Collected, table: Table, chosen: Chosen, options: ColumnsOptions) -> None:
    """Stream the table into place: targets and presence into the columns, features to be transformed. Every row is
    scored.
    """
    n_features, layout = len(chosen.features), collected.layout
    half, ids = options.dtype == "float16", chosen.ids
    plain = np.arange(n_features) if options.transform == "none" else np.array(ids, np.int64)
    rounding = _Rounding([chosen.features[i] for i in plain], table, layout) if half and len(plain) else None
    for rows, numbers in stream(table, layout):
        _check_values(rows, numbers, chosen, table, layout, half)
        values = numbers[:, :n_features]
        if rounding is not None:
            rounding.add(np.nan_to_num(values[:, plain], nan=0.0), rows)
        collected.put(rows, values)
        columns.targets[rows] = numbers[:, n_features:]
        columns.presence[rows] = SCORED
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


class _Rounding:
    """What float16 does to the columns of a stream: running sums per column, float64 [F]."""

    def __init__(self, names: list[str], table: Table, layout: Layout) -> None:
        self.names, self.table, self.layout = names, table, layout
        self.rows = 0
        self.nonzero, self.lost, self.error, self.sum, self.square = np.zeros((5, len(names)))
        self.shift: npt.NDArray[np.float64] | None = None  # of the sums, against cancellation

    def add(self, values: npt.NDArray[np.float32], rows: Int) -> None:
        """Take in float32 [n, F] of rows [n]. Raises InputError for values beyond float16."""
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
