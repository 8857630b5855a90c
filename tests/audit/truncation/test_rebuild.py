"""Caches built again as of earlier days: bars by the package's own build, columns by a user's command."""

import shlex
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from engine.audit.truncation.rebuild import as_of, rebuilt
from loaders.cache.build import build
from loaders.errors import InputError
from loaders.panel import Panel, open_panel
from tests.audit.market import Style, clean_market

SMALL = Style(codes=12, days=120, horizons=(1, 5))
LATER = "(pl.col('close').mean().over('code'))"
SCRIPT = """
import sys, numpy as np, polars as pl
bars, until, out = sys.argv[1:]
rows = pl.read_parquet(bars).filter(pl.col("date") <= pl.lit(until).str.to_date()).sort("code", "date")
change = pl.col("close") / pl.col("close").shift(1).over("code") - 1
rows = rows.with_columns(change.fill_null(0).alias("ret_1"), FEATURE.alias("feature"))
label = pl.col("close").shift(-1).over("code") / pl.col("close") - 1
rows.select("date", "code", "ret_1", "feature", label.alias("target_1")).write_parquet(out)
"""


def bars_of(seed: int, style: Style = SMALL) -> pl.DataFrame:
    market = clean_market(seed, style)
    day, code = np.nonzero(market.listed)
    columns = {name: each[day, code] for name, each in market.bars.items()}
    return pl.DataFrame({"date": market.calendar[day], "code": np.array(market.codes)[code]} | columns)


@pytest.fixture
def bars(tmp_path: Path) -> Path:
    bars_of(1).write_parquet(tmp_path / "bars.parquet")
    return tmp_path / "bars.parquet"


def ohlcv(bars: Path, out: Path, **settings: object) -> Panel:
    build("ohlcv", [bars], out, {"code": "code", "dtype": "float32"} | settings)
    return open_panel(out)


def by_command(bars: Path, feature: str, folder: Path) -> tuple[Panel, str]:
    """A cache of a script's columns, and the command that makes it as of a date."""
    script = folder / "my features.py"
    script.write_text(SCRIPT.replace("FEATURE", feature))
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(script))} {bars} {{date}} {{path}}"
    words = shlex.split(command.format(date="2100-01-01", path=folder / "whole.parquet"))
    subprocess.run(words, check=True)
    settings = {"features": ["ret_1", "feature"], "targets": ["target_1"], "horizons": [1], "dtype": "float32"}
    build("columns", [folder / "whole.parquet"], folder / "cache", settings)
    return open_panel(folder / "cache"), command


def test_bars_pass_with_delistings_and_a_start(bars: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(bars)
    last = rows.group_by("code").agg(pl.col("date").max()).sort("date", "code")[:1]
    last.with_columns(pl.lit(-0.5).alias("return")).write_csv(tmp_path / "gone.csv")
    panel = ohlcv(
        bars, tmp_path / "cache", delisting_returns=tmp_path / "gone.csv", min_price=5.0,
        start=str(rows["date"].min() + timedelta(days=40)),
    )  # fmt: skip
    found = rebuilt(panel)
    assert found.verdict == "passed", found
    assert "as of 5 dates" in found.figure


def test_bars_that_the_cache_does_not_have_fail(bars: Path, tmp_path: Path) -> None:
    panel = ohlcv(bars, tmp_path / "cache")
    rows = panel.features.copy()
    row = int(panel.offset[3] + 30)
    rows[row, 0] += 0.5
    # The file is read-only and its checksums are another's to compare: a panel with other rows in memory.
    object.__setattr__(panel, "features", rows)
    found = rebuilt(panel, dates=2)
    assert found.verdict == "failed"
    assert found.concerned[0] == panel.manifest.features[0]
    assert found.concerned[-1] == f"first {panel.calendar[panel.first[3] + 30]} of {panel.manifest.codes[3]}"


@pytest.mark.parametrize(("feature", "verdict"), [("pl.col('close').rolling_mean(5).over('code')", "passed"),
                                                  (LATER, "failed")])  # fmt: skip
def test_commands(feature: str, verdict: str, bars: Path, tmp_path: Path) -> None:
    panel, command = by_command(bars, feature, tmp_path)
    found = rebuilt(panel, command, dates=2)
    assert found.verdict == verdict, found
    assert (found.concerned[0] == "feature") if found.concerned else verdict == "passed"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("true {date}", "does not have {path}"),
        ("echo '{date} {path}", "split into words"),
        ("no-such-program {date} {path}", "cannot be run"),
        ("true {date} {path}", "wrote nothing"),
        (f"{sys.executable} -c 'raise SystemExit(\"no data\")' {{date}} {{path}}", "ended with 1"),
        (f"{sys.executable} -c 'import time; time.sleep(60)' {{date}} {{path}}", "took over"),
        ("sh -c 'sleep 60; echo {date} {path}' ", "took over"),
        (f'{sys.executable} -c \'import sys; open(sys.argv[2], "w").write("date,code")\' {{date}} {{path}}', "out"),
    ],
)
def test_commands_that_do_not_work_are_said_in_a_line(command: str, said: str, bars: Path, tmp_path: Path) -> None:
    panel = ohlcv(bars, tmp_path / "cache")
    with pytest.raises(InputError, match=said) as error:
        rebuilt(panel, command, dates=1, seconds=1 if "sleep" in command else 60)
    assert "\n" not in str(error.value)


def test_a_command_that_writes_later_rows_is_refused(bars: Path, tmp_path: Path) -> None:
    panel = ohlcv(bars, tmp_path / "cache")
    copy = "import shutil, sys; shutil.copy(*sys.argv[1:3])"
    with pytest.raises(InputError, match="when asked for those until"):
        rebuilt(panel, f"{sys.executable} -c '{copy}' {bars} {{path}} {{date}}", dates=1)


def test_dates_are_inside_the_calendar(bars: Path, tmp_path: Path) -> None:
    panel = ohlcv(bars, tmp_path / "cache")
    dates = as_of(panel, 5)
    assert len(dates) == 5
    assert panel.calendar[0] < dates[0]
    assert dates[-1] < panel.calendar[-1]
    object.__setattr__(panel, "calendar", panel.calendar[:2])
    assert not len(as_of(panel, 5))
