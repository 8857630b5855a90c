"""A frame gives the very cache that the same rows give as Parquet; what cannot be taken is refused by name."""

import datetime
import sys

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import engine
from engine import InputError, append_cache, build_cache
from loaders.cache.build import build
from loaders.cache.format import verify
from loaders.cache.sources.frames import as_frame

DAYS = np.busday_offset("2020-01-01", np.arange(40), "forward")
SETTINGS = {"features": ["size", "value", "count", "flag"], "targets": ["y_1", "y_5"]}


def rows(n_codes=30, seed=0):
    """A panel with gaps, missing values and mixed types, in random order."""
    rng = np.random.default_rng(seed)
    code, day = np.nonzero(rng.random((n_codes, len(DAYS))) < 0.9)
    n = len(code)
    frame = pl.DataFrame(
        {
            "date": DAYS[day],
            "code": [f"c{i:02d}" for i in code],
            "size": rng.standard_normal(n).astype(np.float32),
            "value": pl.Series(np.where(rng.random(n) < 0.1, np.nan, rng.standard_normal(n)), nan_to_null=True),
            "count": pl.Series(rng.integers(0, 100, n)).scatter([3, 50], [None, None]),
            "flag": rng.random(n) < 0.5,
            "y_1": rng.standard_normal(n),
            "y_5": pl.Series(rng.standard_normal(n), dtype=pl.Float32),
        }
    )
    return frame.sample(fraction=1, shuffle=True, seed=seed)


def as_pandas(frame):
    plain = frame.to_pandas()
    plain["date"] = pd.to_datetime(plain["date"])
    return plain


FRAMES = {
    "polars": lambda f: f,
    "polars, lazy": lambda f: f.lazy(),
    "polars in pieces": lambda f: pl.concat([f[:100], f[100:]], rechunk=False),
    "pyarrow": lambda f: f.to_arrow(),
    "a stream of pyarrow": lambda f: pa.RecordBatchReader.from_batches(
        f.to_arrow().schema, f.to_arrow().to_batches(97)
    ),
    "duckdb": lambda f: duckdb.from_arrow(f.to_arrow()),
    "pandas": as_pandas,
    "pandas, codes as objects": lambda f: as_pandas(f).astype({"code": object}),
    "pandas, codes as categories": lambda f: as_pandas(f).astype({"code": "category"}),
    "pandas, nanoseconds": lambda f: as_pandas(f).astype({"date": "datetime64[ns]"}),
    "pandas, a zone": lambda f: as_pandas(f).assign(date=lambda d: d["date"].dt.tz_localize("Asia/Tokyo")),
    "pandas, date objects": lambda f: as_pandas(f).assign(date=lambda d: d["date"].dt.date),
    "pandas, nullable integers": lambda f: as_pandas(f).astype({"count": "Int64", "flag": "boolean"}),
    "pandas, rows left out": lambda f: pd.concat([as_pandas(f).head(0), as_pandas(f)]).sort_values("size"),
    "pandas, named index": lambda f: as_pandas(f).set_index(["date", "code"]),
    "pandas, index without names": lambda f: as_pandas(f).set_index(["date", "code"]).rename_axis([None, None]),
    "pandas, an index that is a column, too": lambda f: as_pandas(f).set_index("date", drop=False),
    "a list of both": lambda f: [f[:200], as_pandas(f[200:])],
}


@pytest.fixture(scope="module")
def of_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("file")
    rows().write_parquet(folder / "rows.parquet")
    return build("columns", [folder / "rows.parquet"], folder / "cache", SETTINGS), folder / "cache"


@pytest.mark.parametrize("kind", FRAMES)
def test_the_cache_of_a_frame_is_that_of_its_rows_in_a_file(kind, of_file, tmp_path):
    manifest, folder = of_file
    panel = build_cache(FRAMES[kind](rows()), tmp_path / "cache", tell=None, **SETTINGS)
    assert panel.manifest == manifest
    for name in ("panel.arrow", "rows.npy"):
        assert (tmp_path / "cache" / name).read_bytes() == (folder / name).read_bytes()
    verify(tmp_path / "cache")


def test_integer_codes_of_every_kind(tmp_path):
    frame = rows().with_columns(pl.col("code").str.slice(1).cast(pl.Int64))
    plain = as_pandas(frame)
    kinds = [frame, plain, plain.astype({"code": "category"}), plain.astype({"code": "Int32"})]
    built = [build_cache(kind, tmp_path / str(i), tell=None, **SETTINGS) for i, kind in enumerate(kinds)]
    assert built[0].codes[:2] == ["0", "1"]
    assert len({panel.manifest.cache_id for panel in built}) == 1


def test_a_path_and_lists_of_paths(of_file, tmp_path):
    manifest, folder = of_file
    frame = rows()
    frame[:300].write_parquet(tmp_path / "a.parquet")
    frame[300:].write_parquet(tmp_path / "b.parquet")
    source = folder.parent / "rows.parquet"
    for i, given in enumerate([str(source), [source], [tmp_path / "a.parquet", frame[300:]]]):
        assert build_cache(given, tmp_path / f"cache{i}", tell=None, **SETTINGS).manifest == manifest


def test_rows_of_arrow_are_not_copied():
    frame = rows().rechunk()
    for given in (frame, frame.to_arrow()):
        found = as_frame(given).rows.collect()
        for name in ("size", "y_1"):
            assert found[name].to_numpy(allow_copy=False).ctypes.data == frame[name].to_numpy().ctypes.data


def bars(n_codes=25, seed=1):
    rng = np.random.default_rng(seed)
    close = 20 * np.exp(np.cumsum(0.02 * rng.standard_normal((len(DAYS), n_codes)), 0))
    names = [f"s{i:02d}" for i in range(n_codes)]
    wide = {"open": close, "high": close * 1.01, "low": close * 0.99, "close": close, "volume": close * 1e5}
    long = {name: values.ravel() for name, values in wide.items()}
    return pl.DataFrame({"Date": np.repeat(DAYS, n_codes), "Ticker": names * len(DAYS)} | long)


def test_bars_with_delisting_returns_as_a_frame(tmp_path):
    frame = bars().filter((pl.col("Ticker") != "s03") | (pl.col("Date") < DAYS[30]))
    returns = pl.DataFrame({"code": ["s03"], "date": DAYS[30:31], "return": [-0.4]})
    frame.write_parquet(tmp_path / "bars.parquet")
    returns.write_csv(tmp_path / "returns.csv")
    settings = {"horizons": [1, 5], "min_price": 1.0}
    files = {"delisting_returns": tmp_path / "returns.csv"} | settings
    manifest = build("ohlcv", [tmp_path / "bars.parquet"], tmp_path / "file", files)
    lines: list[str] = []
    given = {"delisting_returns": returns.to_pandas()} | settings
    panel = build_cache(frame.to_pandas(), tmp_path / "frame", recipe="ohlcv", tell=lines.append, **given)
    assert panel.manifest == manifest
    assert manifest.counts["targets_completed"] > 0
    assert any("'Ticker' is read as the code" in line for line in lines)


def test_settings_in_the_forms_of_python(tmp_path):
    frame = rows().rename({"size": "Size "})
    panel = build_cache(
        frame, tmp_path / "cache", tell=None, features="count, big", targets=("y_1", "y_5"), rename={"Size": "big"},
        horizons=np.array([1, 5]), start=datetime.date(2020, 1, 6), end=pd.Timestamp("2020-02-14"), dtype="float32",
    )  # fmt: skip
    assert panel.features == ["count", "big"]
    assert panel.manifest.calendar[0] == "2020-01-06"
    assert panel.manifest.calendar[-1] == "2020-02-14"


REFUSED = {
    "a column that is not there": (lambda f: f.drop("code").to_pandas(), {}, ["pandas DataFrame", "code", "code="]),
    "two frames": (lambda f: [f, f.drop("date")], {}, ["polars DataFrame 2", "no column 'date'"]),
    "a value": (
        lambda f: f.with_columns(pl.when(pl.col("code") == "c07").then(np.inf).otherwise("size").alias("size")), {},
        ["polars DataFrame", "size", "c07", "infinite"],
    ),
    "a date": (
        lambda f: f.with_columns(pl.col("date").cast(pl.String).str.replace("2020-01-03", "03.01.2020")), {},
        ["polars DataFrame", "03.01.2020"],
    ),
    "two rows": (lambda f: pl.concat([f, f[5:6]]), {}, ["polars DataFrame", "two rows"]),
    "an object column of two types": (
        lambda f: as_pandas(f).assign(size=["x", 1.5] * (f.height // 2) + [1] * (f.height % 2)), {},
        ["pandas DataFrame", "size"],
    ),
    "an unnamed index of integers": (
        lambda f: as_pandas(f).assign(code=lambda d: d["code"].str[1:].astype(int)).set_index(["date", "code"])
        .rename_axis([None, None]), {},
        ["pandas DataFrame", "no column 'code'"],
    ),
    "months of pandas": (
        lambda f: as_pandas(f).assign(date=lambda d: d["date"].dt.to_period("M")), {}, ["pandas DataFrame", "period"],
    ),
    "no frame": (lambda f: 5, {}, ["int is neither a path nor a frame"]),
    "nothing": (lambda f: [], {}, ["empty"]),
    "an unknown setting": (lambda f: f, {"feature": ["size"]}, ["feature=", "does not take it"]),
    "a setting of another recipe": (lambda f: f, {"min_price": 3}, ["min_price=", "does not take it"]),
    "a setting of another type": (lambda f: f, {"min_codes": "few"}, ["min_codes=", "'few'"]),
    "another dtype": (lambda f: f, {"dtype": "float64"}, ["dtype=", "float16"]),
    "another recipe": (lambda f: f, {"recipe": "none"}, ["recipe=", "columns, ohlcv"]),
    "horizons": (lambda f: f, {"horizons": [1, 1]}, ["horizons=", "distinct"]),
    "a start": (lambda f: f, {"start": "soon"}, ["start=", "soon"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_is_refused_by_name(case, tmp_path):
    make, changes, expected = REFUSED[case]
    with pytest.raises(InputError) as refusal:
        build_cache(make(rows()), tmp_path / "cache", tell=None, **SETTINGS | changes)
    for text in expected:
        assert text in str(refusal.value)
    assert "--" not in str(refusal.value)
    assert not (tmp_path / "cache").exists()


def test_without_polars_the_cure_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "polars", None)
    calls = {
        "build_cache": lambda: build_cache("rows.parquet", tmp_path / "cache"),
        "evaluate": lambda: engine.evaluate("scores.parquet"),
        "ic": lambda: engine.ic("scores.parquet"),
    }
    for name, call in calls.items():
        with pytest.raises(
            InputError, match=rf"^{name}: polars is not installed\. pip install 'atft-engine\[build\]'$"
        ):
            call()


@pytest.mark.parametrize("kind", ["polars", "pandas"])
def test_days_of_a_frame_are_appended(tmp_path, kind):
    """To what a cache of all days has, bit for bit; a panel that was open keeps its rows."""
    every, as_given = rows(), FRAMES[kind]
    dates = every["date"].to_numpy()
    past, later = every.filter(dates < DAYS[30]), every.filter(dates >= DAYS[30])
    panel = build_cache(as_given(past), tmp_path / "cache", tell=None, **SETTINGS)
    before = panel.to_polars()
    known = panel.manifest.cache_id
    lines = []
    grown = append_cache(panel, as_given(later), tell=lines.append)
    rebuilt = build_cache(as_given(every), tmp_path / "all", tell=None, **SETTINGS)
    assert "10 days" in lines[-3]
    assert panel.manifest.cache_id == known
    assert panel.to_polars().equals(before)
    for name in ("panel.arrow", "rows.npy", "source.arrow"):
        assert (tmp_path / "cache" / name).read_bytes() == (tmp_path / "all" / name).read_bytes()
    assert grown.to_polars().equals(rebuilt.to_polars())
    with pytest.raises(InputError, match="there is no day after 2020-02-25"):
        append_cache(tmp_path / "cache", as_given(later), tell=None)
