"""Forward returns of bars: from the entry to the close h calendar days later.

    entry        begins at          ends at         known
    close        close[t]           close[t+h]      at t + h
    next_open    open[t+1]          close[t+h]      at t + h
    next_close   close[t+1]         close[t+1+h]    at t + h + 1

A label is missing, and counted by its reason, where the code has no usable bar at the entry or the end (a day off),
where the code's last bar comes before the end (unless its delisting return is known), and where a bad tick lies
between: a move beyond tenfold in one day. The move to a code's last bar is real whatever its size: no later bar says
otherwise.

A known delisting return is what a holder got after the last bar. It completes every label that holds the code then.

n days of a code's span, H horizons
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loaders.cache.layout import Layout
from loaders.cache.manifest.model import Delisting
from loaders.cache.manifest.text import check_names
from loaders.cache.sources import faults
from loaders.cache.sources.frames import Source
from loaders.cache.sources.reader import reading
from loaders.cache.sources.table import Table, open_sources
from loaders.errors import InputError

Float = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

ENTRIES = ("close", "next_open", "next_close")
BAD_TICK = 10.0  # times the price before, up or down
LOSSES = ("days_off", "code_end", "bad_ticks", "calendar_end")  # why a label is missing


@dataclass(frozen=True)
class CodeBars:
    """Bars [n] of one code."""

    open: Float  # NaN: unknown
    close: Float
    usable: Mask
    jump: Mask  # a bad tick came between the day before and this one


def labels(
    bars: CodeBars, horizons: list[int], entry: str, days_left: int, delisting_return: float | None
) -> tuple[Float, npt.NDArray[np.int8]]:
    """Labels [n, H] of one code, and why one is missing [n, H]: a place in LOSSES, -1 where it is there.

    Args:
        entry: one of ENTRIES.
        days_left: calendar days after the span.
        delisting_return: after the code's last bar; None: not known, or it has none.
    """
    n = len(bars.close)
    last = n - 1 - int(np.argmax(bars.usable[::-1])) if bars.usable.any() else -1
    day = np.arange(n)
    begin = day if entry == "close" else day + 1
    price = bars.open if entry == "next_open" else bars.close
    with np.errstate(invalid="ignore", divide="ignore"):
        odd = np.abs(np.log(price.astype(np.float64) / bars.close)) > np.log(BAD_TICK)  # of an open
    bought = bars.usable & np.isfinite(price) & ~odd
    ticks = np.cumsum(bars.jump)
    begins = np.minimum(begin, n - 1)
    cost = price[begins].astype(np.float64)
    out = np.full((n, len(horizons)), np.nan, np.float32)
    why = np.full((n, len(horizons)), LOSSES.index("days_off"), np.int8)
    for i, h in enumerate(horizons):
        end = begin + h if entry == "next_close" else day + h
        ends = np.minimum(end, max(last, 0))
        beyond = end > last
        held = bought[begins] & (begin <= last) & (bars.usable[ends] | beyond)
        clean = ticks[ends] == ticks[begins]
        value = bars.close[ends].astype(np.float64)
        completed = beyond & (delisting_return is not None)
        value = np.where(completed, value * (1 + (delisting_return or 0.0)), value)
        known = held & clean & (~beyond | completed)
        out[known, i] = (value / cost - 1)[known]
        after = end >= n + days_left
        why[:, i] = np.select(
            [known, ~completed & after, ~completed & beyond, held & ~clean],
            [-1, LOSSES.index("calendar_end"), LOSSES.index("code_end"), LOSSES.index("bad_ticks")],
            LOSSES.index("days_off"),
        )
    return out, why


def read_delistings(path: Source) -> list[Delisting]:
    """Delisting returns of a file with `code`, `date` and `return`, a fraction: -1 is a total loss. Sorted by code.

    Raises InputError for a file that cannot be read, a row without date or code, and a return that is none.
    """
    table = Table(open_sources([path], "date", "code", [], None, lambda line: None), ["return"], tidy=True)
    with reading(str(path)):
        frame = table.frame.rename({"number:0": "return"}).collect()
    if frame["date"].null_count():
        faults.refuse_date(table)
    if frame["code"].null_count():
        faults.refuse_missing_code(table)
    check_names(str(path), "code", frame["code"])
    found = []
    for code, date, value in frame.select("code", "date", "return").sort("code", "date").iter_rows():
        if value is None or not np.isfinite(value) or value < -1:
            what = f"the return of {code} on {date} is {value}, not a fraction from -1 on"
            raise InputError(str(path), what, "Write -0.35 for a loss of 35%")
        found.append(Delisting(code=code, date=str(date), value=value))
    return found


def delistings_of(layout: Layout, given: list[Delisting], where: str) -> dict[str, float]:
    """The returns by code that concern a panel: those of its codes, with dates up to its last.

    Args:
        where: messages say that they stand.

    Raises InputError for two of a code, and a date before the code's last bar.
    """
    last = dict(zip(layout.codes, layout.calendar[layout.first + layout.days - 1], strict=True))
    found: dict[str, float] = {}
    for delisting in given:
        code, date = delisting.code, np.datetime64(delisting.date)
        if code not in last or date > layout.calendar[-1]:
            continue
        if code in found:
            raise InputError(where, f"two rows for {code}", "Keep one row per code")
        if date < last[code]:
            what = f"{code} is delisted on {date} and has bars until {last[code]}"
            raise InputError(where, what, "Mend the date, or remove the bars after it")
        found[code] = delisting.value
    return found
