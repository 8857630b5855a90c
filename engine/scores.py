"""Score files: what a model says of every present row, as Parquet.

    date      date32
    code      string
    score_H   float32, one column per horizon H

One row per present (date, code), ordered by date and code. The file's metadata hold `cache_id`, `split` and
`run_id` where they are known; a file from elsewhere may leave them out.

N rows, H horizons
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from engine.checkpoint import write_atomically
from loaders.cache.format import ABSENT
from loaders.errors import InputError
from loaders.panel import Panel
from loaders.split import Days

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """Scores of N rows."""

    date: npt.NDArray[np.datetime64]  # [N] datetime64[D]
    code: npt.NDArray[np.str_]  # [N]
    values: dict[int, npt.NDArray[np.float32]]  # horizon -> [N]
    metadata: dict[str, str] = field(default_factory=dict)  # cache_id, split, run_id


def present_rows(panel: Panel, part: Days) -> tuple[Int, Int, Int]:
    """All present rows on the days of a part, ordered by day, then code.

    Returns the panel's rows, their calendar indices and their codes' numbers, each int64 [N]. Scores of a part are
    arrays [N, H] in this order.
    """
    low = np.clip(part.start - panel.first, 0, panel.days)
    lengths = np.clip(part.stop - panel.first, 0, panel.days) - low
    code = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(code)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + np.repeat(low, lengths)
    rows = panel.offset[code] + place
    here = panel.presence[rows] != ABSENT
    rows, code, day = rows[here], code[here], (panel.first[code] + place)[here]
    order = np.argsort(day, kind="stable")
    return rows[order], day[order], code[order]


def scores_of(panel: Panel, part: Days, values: npt.NDArray[np.floating], split: str, run_id: str) -> Scores:
    """Scores [N, H] of a part, in the order of `present_rows`, with the dates and codes of their rows."""
    _, day, code = present_rows(panel, part)
    if values.shape != (len(day), len(panel.manifest.horizons)):
        raise ValueError(f"scores of shape {values.shape} for {len(day)} rows and horizons {panel.manifest.horizons}")
    return Scores(
        panel.calendar[day],
        np.array(panel.manifest.codes)[code],
        {h: values[:, i].astype(np.float32) for i, h in enumerate(panel.manifest.horizons)},
        {"cache_id": panel.manifest.cache_id, "split": split, "run_id": run_id},
    )


def rows_in_panel(scores: Scores, panel: Panel, where: str) -> Int:
    """The panel's row of each score, int64 [N]. Raises InputError for a (date, code) that is no present row there."""
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
    return rows


def write_scores(path: Path, scores: Scores) -> None:
    """Write a score file; readers see the whole file or none. Raises InputError where it cannot be written."""
    codes, code = np.unique(scores.code, return_inverse=True)
    columns = {
        "date": pa.array(scores.date.astype("datetime64[D]")),
        "code": pa.array(codes.tolist(), pa.string()).take(pa.array(code)),
        **{f"score_{h}": pa.array(values, pa.float32()) for h, values in scores.values.items()},
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, metadata=scores.metadata), sink)
    write_atomically(path, sink.getvalue())


def read_scores(path: Path) -> Scores:
    """Read a score file, written here or elsewhere.

    Raises InputError for a file that is no Parquet, lacks a column or has one of another type, holds a score that is
    missing or infinite, or holds a (date, code) twice.
    """
    where = str(path)
    cure = "Score files hold date, code and score_H per horizon, one row per date and code"
    try:
        table = pq.read_table(pa.OSFile(where, "rb"))
    except (OSError, pa.ArrowException) as error:
        raise InputError(where, f"not a readable Parquet file ({error})", cure) from error
    names = [name for name in table.column_names if name.startswith("score_") and name[6:].isdecimal()]
    if not {"date", "code"} <= set(table.column_names) or not names:
        raise InputError(where, f"columns are {', '.join(table.column_names)}", cure)
    try:
        date = table["date"].cast(pa.date32()).to_numpy().astype("datetime64[D]")
        codes = table["code"].cast(pa.string()).combine_chunks().dictionary_encode()
        values = {int(name[6:]): table[name].cast(pa.float32()).to_numpy() for name in names}
    except pa.ArrowException as error:
        raise InputError(where, f"a column has the wrong type ({error})", cure) from error
    for column in ("date", "code"):
        if table[column].null_count:
            raise InputError(where, f"{table[column].null_count:,} rows have no {column}", cure)
    for h, column in values.items():
        if bad := int((~np.isfinite(column)).sum()):
            raise InputError(where, f"score_{h} is missing or infinite in {bad:,} rows", "Leave such rows out")
    code = codes.indices.to_numpy()
    order = np.lexsort((code, date))
    again = (np.diff(code[order]) == 0) & (date[order][1:] == date[order][:-1])
    dictionary = np.array(codes.dictionary.to_pylist(), np.str_)
    if again.any():
        i = order[int(np.argmax(again))]
        raise InputError(where, f"holds {date[i]} {dictionary[code[i]]} twice", cure)
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    keep = {key: metadata[key] for key in ("cache_id", "split", "run_id") if key in metadata}
    return Scores(date, dictionary[code], values, keep)
