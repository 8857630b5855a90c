"""The rows that scores belong to: in a panel by number, in a file by date and code.

Scores of a part are arrays [N, H] in the order of `present_rows`.

N rows, H horizons
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.dates import reach_in_sample
from engine.score.files import Scores
from loaders.cache.format import ABSENT, SCORED
from loaders.errors import InputError
from loaders.panel import Int, Panel
from loaders.plan import Block
from loaders.split import Days

Float32 = npt.NDArray[np.float32]

CPU = torch.device("cpu")


@dataclass(frozen=True)
class RowScores:
    """Scores of rows of a panel."""

    rows: Int  # [N]
    values: dict[int, Float32]  # horizon -> [N]
    split: str
    run_id: str = ""
    trained_until: str | None = None  # last validation day of the run; None: not known, or of several runs
    tuned_until: str | None = None  # last day that the choice of the run's settings has seen; None: not known


class PartRows(NamedTuple):
    """The present rows of a part, ordered by day, then code."""

    rows: Int  # [N] the panel's
    day: Int  # [N] their calendar indices
    code: Int  # [N] numbers of their codes


def present_rows(panel: Panel, part: Days) -> PartRows:
    """All present rows on the days of a part."""
    low = np.clip(part.start - panel.first, 0, panel.days)
    lengths = np.clip(part.stop - panel.first, 0, panel.days) - low
    code = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(code)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + np.repeat(low, lengths)
    rows = panel.offset[code] + place
    here = panel.presence[rows] != ABSENT
    rows, code, day = rows[here], code[here], (panel.first[code] + place)[here]
    order = np.argsort(day, kind="stable")
    return PartRows(rows[order], day[order], code[order])


def later_targets(panel: Panel, rows: Int, code: Int, days: int = 1) -> Float32:
    """Targets [N, H] of the rows so many calendar days later; NaN after a code's span.

    Args:
        rows: [N] the panel's.
        code: [N] numbers of their codes.
    """
    inside = rows + days < panel.offset[code] + panel.days[code]
    targets = panel.targets[np.where(inside, rows + days, rows)]
    targets[~inside] = np.nan
    return targets


def row_scores(
    panel: Panel,
    part: Days,
    values: npt.NDArray[np.floating],
    split: str,
    run_id: str,
    horizons: list[int] | None = None,
) -> RowScores:
    """Scores [N, H] of a part, in the order of `present_rows`.

    Args:
        horizons: of the scores; None: the panel's.
    """
    rows, _, _ = present_rows(panel, part)
    horizons = panel.manifest.horizons if horizons is None else horizons
    if values.shape != (len(rows), len(horizons)):
        raise ValueError(f"scores of shape {values.shape} for {len(rows)} rows and horizons {horizons}")
    columns = {h: values[:, i].astype(np.float32) for i, h in enumerate(horizons)}
    return RowScores(rows, columns, split, run_id)


def to_file(panel: Panel, scores: RowScores) -> Scores:
    """The same with the dates and codes of their rows, for a score file. Raises InputError where there is none."""
    if not len(scores.rows):
        raise InputError(str(panel.folder), "no code has a row on the days to score", "Name other days")
    code = panel.code_of(scores.rows)
    day = scores.rows - panel.offset[code] + panel.first[code]
    metadata = {"cache_id": panel.manifest.cache_id, "split": scores.split, "run_id": scores.run_id}
    until = {"trained_until": scores.trained_until, "tuned_until": scores.tuned_until}
    until["in_sample"] = reach_in_sample(scores.split, panel.calendar[day.min()], scores.trained_until)
    metadata |= {key: text for key, text in until.items() if text is not None}
    return Scores(panel.calendar[day], np.array(panel.manifest.codes)[code], scores.values, metadata)


def from_file(panel: Panel, scores: Scores, where: str, split: str) -> RowScores:
    """The rows of a score file.

    Raises InputError for another cache's scores, and for a (date, code) that is no present row.

    Args:
        where: names the file in messages.
        split: of a file that does not say its own.
    """
    check_cache_id(scores.metadata.get("cache_id", panel.manifest.cache_id), panel, where)
    known, position = np.unique(scores.code, return_inverse=True)
    codes = np.array(panel.manifest.codes)
    place = np.minimum(np.searchsorted(codes, known), len(codes) - 1)
    code = np.where(codes[place] == known, place, -1)[position]
    day = np.minimum(np.searchsorted(panel.calendar, scores.date), len(panel.calendar) - 1)
    inside = day - panel.first[code]
    good = (code >= 0) & (panel.calendar[day] == scores.date) & (inside >= 0) & (inside < panel.days[code])
    rows = np.where(good, panel.offset[code] + inside, 0)
    good &= panel.presence[rows] != ABSENT
    if not good.all():
        i = int(np.argmin(good))
        what = f"{int((~good).sum()):,} rows are not in {panel.folder}, the first is {scores.date[i]} {scores.code[i]}"
        raise InputError(where, what, "Pass the cache they were made from as --arrow")
    known_of = scores.metadata.get
    return RowScores(
        rows, scores.values, known_of("split", split), known_of("run_id", ""), known_of("trained_until"),
        known_of("tuned_until"),
    )  # fmt: skip


def check_cache_id(found: str, panel: Panel, where: str) -> None:
    """Raise InputError where scores belong to another cache than the panel's."""
    if found != panel.manifest.cache_id:
        what = f"made from cache {found}, but {panel.folder} is {panel.manifest.cache_id}"
        raise InputError(where, what, "Pass the cache it was made from as --arrow")


def universe_blocks(panel: Panel, part: Days, present: PartRows, days: int) -> list[Block]:
    """`scoring_blocks` of a part without the codes that are context alone on all of a block's days."""
    universe = panel.presence[present.rows] == SCORED
    day, code = present.day[universe], present.code[universe]
    starts = range(part.start, part.stop, days)
    found = ((start, np.unique(code[slice(*np.searchsorted(day, [start, start + days]))])) for start in starts)
    return [Block(start, codes) for start, codes in found if len(codes)]


def scatter(scores: Tensor, blocks: list[Block], days: int, present: PartRows) -> Tensor:
    """Scores of the present rows of some blocks, put in their places among all present rows [N, H], NaN elsewhere."""
    scored = np.zeros(len(present.day), bool)
    for block in blocks:
        here = slice(*np.searchsorted(present.day, [block.day, block.day + days]))
        scored[here] = np.isin(present.code[here], block.codes)
    every = scores.new_full((len(scored), scores.shape[1]), torch.nan)
    every[torch.from_numpy(np.flatnonzero(scored)).to(scores.device)] = scores
    return every
