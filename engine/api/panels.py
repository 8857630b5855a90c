"""An opened cache: what it holds, its rows as a frame, and its blocks as tensors for anybody's training loop.

S codes, D scored days, L context, T = D + L - 1 days, F features, H horizons
"""

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.api.frames import naming_arguments, polars
from engine.score.rows import present_rows
from loaders.batch import Batch, Request
from loaders.cache.format import SCORED, Manifest
from loaders.cache.sources.names import match_columns
from loaders.errors import InputError
from loaders.panel import STORE
from loaders.panel import Panel as Rows
from loaders.panel import open_panel as open_rows
from loaders.plan import Block, Plan
from loaders.split import Days, find_days, parse_date
from loaders.tiers.choose import open_source
from loaders.verify import verified, verifying

if TYPE_CHECKING:
    import polars as pl

Date = str | datetime.date | np.datetime64


@dataclass(frozen=True)
class PanelBlock:
    """D consecutive days of S codes, with the L - 1 days before them that a score may look back on."""

    x: Tensor
    """[S, D + L - 1, F] float32: features; 0 where a row is absent."""
    presence: Tensor
    """[S, D + L - 1] uint8: 0 absent, 1 context (outside the universe, never scored), 2 scored."""
    y: Tensor
    """[S, D, H] float32: targets of the scored rows; NaN where there is none."""
    dates: npt.NDArray[np.datetime64]
    """[D] datetime64[D]: the days of `y`, and the last days of `x`."""
    codes: npt.NDArray[np.str_]
    """[S] text, ascending."""


@dataclass(frozen=True, repr=False)
class Panel:
    """An opened cache. `open_panel` and `build_cache` give one. Its rows are mapped, not read."""

    rows: Rows
    """The cache as the engine's own loaders see it; its attributes may change between releases."""

    @property
    def folder(self) -> Path:
        """Where the cache lies; of a URL, where its local copy does."""
        return self.rows.folder

    @property
    def manifest(self) -> Manifest:
        """What the cache says of itself: recipe, counts, statistics of every feature, `cache_id`."""
        return self.rows.manifest

    @property
    def codes(self) -> list[str]:
        """Codes, ascending."""
        return self.manifest.codes

    @property
    def dates(self) -> npt.NDArray[np.datetime64]:
        """The calendar, datetime64[D], ascending."""
        return self.rows.calendar

    @property
    def features(self) -> list[str]:
        """Names of the features, in the order of a block's last axis."""
        return self.manifest.features

    @property
    def horizons(self) -> list[int]:
        """Days ahead of each target, ascending."""
        return self.manifest.horizons

    def __repr__(self) -> str:
        days = f"{len(self.dates):,} days {self.dates[0]}..{self.dates[-1]}"
        horizons = ", ".join(map(str, self.horizons)) or "none"
        return (
            f"Panel({str(self.folder)!r}: {len(self.codes):,} codes, {days}, {len(self.features)} features, "
            f"horizons {horizons})"
        )

    def blocks(
        self,
        start: Date | None = None,
        end: Date | None = None,
        days: int = 32,
        codes: int | None = 64,
        context: int = 20,
        shuffle_seed: int | None = None,
        copy: bool = True,
    ) -> Iterator[PanelBlock]:
        """Iterate over blocks of consecutive days. A thread forms them ahead of their use.

        In order, the blocks hold every present row once, from the first day to the last. Shuffled, they are an epoch of
        training: windows of days begin at a random phase, each window's codes are dealt into random groups, and every
        sample (a scored row with a target) is in one block. Give each epoch a seed of its own. Rows before a code's
        first day, and before the cache's, are absent.

        Args:
            start, end: first and last day with targets, both included; default: all. Days before `start` are context.
            days: D, the most days of a block.
            codes: S, the most codes of a block. None: all that the days have, whole cross-sections.
            context: L, days that a score may look back on, its own included.
            shuffle_seed: of a shuffled epoch; None: in order.
            copy: each block has memory of its own and may be kept. False saves the copy: a block is valid until the
                next one is asked for, and its memory is then used again.

        Raises InputError where no day of the cache is asked for, and where no sample is there to shuffle.
        """
        for name, value in (("days", days), ("codes", codes), ("context", context)):
            if value is not None and value < 1:
                raise InputError(f"{name}=", f"{value} is less than 1", "Give 1 or more")
        part = self._days(start, end)
        # Checked above and not inside the generator, whose body runs when the first block is asked for.
        return self._blocks(part, self._planned(part, days, codes, shuffle_seed), days, context, copy)

    def _blocks(self, part: Days, blocks: list[Block], days: int, context: int, copy: bool) -> Iterator[PanelBlock]:
        request = Request(part, blocks, days, context)
        names = np.array(self.codes)
        with (
            verifying(self.rows) as verification,
            open_source(self.rows, torch.device("cpu"), "host") as source,
            source.load(request) as loader,
        ):
            for batch in loader:
                verification.raise_if_failed()
                yield self._block(batch, part, days, names, copy)
            verification.wait()

    def _planned(self, part: Days, days: int, codes: int | None, seed: int | None) -> list[Block]:
        most = codes or len(self.codes)
        if seed is not None:
            return Plan(self.rows, part, days, most, seed).epoch(0)
        found = []
        for day in range(part.start, part.stop, days):
            here = self.rows.codes_with(self.rows.present, day, min(day + days, part.stop))
            if len(here):
                found += [Block(day, group) for group in np.array_split(here, -(-len(here) // most))]
        return found

    def _block(self, batch: Batch, part: Days, days: int, names: npt.NDArray[np.str_], copy: bool) -> PanelBlock:
        """A batch without days outside the part."""
        first = batch.block.day
        low, high = max(part.start - first, 0), min(part.stop - first, days)
        context = batch.x.shape[1] - days  # before the first scored day
        span, scored = slice(low, context + high), slice(low, high)
        x, presence, y = batch.x[:, span], batch.presence[:, span], batch.y[:, scored]
        if copy:
            x, presence, y = x.clone(), presence.clone(), y.clone()
        return PanelBlock(x, presence, y, self.dates[first + low : first + high], names[batch.block.codes])

    def to_polars(
        self, start: Date | None = None, end: Date | None = None, features: Sequence[str] | str | None = None
    ) -> "pl.DataFrame":
        """The present rows as a frame, ordered by date and code.

        Columns: `date` (Date), `code` (String), `scored` (Boolean; False: context, outside the universe), each feature
        as it is stored (Float32), and `target_H` for each horizon H (Float32, null where there is none). A row of F
        features and H targets takes 4 (F + H) bytes and some 20 more.

        Args:
            start, end: first and last day, both included; default: all.
            features: names or patterns (`*`, `?`, `[...]`) of features; default: all. An empty list: none.

        Raises InputError where no day of the cache is asked for, for a pattern that matches no feature, and where
        Polars is not installed.
        """
        pl = polars("to_polars")
        names = self.features
        if features is not None:
            with naming_arguments():
                patterns = [features] if isinstance(features, str) else list(features)
                names = match_columns("--features", patterns, self.features, set())
        columns = [self.features.index(name) for name in names]
        rows, day, code = present_rows(self.rows, self._days(start, end))
        with verified(self.rows):
            values = self.rows.features[rows]
            values = (values if names == self.features else values[:, columns]).astype(np.float32)
            targets = {f"target_{h}": self.rows.targets[rows, i] for i, h in enumerate(self.horizons)}
        head = {
            "date": self.dates[day],
            "code": pl.Series(self.codes, dtype=pl.String).gather(code),
            "scored": self.rows.presence[rows] == SCORED,
        }
        return pl.DataFrame(
            [
                *(pl.Series(name, column) for name, column in head.items()),
                *(pl.Series(name, np.ascontiguousarray(values[:, i])) for i, name in enumerate(names)),
                *(pl.Series(name, column, nan_to_null=True) for name, column in targets.items()),
            ]
        )

    def _days(self, start: Date | None, end: Date | None) -> Days:
        calendar = self.dates
        first = str(calendar[0]) if start is None else iso_date(start, "start=")
        last = str(calendar[-1]) if end is None else iso_date(end, "end=")
        found = find_days(calendar, first, last)
        if found.stop <= found.start:
            what = f"has no day from {first} to {last}: it covers {calendar[0]}..{calendar[-1]}"
            raise InputError(str(self.folder), what, "Name other days as start= and end=")
        return found


def open_panel(cache: str | Path, store: str | Path = STORE) -> Panel:
    """Open a cache. It costs milliseconds at any size, since rows are mapped and not read.

    Args:
        cache: a folder, a folder of shards, or the URL of one.
        store: folder for the local copies of URLs.

    Raises InputError where there is no cache, one of another format version, one that was altered or cut short, and
    shards that do not fit together.
    """
    with naming_arguments():
        return Panel(open_rows(cache, store))


def iso_date(value: Date, where: str) -> str:
    """A date as YYYY-MM-DD. Raises InputError, which names `where` it stands, for anything else."""
    if isinstance(value, datetime.datetime):
        value = value.date()
    if isinstance(value, np.datetime64):
        value = str(value.astype("datetime64[D]"))
    return parse_date(str(value), where)
