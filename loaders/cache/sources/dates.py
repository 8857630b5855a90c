"""The accepted forms of a date: one list, for caches and score files alike.

    day (any period but era)   YYYY-MM-DD, YYYY/MM/DD, YYYY.MM.DD, YYYYMMDD; as text a time may follow (T or a space,
                               HH:MM[:SS[.fff]], a zone), which is dropped: the date counts as it is written
    month                      also YYYY-MM, YYYY/MM, YYYY.MM, YYYYMM: the first day of the month
    era                        only numbers 0..99999, or text such as `era12` and `0012`: era n is 1900-01-01 + n days

Integers, and floats that are whole, count as the text of the integer. Years outside 1800..2200 are no dates.
"""

import datetime
import re
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

FIRST_DAY, LAST_DAY = datetime.date(1800, 1, 1), datetime.date(2200, 12, 31)
ERA_ZERO = datetime.date(1900, 1, 1)

_TIME = r"(?:(?:T| +)\d\d:\d\d(?::\d\d(?:[.,]\d+)?)? ?(?:Z|UTC|[+-]\d\d(?::?\d\d)?)?)?"
_DAY = re.compile(rf"(\d{{4}})([-/.]?)(\d\d)\2(\d\d)(?:\.0+)?{_TIME}", re.ASCII)
_MONTH = re.compile(r"(\d{4})[-/.]?(\d\d)(?:\.0+)?", re.ASCII)
_ERA = re.compile(r"(?:era[ _-]?)?(\d{1,5})(?:\.0+)?", re.ASCII | re.IGNORECASE)

FORMS = {
    "day": "YYYY-MM-DD, YYYY/MM/DD, YYYY.MM.DD or YYYYMMDD, of the years 1800 to 2200",
    "month": "YYYY-MM, YYYYMM or a full date such as YYYY-MM-DD, of the years 1800 to 2200",
    "era": "numbers from 0 to 99999, or text such as era12",
}


@lru_cache(maxsize=200_000)
def parse(value: str | int | float, period: str | None = None) -> datetime.date | None:
    """The date that a value means, None where it has none of the accepted forms.

    Args:
        period: of the panel; `month` and `era` accept their own forms.
    """
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    if period == "era":
        era = _ERA.fullmatch(text)
        return ERA_ZERO + datetime.timedelta(int(era[1])) if era else None
    parts: tuple[str, str, str] | None = None
    if day := _DAY.fullmatch(text):
        parts = day[1], day[3], day[4]
    elif period == "month" and (month := _MONTH.fullmatch(text)):
        parts = month[1], month[2], "01"
    try:
        date = datetime.date(*map(int, parts)) if parts else None
    except ValueError:
        return None
    return date if date is not None and FIRST_DAY <= date <= LAST_DAY else None


def fault(column: str, value: object, code: str | None) -> str:
    """What is wrong with a value that is no date, in a row of a code."""
    shown = repr(value) if isinstance(value, str) else str(value)
    return f"column {column!r} holds {shown} in a row of {code}, which is no accepted date"


def advice(value: object, period: str | None = None) -> str:
    """How to mend a value that is no date."""
    cure = f"Write dates as {FORMS.get(period or 'day', FORMS['day'])}"
    if isinstance(value, str | int | float) and period is None:
        for other in ("month", "era"):
            if parse(value, other) is not None:
                return f"{cure}, or pass --period {other} where it is meant so"
    return cure


def parse_column(column: pa.ChunkedArray, period: str | None = None) -> npt.NDArray[np.datetime64]:
    """Dates [N], datetime64[D], of an Arrow column; NaT where a value is null or has no accepted form.

    Raises TypeError for a column that is neither date, timestamp, text nor number.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_timestamp(kind):
        local = column if kind.tz is None else pc.local_timestamp(column)
        column = pc.floor_temporal(local, unit="day").cast(pa.timestamp("s")).cast(pa.date32())
    if pa.types.is_date(column.type):
        days = column.cast(pa.date32()).to_numpy().astype("datetime64[D]")
        inside = (days >= np.datetime64(FIRST_DAY)) & (days <= np.datetime64(LAST_DAY))
        return np.where(inside & (period != "era"), days, np.datetime64("NaT", "D"))
    if pa.types.is_decimal(kind) or pa.types.is_floating(kind):
        column = column.cast(pa.float64())
    elif is_text(kind):
        column = column.cast(pa.string())
    elif not pa.types.is_integer(kind):
        raise TypeError(f"{kind} holds no dates")
    coded = column.dictionary_encode().unify_dictionaries().combine_chunks()
    known = [None if value is None else parse(value, period) for value in coded.dictionary.to_pylist()]
    table = np.array([*known, None], "datetime64[D]")
    return table[pc.fill_null(coded.indices, len(known)).to_numpy(zero_copy_only=False)]


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type is text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
