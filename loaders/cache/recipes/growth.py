"""What `append` hands to a recipe: a cache as it was, and as it becomes, its old rows in place."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loaders.cache.columns import Columns, NewColumns
from loaders.cache.format import ABSENT, CONTEXT, SCORED
from loaders.cache.layout import Int, Layout
from loaders.cache.manifest.model import BuiltFrom, Delisting, Manifest
from loaders.cache.recipes.common import Options, built_from, left_out_counts
from loaders.cache.recipes.source_rows import SourceRows
from loaders.cache.sources.calendar import held_by_few, period_of
from loaders.cache.sources.table import Table
from loaders.cache.statistics import RunningStats


@dataclass(frozen=True)
class Growth:
    """Of a cache that days are appended to."""

    manifest: Manifest  # as it was
    built: BuiltFrom  # as it was
    before: SourceRows
    now: SourceRows
    kept_before: Layout  # rows of the cache, which may begin later than those of the source
    kept: Layout
    columns: NewColumns  # of the new cache; new rows are absent yet
    table: Table  # the files
    completed: Int  # rows of `now` on days of the past that a target has become known of
    folder: Path  # of the new cache
    left_out: dict[str, int]  # dates that --min-codes left out, and how many codes held each

    @property
    def first_new(self) -> int:
        """Calendar index, in the source, of the first new day."""
        return len(self.before.layout.calendar)

    @property
    def fresh(self) -> Layout:
        """The cache's rows on the new days."""
        days = self.now.layout.calendar[self.first_new :]
        first_new = len(self.kept.calendar) - len(days)
        first, stop = np.maximum(self.kept.first - first_new, 0), self.kept.first + self.kept.days - first_new
        some = stop > 0
        codes = [code for code, has in zip(self.kept.codes, some, strict=True) if has]
        return Layout(days, codes, first[some], (stop - first)[some])

    def empty(self, part: Layout, features: int) -> Columns:
        """Absent rows of a part of the cache."""
        dtype, horizons = self.manifest.dtype, len(self.manifest.horizons)
        targets = np.full((part.rows, horizons), np.nan, np.float32)
        return Columns(np.zeros((part.rows, features), dtype), targets, np.zeros(part.rows, np.uint8))

    def described(
        self,
        options: Options,
        counts: dict[str, int],
        stats: RunningStats,
        delistings: list[Delisting] | None = None,
        **recipe: Any,
    ) -> Manifest:
        """The manifest of the new cache, whose columns are filled.

        Args:
            counts: what the recipe counts, of the whole cache.
            stats: of the features as the source has them.
            delistings: all that were given.
            recipe: what changed in the recipe's settings.
        """
        layout, presence = self.kept, self.columns.presence[:]
        kinds = {"absent": ABSENT, "context": CONTEXT, "scored": SCORED}
        few = held_by_few(self.now.present_by_day())
        period = period_of(self.now.layout.calendar[~few], options.period, options.periods_per_year)
        start = int(layout.first.min())
        return self.manifest.model_copy(
            update={
                "calendar": [str(day) for day in layout.calendar[start:]],
                "codes": layout.codes,
                "first": (layout.first - start).tolist(),
                "days": layout.days.tolist(),
                "rows": layout.rows,
                "counts": self.manifest.counts
                | {name: int((presence == kind).sum()) for name, kind in kinds.items()}
                | {"one_day_codes": int((layout.days == 1).sum())}
                | counts
                | left_out_counts(self.left_out, options),
                "recipe": self.manifest.recipe | {"end": options.end} | recipe,
                "period": period.name,
                "periods_per_year": period.per_year,
                "source": stats.result(),
                "batches": self.columns.batches,
                "built_from": built_from(self.now, options, stats, self.left_out, delistings or []),
            }
        )
