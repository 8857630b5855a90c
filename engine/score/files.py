"""Score files: the scores of every present row, as Parquet.

    date      date32
    code      string
    score_H   float32, one column per horizon H

One row per present (date, code), ordered by date and code. The file's metadata hold `cache_id`, `split` and `run_id`
where they are known, `trained_until` (the run's last validation day), `tuned_until` (its `split.tuned_until`), and
`in_sample` where scores reach back to the former; a file from elsewhere may leave them out. A folder of walk-forward
folds holds one such file, `scores.parquet`, of all test parts.

Pages carry a CRC, which is compared before Arrow decodes them, and the metadata a `checksum` of all that is said above:
SHA-256 over canonical JSON of [metadata, codes ascending, horizons ascending], then the bytes of the dates (days since
1970, int32), of the place of each row's code (int32) and of the scores (float32) of each horizon. A file without one,
such as another tool's, is read as it is.

N rows, H horizons
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine.score.tables import find_summary, read_summary
from loaders.cache.atomic import write_atomically
from loaders.cache.manifest.text import iso_date
from loaders.cache.sources.codes import SPELLINGS_CURE, two_spellings
from loaders.cache.sources.dates import advice, fault, is_text, parse_column
from loaders.disk.content import CHECKSUM, canonical, is_there
from loaders.disk.parquet import read_table
from loaders.errors import InputError

SCORES = "scores.parquet"  # in a folder of folds
CURE = "Score files hold date, code and score_H per horizon, one row per date and code"
METADATA = ("cache_id", "split", "run_id", "trained_until", "tuned_until", "in_sample")


@dataclass(frozen=True)
class Scores:
    """Scores of N rows."""

    date: npt.NDArray[np.datetime64]  # [N] datetime64[D]
    code: npt.NDArray[np.str_]  # [N]
    values: dict[int, npt.NDArray[np.float32]]  # horizon -> [N]
    metadata: dict[str, str] = field(default_factory=dict)  # of METADATA


@dataclass(frozen=True)
class ScoreTable:
    """Scores in memory that have the columns of a score file, and what messages call them."""

    name: str
    table: pa.Table

    def __str__(self) -> str:
        return self.name


def write_scores(path: Path, scores: Scores) -> None:
    """Write a score file; readers see the whole file or none. Raises InputError where it cannot be written."""
    codes, code = _places(scores.code)
    columns = {
        "date": pa.array(scores.date.astype("datetime64[D]")),
        "code": pa.array(codes, pa.string()).take(pa.array(code)),
        **{f"score_{h}": pa.array(values, pa.float32()) for h, values in scores.values.items()},
    }
    sink = pa.BufferOutputStream()
    metadata = scores.metadata | {CHECKSUM: _checksum(scores, codes, code)}
    pq.write_table(pa.table(columns, metadata=metadata), sink, write_page_checksum=True)
    write_atomically(path, sink.getvalue())


def read_scores(path: Path, period: str | None = None) -> Scores:
    """Read a score file, written here or elsewhere; dates and codes in the forms that a cache's sources may have.

    Args:
        period: of the cache, for dates that are months or eras.

    Raises InputError for a file that is no Parquet, lacks a column or has one of another type, holds a date of no
    accepted form, a score that is missing or infinite, or a (date, code) twice, and one whose checksum differs.
    """
    table = read_table(path, CURE)
    scores = scores_of(ScoreTable(str(path), table), period)
    expected = _metadata(table, str(path)).get(CHECKSUM)
    if expected is not None and _checksum(scores, *_places(scores.code)) != expected:
        what = "its checksum differs: it is damaged, or was edited"
        cure = f"Write it again; where the edit is meant, leave {CHECKSUM!r} out of its metadata"
        raise InputError(str(path), what, cure)
    return scores


def scores_of(source: ScoreTable, period: str | None = None) -> Scores:
    """The scores of a table. Raises what `read_scores` raises of a file's content."""
    where, table = source.name, source.table
    names = [name for name in table.column_names if name.startswith("score_") and name[6:].isdecimal()]
    if not {"date", "code"} <= set(table.column_names) or not names:
        raise InputError(where, f"columns are {', '.join(table.column_names)}", CURE)
    twice = [name for name in ("date", "code", *names) if table.column_names.count(name) > 1]
    if twice:
        raise InputError(where, f"has two columns {twice[0]!r}", CURE)
    try:
        date = parse_column(table["date"], period)
        codes = _codes(table["code"])
        values = {int(name[6:]): table[name].cast(pa.float32()).to_numpy() for name in names}
    except (pa.ArrowException, TypeError) as error:
        raise InputError(where, f"a column has the wrong type ({error})", CURE) from error
    dateless = pc.sum(pc.is_null(table["date"], nan_is_null=True)).as_py()
    for column, missing in (("date", dateless), ("code", codes.null_count)):
        if missing:
            raise InputError(where, f"{missing:,} rows have no {column}", CURE)
    if (unread := np.isnat(date)).any():
        i = int(np.argmax(unread))
        value = _shown(table["date"][i])
        raise InputError(where, fault("date", value, codes[i].as_py()), advice(value, period))
    if spellings := two_spellings(codes.dictionary.to_pylist()):
        raise InputError(where, f"codes {spellings[0]!r} and {spellings[1]!r} are the same number", SPELLINGS_CURE)
    for h, scores in values.items():
        if (bad := ~np.isfinite(scores)).any():
            i = int(np.argmax(bad))
            what = f"score_{h} is missing or infinite in {int(bad.sum()):,} rows, the first for {codes[i]} on {date[i]}"
            raise InputError(where, what, "Leave such rows out")
    code = codes.indices.to_numpy()
    order = np.lexsort((code, date))
    again = (np.diff(code[order]) == 0) & (date[order][1:] == date[order][:-1])
    dictionary = np.array(codes.dictionary.to_pylist(), np.str_)
    if again.any():
        i = order[int(np.argmax(again))]
        raise InputError(where, f"holds {date[i]} {dictionary[code[i]]} twice", CURE)
    metadata = _metadata(table, where)
    keep = {key: metadata[key] for key in METADATA if key in metadata}
    for key in ("trained_until", "tuned_until"):
        try:
            iso_date(keep.get(key, "1970-01-01"))
        except ValueError as error:
            what = f"its metadata's {key} is {keep[key]!r:.100}, no day YYYY-MM-DD"
            raise InputError(where, what, CURE) from error
    return Scores(date, dictionary[code], values, keep)


def _shown(value: pa.Scalar) -> Any:
    """A value for a message; dates of years that Python does not have as text."""
    return value.cast(pa.string()).as_py() if pa.types.is_temporal(value.type) else value.as_py()


def _metadata(table: pa.Table, where: str) -> dict[str, str]:
    """What the metadata say of METADATA and the checksum."""
    found = table.schema.metadata or {}
    try:
        return {key: found[key.encode()].decode() for key in (*METADATA, CHECKSUM) if key.encode() in found}
    except UnicodeDecodeError as error:
        raise InputError(where, "its metadata are no text in UTF-8", CURE) from error


def _places(code: npt.NDArray[np.str_]) -> tuple[list[str], npt.NDArray[np.int32]]:
    """The distinct codes of rows, ascending, and the place of each row's code among them, [N]."""
    encoded = pa.array(code, pa.string()).dictionary_encode()
    codes = np.array(encoded.dictionary.to_pylist(), np.str_)
    place = np.argsort(np.argsort(codes)).astype(np.int32)
    return np.sort(codes).tolist(), place[encoded.indices.to_numpy()]


def _checksum(scores: Scores, codes: list[str], code: npt.NDArray[np.int32]) -> str:
    """Of scores and their codes by `_places`, see above."""
    horizons = sorted(scores.values)
    digest = hashlib.sha256(canonical([scores.metadata, codes, horizons]))
    for column in (scores.date.astype("datetime64[D]").astype(np.int32), code):
        digest.update(np.ascontiguousarray(column).data)
    for h in horizons:
        digest.update(np.ascontiguousarray(scores.values[h], np.float32).data)
    return digest.hexdigest()


def between(scores: Scores, start: str | None, end: str | None, where: str) -> Scores:
    """The scores of the days from `start` to `end`, ISO, both included. Raises InputError where there are none."""
    inside = np.ones(len(scores.date), bool)
    if start is not None:
        inside &= scores.date >= np.datetime64(start)
    if end is not None:
        inside &= scores.date <= np.datetime64(end)
    if not inside.any():
        what = f"no score from {start or 'its first day'} to {end or 'its last day'}"
        raise InputError(where, f"{what}: it has {scores.date.min()}..{scores.date.max()}", "Name other days")
    values = {h: column[inside] for h, column in scores.values.items()}
    return Scores(scores.date[inside], scores.code[inside], values, scores.metadata)


def _codes(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """Codes as text without blanks around them, null where nothing is left."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (is_text(kind) or pa.types.is_integer(kind)):
        raise TypeError(f"code is {kind}, neither text nor integer")
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    return pc.if_else(pc.equal(text, ""), None, text).dictionary_encode().unify_dictionaries().combine_chunks()


def holds_folds(folder: Path) -> bool:
    """Whether `train_folds` made this folder, finished or not. Raises InputError for a folder that cannot be read."""
    return is_there(folder / "config.toml") and is_there(folder / "fold-0")


def fold_folders(folder: Path) -> list[Path]:
    """The run folders in a folder of folds, in order of time."""
    numbered = {path.name.removeprefix("fold-"): path for path in folder.glob("fold-*")}
    return [numbered[number] for number in sorted((n for n in numbered if n.isdecimal()), key=int)]


def read_joined(folder: Path, split: str) -> Scores:
    """The joined test scores of a folder of folds.

    Raises InputError for another split, where scores or a fold are missing, and where they are not of these folds.
    """
    if split != "test":
        what = f"{folder} holds the test scores of its folds, and none of {split}"
        raise InputError("--split", what, f"Leave it out, or name one of the folds, such as {folder / 'fold-0'}")
    if not is_there(folder / SCORES):
        raise InputError(str(folder), "not all of its folds are trained", "Resume with `atft-engine train --resume`")
    summary, scores = read_summary(folder), read_scores(folder / SCORES)
    for i, fold in enumerate(summary.get("folds", [])):
        own = find_summary(folder / f"fold-{i}")
        if own is None or own.get("run_id") != fold["run_id"]:
            what = f"holds joined scores of run {fold['run_id']}, which is not in fold-{i}"
            raise InputError(str(folder), what, f"Restore fold-{i}, or resume with `atft-engine train --resume`")
    joined = " ".join(fold["run_id"] for fold in summary.get("folds", []))
    if scores.metadata.get("run_id") != joined:
        raise InputError(
            str(folder / SCORES), f"is of runs other than those of the folds, {joined}", "Resume the folds"
        )
    return scores
