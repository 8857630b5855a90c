"""Recipe `columns`: a ready panel, its feature and target columns taken as they are.

What happens to odd values: a missing feature becomes 0 and is counted, a missing target stays missing (NaN), an
infinite one is refused by name. float16 is refused by name for a column that it would not keep: values beyond 65,504,
values that would become zero, or a spread that drowns in rounding.

F features, H horizons, n rows of a batch
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loaders.cache.atomic import atomic_folder
from loaders.cache.format import SCORED, Columns, Manifest, create_columns, write_manifest
from loaders.cache.layout import Layout, stream
from loaders.cache.recipes.common import Options, Progress, manifest_of, open_files, summary, survey_columns
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
        horizons: days ahead of each target in the order of `targets`; None: the last integer in each name.
    """

    features: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)


def build_columns(paths: list[Path], out: Path, options: ColumnsOptions, on_progress: Progress) -> Manifest:
    """Build a cache of a ready panel: its feature and target columns as they are.

    A missing feature is stored as 0 and counted, a missing target as NaN. Raises InputError naming file, column, code
    or date for bad input; nothing is written then.
    """
    options = options.checked()
    sources = open_files(paths, options, on_progress)
    chosen = choose(sources, options)
    found, _ = survey_columns(sources, chosen.features + chosen.targets, options, options.start, on_progress)
    table, layout, source = found.table, found.layout, sources.name
    on_progress(summary(layout, len(chosen.features), len(sources.files)))
    with atomic_folder(out) as folder:
        columns = create_columns(folder, layout.rows, len(chosen.features), len(chosen.horizons), options.dtype)
        counts = fill(columns, table, layout, chosen, source) | found.counts
        recipe = {"name": "columns", **options.as_read(), "targets": chosen.targets}
        manifest = manifest_of(columns, layout, chosen.features, chosen.horizons, options.dtype, counts, recipe, "none")
        write_manifest(folder, manifest)
    return manifest


@dataclass(frozen=True)
class Chosen:
    """The columns of a build; targets ascending in their horizon."""

    features: list[str]
    targets: list[str]
    horizons: list[int]


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
    reserved = sources.reserved | set(chosen_targets)
    chosen_features = match_columns("--features", features, names, reserved)
    for name in chosen_features:
        if name in sources.key_columns or name in chosen_targets:
            raise InputError("--features", f"{name!r} is also the date, the code or a target", "Leave it out")
    days = _horizons_in(chosen_targets) if options.horizons is None else options.horizons
    if len(days) != len(chosen_targets):
        what = f"{len(days)} horizons for {len(chosen_targets)} targets ({', '.join(chosen_targets)})"
        raise InputError("--horizons", what, "Give one per target, in the targets' order")
    if len(set(days)) != len(days):
        raise InputError("--horizons", f"two targets share a horizon ({days})", "Give one target per horizon")
    order = np.argsort(days)
    return Chosen(chosen_features, [chosen_targets[i] for i in order], [days[i] for i in order])


def _horizons_in(targets: list[str]) -> list[int]:
    horizons = []
    for name in targets:
        numbers = re.findall(r"\d+", name)
        if not numbers or int(numbers[-1]) < 1:
            what = f"the name of target {name!r} does not end in its days ahead"
            raise InputError("--horizons", what, "Give them, such as --horizons 1,5")
        horizons.append(int(numbers[-1]))
    return horizons


def fill(columns: Columns, table: Table, layout: Layout, chosen: Chosen, source: str) -> dict[str, int]:
    """Stream the table into the columns; gives counts for the manifest. Every row is scored."""
    n_features = len(chosen.features)
    rounding = _Rounding(chosen.features, source) if columns.features.dtype == np.float16 else None
    missing_features = 0
    for rows, numbers in stream(table, layout):
        infinite = np.isinf(numbers)
        if infinite.any():
            row, column = np.argwhere(infinite)[0]
            name = (chosen.features + chosen.targets)[column]
            what = f"column {name!r} is infinite, or beyond float32, for {layout.place(rows[row])}"
            raise InputError(source, what, "Make them missing, or leave the column out")
        values = numbers[:, :n_features]
        missing = np.isnan(values)
        missing_features += int(missing.sum())
        values[missing] = 0
        if rounding is not None:
            rounding.add(values, rows, layout)
        columns.features[rows] = values
        columns.targets[rows] = numbers[:, n_features:]
        columns.presence[rows] = SCORED
    if rounding is not None:
        rounding.check()
    missing_targets = np.isnan(columns.targets) & (columns.presence == SCORED)[:, None]
    return {"missing_features": missing_features, "missing_targets": int(missing_targets.sum())}


class _Rounding:
    """What float16 does to the columns of a stream: running sums per column, float64 [F]."""

    def __init__(self, names: list[str], source: str) -> None:
        self.names, self.source = names, source
        self.rows = 0
        self.nonzero, self.lost, self.error, self.sum, self.square = np.zeros((5, len(names)))
        self.shift: npt.NDArray[np.float64] | None = None  # of the sums, against cancellation

    def add(self, values: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], layout: Layout) -> None:
        """Take in float32 [n, F] of rows [n]. Raises InputError for values beyond float16."""
        over = np.abs(values).max(0, initial=0) >= 65520  # rounds to infinity
        if over.any():
            column = int(np.argmax(over))
            row = int(np.argmax(np.abs(values[:, column])))
            value = f"{values[row, column]:g} for {layout.place(int(rows[row]))}, a value beyond 65,504,"
            self._refuse(column, value)
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

    def _refuse(self, column: int, what: str) -> None:
        cure = "Pass --dtype float32, or normalise the column"
        raise InputError(self.source, f"column {self.names[column]!r} has {what} in float16", cure)
