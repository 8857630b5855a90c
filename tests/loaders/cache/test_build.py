"""Building caches from files: what goes in comes out, whatever the order, kind of file and type; bad input is named."""

import datetime
import os
import signal
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from loaders.cache import build as recipes
from loaders.cache.format import ABSENT, SCORED
from loaders.errors import InputError
from loaders.panel import open_panel


def table(n_codes=30, n_days=25, seed=0):
    """A panel with late listings and gaps, shuffled."""
    rng = np.random.default_rng(seed)
    days = np.busday_offset("2020-01-01", np.arange(n_days), "forward")
    keep = rng.random((n_codes, n_days)) < 0.8
    code, day = np.nonzero(keep)
    frame = pl.DataFrame(
        {
            "date": days[day],
            "code": [f"c{i:02d}" for i in code],
            "size": rng.standard_normal(len(code)).astype(np.float32),
            "value": rng.standard_normal(len(code)),
            "count": rng.integers(0, 100, len(code)),
            "y_1": rng.standard_normal(len(code)).astype(np.float32),
            "y_5": rng.standard_normal(len(code)),
        }
    )
    return frame.sample(fraction=1, shuffle=True, seed=seed)


FEATURES = ["size", "value", "count"]


def build(paths, out, **changes):
    settings = {"features": FEATURES, "targets": ["y_*"], "dtype": "float32", "transform": "none"} | changes
    return recipes.build("columns", paths if isinstance(paths, list) else [paths], out, settings)


def contents(folder):
    """{(date, code): (features, targets)} of the present rows, read row by row."""
    panel = open_panel(folder)
    found = {}
    for s, code in enumerate(panel.manifest.codes):
        for d in range(panel.days[s]):
            row = panel.offset[s] + d
            if panel.presence[row] != ABSENT:
                day = panel.calendar[panel.first[s] + d].astype(object)
                found[day, code] = (panel.features[row].tolist(), panel.targets[row].tolist())
    return found


def expected(frame):
    numbers = frame.select(pl.col(*FEATURES, "y_1", "y_5").cast(pl.Float32))
    keys = zip(frame["date"].cast(pl.Date), frame["code"].cast(pl.String), strict=True)
    return {key: (list(v[:3]), list(v[3:])) for key, v in zip(keys, numbers.rows(), strict=True)}


def test_values_arrive_where_they_belong(tmp_path):
    frame = table()
    frame.write_parquet(tmp_path / "p.parquet")
    manifest = build(tmp_path / "p.parquet", tmp_path / "cache")
    assert contents(tmp_path / "cache") == expected(frame)
    assert manifest.features == FEATURES
    assert manifest.horizons == [1, 5]
    assert manifest.counts["scored"] == frame.height
    panel = open_panel(tmp_path / "cache")
    absent = panel.presence == ABSENT
    assert manifest.counts["absent"] == absent.sum() > 0
    assert not panel.features[absent].any()
    assert np.isnan(panel.targets[absent]).all()
    for s in range(len(panel.offset)):  # a span begins and ends with a row
        assert panel.presence[panel.offset[s]] == panel.presence[panel.offset[s] + panel.days[s] - 1] == SCORED


DATES = {
    "date": lambda c: c,
    "datetime": lambda c: c.cast(pl.Datetime("ms")),
    "datetime with zone": lambda c: c.cast(pl.Datetime("us")).dt.replace_time_zone("Asia/Tokyo"),
    "ISO text": lambda c: c.cast(pl.String),
    "ISO text with time": lambda c: c.cast(pl.String) + "T00:00:00",
    "YYYYMMDD": lambda c: c.dt.strftime("%Y%m%d").cast(pl.Int32),
    "YYYYMMDD as text": lambda c: c.dt.strftime("%Y%m%d"),
}


@pytest.mark.parametrize("form", DATES)
def test_dates_of_every_form(tmp_path, form):
    frame = table(n_codes=8)
    frame.with_columns(DATES[form](pl.col("date"))).write_parquet(tmp_path / "p.parquet")
    build(tmp_path / "p.parquet", tmp_path / "cache")
    assert contents(tmp_path / "cache") == expected(frame)


@pytest.mark.parametrize("kind", [pl.Categorical, pl.Int16, pl.UInt64])
def test_codes_of_every_type(tmp_path, kind):
    frame = table(n_codes=12)
    if kind != pl.Categorical:
        frame = frame.with_columns(pl.col("code").str.slice(1).cast(kind))
    frame.with_columns(pl.col("code").cast(kind)).write_parquet(tmp_path / "p.parquet")
    manifest = build(tmp_path / "p.parquet", tmp_path / "cache")
    assert contents(tmp_path / "cache") == expected(frame)
    assert manifest.codes == sorted(manifest.codes)


@pytest.mark.parametrize("kind", [pl.Int8, pl.UInt32, pl.Int64, pl.Float32, pl.Float64, pl.Boolean, pl.Decimal(10, 2)])
def test_numbers_of_every_type(tmp_path, kind):
    frame = table(n_codes=8).with_columns((pl.col("count") % 2).cast(kind))
    frame.write_parquet(tmp_path / "p.parquet")
    build(tmp_path / "p.parquet", tmp_path / "cache")
    assert contents(tmp_path / "cache") == expected(frame)


def test_many_files_of_many_kinds_equal_one(tmp_path):
    frame = table()
    folder = tmp_path / "files"
    (folder / "deeper").mkdir(parents=True)
    third = frame.height // 3
    frame[:third].write_parquet(folder / "a.parquet")
    frame[third : 2 * third].write_csv(folder / "deeper" / "b.csv")
    frame[2 * third :].with_columns(pl.col("size").cast(pl.Float64)).write_ipc(folder / "c.arrow")
    (folder / "notes.txt").write_text("not data")
    frame.write_parquet(tmp_path / "one.parquet")
    many = build(folder, tmp_path / "many")
    one = build(tmp_path / "one.parquet", tmp_path / "one")
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert many.checksums == one.checksums


def test_codes_in_csv_keep_their_zeros(tmp_path):
    (tmp_path / "p.csv").write_text("date,code,x,y_1\n20200101,007,1,0.5\n20200102,007,2.5,\n")
    manifest = build(tmp_path / "p.csv", tmp_path / "cache", features=["x"])
    assert manifest.codes == ["007"]
    assert manifest.counts["missing_targets"] == 1
    np.testing.assert_array_equal(open_panel(tmp_path / "cache").targets, [[0.5], [np.nan]])


def test_missing_values(tmp_path):
    frame = table(n_codes=8).with_columns(
        size=pl.when(pl.col("count") < 20).then(None).otherwise(pl.col("size")),
        value=pl.when(pl.col("count") > 90).then(float("nan")).otherwise(pl.col("value")),
        y_1=pl.when(pl.col("count") > 50).then(None).otherwise(pl.col("y_1")),
    )
    frame.write_parquet(tmp_path / "p.parquet")
    manifest = build(tmp_path / "p.parquet", tmp_path / "cache")
    panel = open_panel(tmp_path / "cache")
    present = panel.presence == SCORED
    for i, (name, missing) in enumerate((("size", frame["count"] < 20), ("value", frame["count"] > 90))):
        assert manifest.source[i].missing == pytest.approx(missing.mean(), abs=1e-12)
        assert missing.sum() > 0
        known = frame.with_columns(pl.col(name).cast(pl.Float32).fill_nan(None))
        filled = known.with_columns(pl.col(name).fill_null(pl.col(name).median().over("date")))
        of = {key: value for *key, value in filled.select("date", "code", name).iter_rows() for key in [tuple(key)]}
        for key, (x, _) in contents(tmp_path / "cache").items():
            assert x[i] == pytest.approx(of[key], rel=1e-6)
    assert np.isnan(panel.targets[present, 0]).sum() == (frame["count"] > 50).sum() > 0


def test_start_and_end_are_included(tmp_path):
    frame = table()
    frame.write_parquet(tmp_path / "p.parquet")
    build(tmp_path / "p.parquet", tmp_path / "cache", start="2020-01-08", end="2020-01-21")
    inside = frame.filter(pl.col("date").is_between(datetime.date(2020, 1, 8), datetime.date(2020, 1, 21)))
    assert contents(tmp_path / "cache") == expected(inside)


def test_patterns_never_take_targets_date_or_code(tmp_path):
    table().write_parquet(tmp_path / "p.parquet")
    manifest = build(tmp_path / "p.parquet", tmp_path / "cache", features=["*"], targets=["y_5"])
    assert manifest.features == [*FEATURES, "y_1"]
    assert manifest.horizons == [5]


def test_targets_ascend_in_their_horizon(tmp_path):
    frame = table()
    frame.write_parquet(tmp_path / "p.parquet")
    assert build(tmp_path / "p.parquet", tmp_path / "cache", targets=["y_5", "y_1"]).horizons == [1, 5]
    assert contents(tmp_path / "cache") == expected(frame)
    named = frame.rename({"y_1": "soon", "y_5": "late"})
    named.write_parquet(tmp_path / "p.parquet")
    build(tmp_path / "p.parquet", tmp_path / "cache", targets=["late", "soon"], horizons=[5, 1])
    assert contents(tmp_path / "cache") == expected(frame)


def shifted(frame, column, value):
    """One value of one row changed."""
    first = pl.int_range(pl.len()) == 3
    return frame.with_columns(pl.when(first).then(pl.lit(value)).otherwise(pl.col(column)).alias(column))


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda f: pl.concat([f, f[5:6]]), {}, ["two rows for", "c"]),
        (lambda f: shifted(f, "value", float("inf")), {}, ["'value'", "infinite"]),
        (lambda f: shifted(f, "value", 1e300), {}, ["'value'", "infinite", "float32"]),
        (lambda f: shifted(f, "y_1", float("-inf")), {}, ["'y_1'", "infinite"]),
        (lambda f: shifted(f, "value", 70000.0), {"dtype": "float16"}, ["'value'", "65,504", "--dtype float32"]),
        (lambda f: f.with_columns(pl.col("value") * 1e-9), {"dtype": "float16"}, ["'value'", "zero"]),
        (lambda f: f.with_columns(pl.col("value") + 3000), {"dtype": "float16"}, ["'value'", "rounding"]),
        (lambda f: f.with_columns(value=pl.lit("many")), {}, ["'value'", "String"]),
        (lambda f: f.with_columns(date=pl.lit("2020-13-01")), {}, ["date", "YYYY-MM-DD"]),
        (lambda f: f.with_columns(date=pl.lit(20201301)), {}, ["date", "YYYYMMDD"]),
        (lambda f: f.with_columns(date=pl.lit(1.5)), {}, ["'date'", "1.5", "YYYY-MM-DD"]),
        (lambda f: f.with_columns(date=pl.lit(True)), {}, ["'date'", "Boolean"]),
        (lambda f: shifted(f, "code", None), {}, ["no code"]),
        (lambda f: f.with_columns(code=pl.lit(1.5)), {}, ["'code'", "Float64"]),
        (lambda f: f.rename({"date": "day"}), {}, ["'date'", "day"]),
        (lambda f: f[:0], {}, ["no row"]),
        (lambda f: f, {"features": ["sise"]}, ["'sise'", "size"]),
        (lambda f: f, {"features": []}, ["--features"]),
        (lambda f: f, {"targets": []}, ["--targets"]),
        (lambda f: f, {"features": ["y_1"]}, ["--features", "y_1"]),
        (lambda f: f, {"targets": ["size"], "features": ["value"]}, ["--horizons", "size"]),
        (lambda f: f, {"horizons": [1]}, ["--horizons", "2 columns"]),
        (lambda f: f, {"start": "2030-01-01"}, ["no row"]),
        (lambda f: f, {"start": "soon"}, ["--start", "YYYY-MM-DD"]),
        (lambda f: f, {"start": "2020-02-01", "end": "2020-01-01"}, ["--end"]),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(tmp_path, change, options, words):
    change(table(n_codes=8)).write_parquet(tmp_path / "p.parquet")
    with pytest.raises(InputError) as caught:
        build(tmp_path / "p.parquet", tmp_path / "cache", **options)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["p.parquet"]


def test_files_that_cannot_be_read(tmp_path):
    good = tmp_path / "good.parquet"
    table().write_parquet(good)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(good.read_bytes()[:-100])
    empty = tmp_path / "empty.csv"
    empty.touch()
    text = tmp_path / "words.csv"
    text.write_text("date,code,size,value,count,y_1,y_5\n2020-01-01,a,1,many,1,1,1\n")
    other = tmp_path / "panel.xlsx"
    other.touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    for source in (broken, empty, text, other, folder, tmp_path / "missing"):
        with pytest.raises(InputError, match=source.name) as caught:
            build([good, source] if source != text else source, tmp_path / "cache")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_float16_keeps_what_it_can(tmp_path):
    frame = table().with_columns(value=pl.lit(0.1))  # a constant loses nothing that could be ranked
    frame.write_parquet(tmp_path / "p.parquet")
    build(tmp_path / "p.parquet", tmp_path / "cache", dtype="float16")
    found = contents(tmp_path / "cache")
    for key, (x, _) in expected(frame).items():
        np.testing.assert_array_equal(np.array(x, np.float32).astype(np.float16), found[key][0])


def test_a_killed_build_leaves_the_old_cache(tmp_path):
    """SIGKILL while the rows are being written."""
    table().write_parquet(tmp_path / "p.parquet")
    build(tmp_path / "p.parquet", tmp_path / "cache")
    before = contents(tmp_path / "cache")
    program = """
import sys, time
from pathlib import Path
from loaders.cache import build
from loaders.cache.recipes import columns
fill = columns.fill
def stuck(*arguments):
    fill(*arguments)
    print("filled", flush=True)
    time.sleep(600)
columns.fill = stuck
source, out = map(Path, sys.argv[1:])
build.build("columns", [source], out, {"features": ["size"], "targets": ["y_1"], "dtype": "float32"})
"""
    for out in (tmp_path / "cache", tmp_path / "new"):
        arguments = [sys.executable, "-c", program, str(tmp_path / "p.parquet"), str(out)]
        child = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "filled\n"
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    assert contents(tmp_path / "cache") == before
    assert not (tmp_path / "new").exists()
