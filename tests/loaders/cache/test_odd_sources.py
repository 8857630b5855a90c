"""Sources that a build must not take without a word: infinite bars, rows cut short, targets that are not there."""

import gzip
import math

import numpy as np
import polars as pl
import pytest

from loaders.cache.build import build
from loaders.cache.format import read_manifest
from loaders.errors import InputError
from loaders.panel import open_panel

DAYS = pl.date_range(pl.date(2020, 1, 1), pl.date(2020, 3, 30), eager=True)


def bars(**columns):
    days = enumerate(DAYS)
    rows = [(day, f"c{s}", 10.0 + s, 10.5 + s, 9.5 + s, 10.0 + s + i % 3, 1e6) for i, day in days for s in range(4)]
    frame = pl.DataFrame(rows, ["date", "ticker", "open", "high", "low", "close", "volume"], orient="row")
    return frame.with_columns(**columns)


def test_infinite_bars_are_counted_and_told(tmp_path):
    one = pl.int_range(pl.len()) == 50
    columns = {name: pl.when(one).then(math.inf).otherwise(pl.col(name)).alias(name) for name in ("close", "volume")}
    bars(**columns).write_parquet(tmp_path / "bars.parquet")
    said = []
    build("ohlcv", [tmp_path / "bars.parquet"], tmp_path / "c", {}, said.append)
    counts = read_manifest(tmp_path / "c").counts
    assert (counts["bars_without_close"], counts["context"]) == (1, 1)
    assert any(line.startswith("odd bars: bars without close 1") for line in said)
    targets = open_panel(tmp_path / "c").targets[:]
    assert not np.isinf(targets).any()
    assert np.nanmax(np.abs(targets)) < 1


def test_an_infinite_volume_is_none(tmp_path):
    one = pl.int_range(pl.len()) == 50
    bars(volume=pl.when(one).then(math.inf).otherwise(pl.col("volume"))).write_parquet(tmp_path / "bars.parquet")
    said = []
    build("ohlcv", [tmp_path / "bars.parquet"], tmp_path / "c", {}, said.append)
    counts = read_manifest(tmp_path / "c").counts
    assert (counts["bars_without_close"], counts["bars_without_volume"]) == (0, 1)
    assert any("bars without volume 1" in line for line in said)
    assert np.isfinite(open_panel(tmp_path / "c").features[:]).all()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_a_row_cut_short_is_named(tmp_path, packed, last):
    lines = bars().write_csv().splitlines()
    number = len(lines) - 1 if last else 20
    lines[number] = ",".join(lines[number].split(",")[:5])
    content = "\n".join(lines).encode()
    path = tmp_path / ("bars.CSV.gz" if packed else "bars.csv")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(InputError, match=rf"row {number + 1} has 5 of 7 fields"):
        build("ohlcv", [path], tmp_path / "c", {})
    assert not (tmp_path / "c").exists()


def test_a_row_that_is_no_text_is_one_line(tmp_path, capfd):
    """Arrow prints a traceback of its own beside the error where the row that it hands over is no UTF-8."""
    lines = bars().write_csv().encode().splitlines()
    lines[30] = lines[30][:20] + bytes(range(200, 250)) + b",1,2,3" + lines[30][20:]
    (tmp_path / "bars.csv").write_bytes(b"\n".join(lines))
    with pytest.raises(InputError, match="cannot be read"):
        build("ohlcv", [tmp_path / "bars.csv"], tmp_path / "c", {})
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (8_400_000, pl.Date, "8,400,000 days after 1970-01-01"),  # Python has no such year
        (2**29, pl.Date, "536,870,912 days after 1970-01-01"),  # and Polars no such date
        (-(2**31), pl.Date, "2,147,483,648 days before 1970-01-01"),
        (2**62, pl.Datetime("us"), "53,375,995 days after 1970-01-01"),
        (-62_200, pl.Date, "1799-09-14"),
    ],
)
def test_a_day_that_no_calendar_has_is_named(tmp_path, number, kind, said, capfd):
    days = pl.Series("date", [number], dtype=pl.Int64 if isinstance(kind, pl.Datetime) else pl.Int32).cast(kind)
    frame = pl.concat([bars().with_columns(pl.col("date").cast(kind)), bars().head(1).with_columns(days)])
    frame.write_parquet(tmp_path / "bars.parquet")
    with pytest.raises(InputError, match=f"'{said}' in a row of c0, which is no accepted date"):
        build("ohlcv", [tmp_path / "bars.parquet"], tmp_path / "c", {})
    assert capfd.readouterr().err == ""


def test_quoted_separators_and_line_ends_are_no_cut(tmp_path):
    frame = bars().with_columns(pl.lit('a,"b"\nc').alias("note"))
    frame.write_csv(tmp_path / "bars.csv")
    frame.write_parquet(tmp_path / "bars.parquet")
    rows = {build("ohlcv", [tmp_path / f"bars.{kind}"], tmp_path / kind, {}).rows for kind in ("csv", "parquet")}
    assert rows == {len(frame)}


@pytest.mark.parametrize("horizon", [500, 10**26])
def test_a_horizon_longer_than_the_calendar_is_refused(tmp_path, horizon):
    bars().write_parquet(tmp_path / "bars.parquet")
    with pytest.raises(InputError, match="--horizons"):
        build("ohlcv", [tmp_path / "bars.parquet"], tmp_path / "c", {"horizons": [horizon]})
    frame = bars().with_columns(pl.col("close").alias("x"), pl.lit(0.1).alias(f"ret_{horizon}"))
    frame.write_parquet(tmp_path / "ready.parquet")
    settings = {"code": "ticker", "features": ["x"], "targets": [f"ret_{horizon}"]}
    with pytest.raises(InputError, match="--horizons"):
        build("columns", [tmp_path / "ready.parquet"], tmp_path / "c", settings)


def test_targets_that_are_all_missing_are_refused(tmp_path):
    frame = bars().with_columns(pl.col("close").alias("x"), pl.lit(None, pl.Float64).alias("ret_1"))
    frame.write_parquet(tmp_path / "ready.parquet")
    settings = {"code": "ticker", "features": ["x"], "targets": ["ret_1"]}
    with pytest.raises(InputError, match="no scored row has a target over 1 rows"):
        build("columns", [tmp_path / "ready.parquet"], tmp_path / "c", settings)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("settings", [{"min_price": math.inf}, {"min_price": math.nan}, {"periods_per_year": -1.0}])
def test_numbers_of_a_build_are_finite(tmp_path, settings):
    bars().write_parquet(tmp_path / "bars.parquet")
    with pytest.raises(InputError, match="no finite number"):
        build("ohlcv", [tmp_path / "bars.parquet"], tmp_path / "c", settings)


def test_an_empty_universe_is_refused(tmp_path):
    bars().write_parquet(tmp_path / "bars.parquet")
    with pytest.raises(InputError, match="universe"):
        build("ohlcv", [tmp_path / "bars.parquet"], tmp_path / "c", {"min_price": 1e9})
