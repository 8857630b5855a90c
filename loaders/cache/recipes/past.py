"""Files whose days are appended to a source: what is new in them goes in, and their past must be the source's own.

Files may hold the new days alone, or days of the past too. On a day of the past they must hold the same codes with the
same values. Only a target that was missing may have become known.

C columns, T days
"""

from typing import NoReturn

import numpy as np
import numpy.typing as npt

from loaders.cache.layout import Int, Layout, Survey, stream
from loaders.cache.recipes.source_rows import HERE, SourceRows
from loaders.cache.sources import faults
from loaders.cache.sources.codes import two_spellings
from loaders.cache.sources.table import Table
from loaders.errors import InputError

CURE = "Append files of the new days alone, or rebuild the cache from all files"


def grown_layout(before: Layout, left_out: dict[str, int], found: Survey) -> Layout:
    """The layout of a source with the days and codes of files after its last day.

    Args:
        left_out: dates that were left out before, and how many codes held each.
        found: what the files hold.

    Raises InputError where they have no new day, and for a date or a code that the past did not have.
    """
    days, table = found.layout.calendar, found.table
    last = before.calendar[-1]
    for day, held in found.left_out.items():
        if np.datetime64(day) <= last and day not in left_out:
            what = f"{day} is held by {held} codes and so left out, the cache has it"
            raise InputError(table.sources.name, what, CURE)
        if held != left_out.get(day, held):
            what = f"{day} is held by {held} codes, when it was left out it was {left_out[day]}"
            raise InputError(table.sources.name, what, CURE)
    known = np.isin(days, before.calendar)
    for day in map(str, days[~known]):
        if np.datetime64(day) <= last or day in left_out:
            _refuse_row(table, faults.first_codes(table, day)[0], day)
    if known.all():
        what = f"there is no day after {last}, the cache's last"
        raise InputError(table.sources.name, what, "Append a later day")
    calendar = np.concatenate([before.calendar, days[~known]])
    codes = sorted({*before.codes, *found.layout.codes})
    if spellings := two_spellings(codes):
        what = f"codes {spellings[0]!r} and {spellings[1]!r} of the cache and the files are the same number"
        raise InputError(table.sources.name, what, "Write each code in one way")
    first, stop = np.full(len(codes), len(calendar)), np.zeros(len(codes), np.int64)
    mine = np.searchsorted(codes, before.codes)
    first[mine], stop[mine] = before.first, before.first + before.days
    place = np.searchsorted(codes, found.layout.codes)
    begin = np.searchsorted(calendar, days[found.layout.first])
    early = begin < np.minimum(first[place], len(before.calendar))
    if early.any():
        s = int(np.argmax(early))
        _refuse_row(table, found.layout.codes[s], str(calendar[begin[s]]))
    first[place] = np.minimum(first[place], begin)
    end = np.searchsorted(calendar, days[found.layout.first + found.layout.days - 1]) + 1
    stop[place] = np.maximum(stop[place], end)
    return Layout(calendar, codes, first, stop - first)


def put_files(now: SourceRows, before: SourceRows, table: Table, targets: int) -> Int:
    """Put the rows of files after the last day of `before` into `now`, which holds its rows; compare the others.

    Args:
        targets: number of columns, the last ones, that may have been missing and have become known.

    Gives the rows of `now` where one has. Raises InputError naming code, date, column and both values where the past
    of the files differs, and what `stream` raises.
    """
    layout, days, columns = now.layout, len(before.layout.calendar), len(now.names)
    is_target = np.arange(columns) >= columns - targets
    seen, completed = np.zeros(days, np.int64), [np.empty(0, np.int64)]
    for rows, numbers in stream(table, layout):
        day = layout.day_of(rows)
        past = day < days
        now.put(rows[~past], numbers[~past])
        rows, numbers = rows[past], numbers[past]
        unknown = now.present[rows] != HERE
        if unknown.any():
            _refuse_row(table, *layout.code_and_date(int(rows[np.argmax(unknown)])))
        was = now.values[rows]
        missing = np.isnan(was)
        becomes_known = missing & ~np.isnan(numbers) & is_target
        differs = (numbers != was) & ~(missing & np.isnan(numbers)) & ~becomes_known
        if differs.any():
            i, column = np.argwhere(differs)[0]
            _refuse_value(table, layout, int(rows[i]), now.names[column], was[i, column], numbers[i, column])
        now.values[rows] = numbers
        completed.append(rows[becomes_known.any(1)])
        seen += np.bincount(day[past], minlength=days)
    short = (seen > 0) & (seen < before.present_by_day())
    if short.any():
        _refuse_missing(table, before, int(np.argmax(short)))
    return np.sort(np.concatenate(completed))


def _refuse_row(table: Table, code: str, day: str) -> NoReturn:
    where = faults.file_of(table, code, day)
    raise InputError(where, f"{code} has a row on {day}, which the cache was built without", CURE)


def _refuse_value(table: Table, layout: Layout, row: int, column: str, was: np.float32, found: np.float32) -> NoReturn:
    now, then = ("missing" if np.isnan(value) else str(value) for value in (found, was))
    what = f"column {column!r} of {layout.place(row)} is {now}, when the cache was built it was {then}"
    raise InputError(faults.file_of(table, *layout.code_and_date(row)), what, CURE)


def _refuse_missing(table: Table, before: SourceRows, day: int) -> NoReturn:
    layout = before.layout
    date = str(layout.calendar[day])
    found = set(faults.first_codes(table, date, len(layout.codes)))
    spans = np.flatnonzero((layout.first <= day) & (day < layout.first + layout.days))
    rows = layout.offset[spans] + day - layout.first[spans]
    codes = [layout.codes[s] for s in spans[_present(before, rows)]]
    code = next(code for code in codes if code not in found)
    raise InputError(table.sources.name, f"{code} has no row on {date}, the cache was built with one", CURE)


def _present(source: SourceRows, rows: Int) -> npt.NDArray[np.bool_]:
    here: npt.NDArray[np.bool_] = source.present[rows] == HERE
    return here
