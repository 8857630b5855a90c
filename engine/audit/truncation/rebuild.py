"""A cache built again as if some earlier day were the last: what changes then knew the days after it."""

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl

from engine.audit.finding import Finding, failed, passed, skipped
from engine.audit.truncation.compare import REBUILT as ADVICE
from engine.audit.truncation.compare import Differences, differences
from loaders.cache.build import RECIPES, build
from loaders.cache.format import MANIFEST, verify_source
from loaders.cache.recipes.source_rows import HERE, SourceRows, kept_source
from loaders.cache.sources.frames import Frame
from loaders.errors import InputError
from loaders.panel import Panel, open_panel

DATES = 5
SECONDS = 600  # that a command may take for one date
OPTION = "--rebuild"
NOT_AGAIN = ("end", "shards", "keep_source", "delisting_returns")  # of the settings of a build
TAKEN_IN: dict[str, Any] = {
    "date": "date",
    "code": "code",
    "rename": [],
    "min_codes": None,
}  # by the kept source already


def rebuilt(panel: Panel, command: str | None = None, dates: int = DATES, seconds: float = SECONDS) -> Finding:
    """Whether rows of the past stay as they are when the cache is built again as of some earlier days.

    No statistic and no null: any row that differs is one. Days are spread evenly over the calendar. A cache of recipe
    `ohlcv` that keeps its source is built from it, cut after the day, in a temporary folder. Else a command of the
    user's makes it again.

    Args:
        command: holds {date}, an ISO date that is the last that it may read, and {path}, that it writes to: a cache, or
            a Parquet or CSV file, which is built by the cache's own recipe and settings where it keeps them. Split as a
            shell would and run without one.
        dates: how many days.
        seconds: that the command may take for each.

    Raises InputError for a command without {date} and {path}, one that cannot be started, fails, takes too long or
    writes nothing, and for what it writes where that cannot be read.
    """
    built, name = panel.manifest.built_from, panel.manifest.recipe["name"]
    if command is None and (built is None or name != "ohlcv"):
        return skipped(
            ADVICE, f"recipe {name} is made by the user: pass {OPTION} 'COMMAND --until {{date}} --out {{path}}'"
        )
    if command is None:
        source = panel_source(panel)

        def make(date: np.datetime64, folder: Path) -> Panel | None:
            return _from_bars(panel, source, date, folder)
    else:
        words = _words(command)

        def make(date: np.datetime64, folder: Path) -> Panel | None:
            return _from_command(panel, words, date, folder, seconds)

    chosen = as_of(panel, dates)
    if not len(chosen):
        return skipped(ADVICE, f"{len(panel.calendar)} days are too few to leave some out")
    found, used = _compared(panel, make, chosen)
    told = f"as of {used} dates from {chosen[0]} to {chosen[-1]}: {found.told()}"
    if not found.compared and not found.any:
        return skipped(ADVICE, f"{told}: no row could be built")
    return failed(ADVICE, told, found.concerned()) if found.any else passed(ADVICE, told)


def as_of(panel: Panel, dates: int) -> np.ndarray:
    """Days [<= dates], evenly from the calendar without its ends."""
    places = np.unique(np.linspace(0, len(panel.calendar) - 1, dates + 2).round().astype(int)[1:-1])
    return panel.calendar[places[(places > 0) & (places < len(panel.calendar) - 1)]]


def panel_source(panel: Panel) -> SourceRows:
    """What a cache of bars keeps."""
    assert panel.manifest.built_from is not None
    verify_source(panel.folder, panel.manifest)
    return kept_source(panel.folder, panel.manifest.built_from)


def _compared(
    panel: Panel, make: Callable[[np.datetime64, Path], Panel | None], dates: np.ndarray
) -> tuple[Differences, int]:
    found, used = Differences(), 0
    for date in dates:
        with tempfile.TemporaryDirectory(prefix="atft-audit-") as folder:
            then = make(date, Path(folder))
            if then is None:
                continue
            if then.calendar[-1] > date:
                what = f"wrote rows up to {then.calendar[-1]} when asked for those until {date}"
                raise InputError(OPTION, what, "Read and write no row after {date}")
            used += 1
            found += differences(panel, then)
    return found, used


def _from_bars(panel: Panel, source: SourceRows, date: np.datetime64, folder: Path) -> Panel | None:
    """The cache of the bars up to a date; None where it cannot have a row, such as no bar in the universe."""
    built = panel.manifest.built_from
    assert built is not None
    given = [each for each in built.delistings if np.datetime64(each.date, "D") <= date]
    settings = _settings(panel) | TAKEN_IN
    if given:
        columns = {"date": [each.date for each in given], "code": [each.code for each in given],
                   "return": [each.value for each in given]}  # fmt: skip
        frame = pl.DataFrame(columns).with_columns(pl.col("date").str.to_date())
        settings["delisting_returns"] = Frame("delisting returns", frame.lazy())
    try:
        build("ohlcv", [Frame("the bars", cut(source, date).lazy())], folder / "cache", settings)
    except InputError:  # no row in the universe yet, or too few days for a horizon
        return None
    return open_panel(folder / "cache")


def cut(source: SourceRows, date: np.datetime64) -> pl.DataFrame:
    """The rows of a source up to a date: date, code and its columns."""
    layout, stop = source.layout, int(np.searchsorted(source.layout.calendar, date, "right"))
    parts = []
    for first, days, row in zip(layout.first.tolist(), layout.days.tolist(), layout.offset.tolist(), strict=True):
        kept = max(min(days, stop - first), 0)
        parts.append(row + np.flatnonzero(source.present[row : row + kept] == HERE))
    rows = np.concatenate(parts)
    values = source.values[rows]
    code = np.repeat(np.arange(len(layout.codes)), [len(part) for part in parts])
    names = pl.Series(layout.codes)
    return pl.DataFrame(
        {"date": layout.calendar[layout.day_of(rows)], "code": names.gather(code)}
        | {name: values[:, i] for i, name in enumerate(source.names)}
    )


def _from_command(panel: Panel, words: list[str], date: np.datetime64, folder: Path, seconds: float) -> Panel:
    """What a command makes of the rows up to a date."""
    out = folder / "out"
    filled = [word.replace("{date}", str(date)).replace("{path}", str(out)) for word in words]
    shown = " ".join(filled[:4])
    with (folder / "messages").open("w+b") as messages:
        try:
            code = _run(filled, messages, seconds)
        except subprocess.TimeoutExpired as error:
            what = f"`{shown} ...` took over {seconds:,.0f} s as of {date}"
            raise InputError(OPTION, what, "Pass a quicker command, of fewer codes or features") from error
        except (OSError, ValueError) as error:
            raise InputError(OPTION, f"`{words[0]}` cannot be run ({error})", "Mend the command") from error
        messages.seek(max(messages.tell() - 2000, 0))
        lines = messages.read().decode(errors="replace").strip().splitlines()
    if code:
        reason = lines[-1][:200] if lines else "no message"
        raise InputError(OPTION, f"`{shown} ...` ended with {code} as of {date} ({reason})", "Mend the command")
    if (out / MANIFEST).exists():
        return open_panel(out)
    if not out.exists():
        raise InputError(
            OPTION, f"`{shown} ...` wrote nothing to {{path}} as of {date}", "Write a cache or a file there"
        )
    if panel.manifest.built_from is None:
        what = "wrote a file, and the cache keeps no settings to build it with"
        raise InputError(OPTION, what, "Write a cache to {path} (`atft-engine cache build ... --out {path}`)")
    build(panel.manifest.recipe["name"], [_named(out)], folder / "cache", _settings(panel))
    return open_panel(folder / "cache")


def _run(words: list[str], messages: BinaryIO, seconds: float) -> int:
    """Run a command, and end it and all that it started where it takes too long or this process is stopped."""
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=messages, start_new_session=True
    )
    try:
        return process.wait(seconds)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        messages.seek(0, os.SEEK_END)


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InputError(OPTION, f"cannot be split into words ({error})", "Close its quotes") from error
    for place in ("{date}", "{path}"):
        if not any(place in word for word in words):
            raise InputError(OPTION, f"the command does not have {place}", "Write for example "
                             "'python my_features.py --until {date} --out {path}'")  # fmt: skip
    return words


def _named(out: Path) -> Path:
    """The file, with the ending that its content asks for; a folder of files as it is."""
    if out.is_dir():
        return out
    with out.open("rb") as file:
        ending = ".parquet" if file.read(4) == b"PAR1" else ".csv"
    return out.rename(out.with_suffix(ending))


def _settings(panel: Panel) -> dict[str, Any]:
    """The settings of a cache's build that a second one takes."""
    built = panel.manifest.built_from
    assert built is not None
    known = {each.name for each in fields(RECIPES[panel.manifest.recipe["name"]].options)}
    return {name: value for name, value in built.settings.items() if name in known and name not in NOT_AGAIN} | {
        "keep_source": False
    }
