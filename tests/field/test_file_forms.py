"""Folders as other tools leave them: each is read like one clean file, or what is left out is told.

The reference is one plain Parquet file of the same rows; the folders are written by pyarrow, gzip and the file system.
"""

import datetime
import gzip
import shutil

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from engine.cli.app import app
from loaders.cache.build import build
from loaders.cache.format import read_manifest
from loaders.errors import InputError
from loaders.panel import open_panel

FEATURES, TARGETS = ["size", "value"], ["y_1"]


def frame(n_codes=6, n_days=8, seed=0):
    rng = np.random.default_rng(seed)
    days = np.busday_offset("2020-01-01", np.arange(n_days), "forward")
    return pl.DataFrame(
        {
            "date": np.repeat(days, n_codes),
            "code": [f"c{i}" for i in range(n_codes)] * n_days,
            "size": rng.standard_normal(n_codes * n_days),
            "value": rng.integers(0, 9, n_codes * n_days).astype(float),
            "y_1": rng.standard_normal(n_codes * n_days),
        }
    )


def built(paths, out, **settings):
    """The cache's checksums, and what the build told."""
    told = []
    paths = paths if isinstance(paths, list) else [paths]
    wanted = {"features": FEATURES, "targets": TARGETS, "dtype": "float32", "transform": "none"} | settings
    manifest = build("columns", paths, out, wanted, told.append)
    return manifest, " | ".join(told)


def reference(tmp_path, table=None, **settings):
    table = frame() if table is None else table
    table.write_parquet(tmp_path / "reference.parquet")
    return built(tmp_path / "reference.parquet", tmp_path / "reference", **settings)[0]


def same(left, right):
    return (left.checksums, left.calendar, left.codes) == (right.checksums, right.calendar, right.codes)


def write_stream(table, path):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.to_arrow().schema) as writer:
        writer.write_table(table.to_arrow())


def write_zst(table, path):
    with pa.CompressedOutputStream(str(path), "zstd") as sink:
        sink.write(table.write_csv().encode())


WRITERS = {
    "p.parquet": lambda t, p: t.write_parquet(p),
    "p.PARQUET": lambda t, p: t.write_parquet(p),
    "p.pq": lambda t, p: t.write_parquet(p),
    "part-0.snappy.parquet": lambda t, p: t.write_parquet(p, compression="snappy"),
    "p.csv": lambda t, p: t.write_csv(p),
    "p.CSV": lambda t, p: t.write_csv(p),
    "p.csv.gz": lambda t, p: p.write_bytes(gzip.compress(t.write_csv().encode())),
    "p.Csv.GZ": lambda t, p: p.write_bytes(gzip.compress(t.write_csv().encode())),
    "p.csv.zst": write_zst,
    "p.arrow": lambda t, p: t.write_ipc(p),
    "p.ipc": lambda t, p: t.write_ipc(p),
    "p.Feather": lambda t, p: t.write_ipc(p, compression="lz4"),
    "stream.arrow": write_stream,
    "with bytes in front.csv": lambda t, p: p.write_bytes(b"\xef\xbb\xbf" + t.write_csv().encode()),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("given", ["file", "folder", "link", "linked folder"])
def test_every_kind_of_file_in_every_place(tmp_path, name, given):
    folder = tmp_path / "in"
    folder.mkdir()
    WRITERS[name](frame(), folder / name)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / f"to {name}").symlink_to(folder / name)
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "inner").symlink_to(folder)
    paths = {"file": folder / name, "folder": folder, "link": tmp_path / "links", "linked folder": tmp_path / "outer"}
    manifest, told = built(paths[given], tmp_path / "cache")
    assert same(manifest, reference(tmp_path))
    assert "left out" not in told


def test_links_in_a_circle_and_files_reached_twice(tmp_path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    frame().write_parquet(folder / "p.parquet")
    (folder / "latest.parquet").symlink_to("p.parquet")
    (folder / "deep" / "up").symlink_to(folder)
    (folder / "gone.parquet").symlink_to("nowhere.parquet")
    manifest, told = built([folder, folder / "p.parquet"], tmp_path / "cache")
    assert same(manifest, reference(tmp_path))
    assert "1 broken links (gone.parquet)" in told
    assert "reached twice (up, p.parquet, p.parquet)" in told


JUNK = {
    "hidden": ["._p.parquet", ".p.parquet.crc", "_SUCCESS", "_metadata", "_common_metadata", ".DS_Store"],
    "empty": ["void.parquet", "void.csv", "void.csv.gz"],
    "of another kind": ["notes.txt", "panel.xlsx", "state.json", "p.parquet.crc"],
}


@pytest.mark.parametrize("reason", JUNK)
def test_what_others_leave_in_a_folder_is_left_out_and_told(tmp_path, reason):
    folder = tmp_path / "in"
    folder.mkdir()
    frame().write_parquet(folder / "p.parquet")
    for name in JUNK[reason]:
        (folder / name).write_bytes(b"" if reason == "empty" else b"junk")
    manifest, told = built(folder, tmp_path / "cache")
    assert same(manifest, reference(tmp_path))
    n = len(JUNK[reason])
    assert f"left out {n} files: {n} {reason} ({', '.join(sorted(JUNK[reason])[:3])}" in told


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "_temporary", ".git"])
def test_hidden_folders_are_not_searched(tmp_path, name):
    folder = tmp_path / "in"
    (folder / name).mkdir(parents=True)
    frame().write_parquet(folder / "p.parquet")
    frame().write_parquet(folder / name / "p-checkpoint.parquet")
    manifest, told = built(folder, tmp_path / "cache")
    assert same(manifest, reference(tmp_path))
    assert f"left out 1 file: 1 hidden ({name})" in told


def test_files_without_rows_are_left_out(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    frame().write_parquet(folder / "p.parquet")
    frame()[:0].write_parquet(folder / "a.parquet")
    pl.DataFrame().write_parquet(folder / "b.parquet")
    frame()[:0].write_csv(folder / "c.csv")
    frame()[:0].write_ipc(folder / "d.arrow")
    (folder / "e.csv.gz").write_bytes(gzip.compress(b"date,code,size,value,y_1\n"))
    manifest, told = built(folder, tmp_path / "cache")
    assert same(manifest, reference(tmp_path))
    assert "left out 5 files: 5 without rows (a.parquet, b.parquet, c.csv, ...)" in told


@pytest.mark.parametrize("name", ["_delta_log", ".hoodie"])
def test_table_formats_with_removed_rows_are_refused(tmp_path, name):
    frame().write_parquet(tmp_path / "p.parquet")
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=r"removed rows"):
        built(tmp_path, tmp_path / "cache")


@pytest.mark.parametrize("columns", [["date"], ["code"], ["date", "code"], ["code", "date"]])
def test_hive_partitions(tmp_path, columns):
    table = frame().with_columns(pl.col("code").replace("c1", "B/R F=1"))
    pq.write_to_dataset(table.to_arrow(), tmp_path / "in", partition_cols=columns)
    manifest, _ = built(tmp_path / "in", tmp_path / "cache")
    assert same(manifest, reference(tmp_path, table))


def test_partitions_are_no_features_unless_named(tmp_path):
    table = frame().with_columns(year=2020, month=pl.col("date").dt.month())
    pq.write_to_dataset(table.to_arrow(), tmp_path / "in", partition_cols=["year", "month"])
    assert built(tmp_path / "in", tmp_path / "cache", features=["*"])[0].features == FEATURES
    named, _ = built(tmp_path / "in", tmp_path / "cache", features=["size", "month"])
    assert same(named, reference(tmp_path, table, features=["size", "month"]))


def test_a_partition_without_a_value_is_no_code(tmp_path):
    table = frame().with_columns(code=pl.when(pl.col("code") != "c1").then("code"))
    pq.write_to_dataset(table.to_arrow(), tmp_path / "in", partition_cols=["code"])
    with pytest.raises(InputError, match=r"8 rows have no code in column 'code', the first on 2020-01-01"):
        built(tmp_path / "in", tmp_path / "cache")


def split(tmp_path, *changes):
    """A folder of the frame's rows in as many files as there are changes, each changed."""
    folder = tmp_path / "in"
    folder.mkdir()
    table = frame()
    n = table.height // len(changes)
    for i, change in enumerate(changes):
        change(table[i * n : (i + 1) * n]).write_parquet(folder / f"{i}.parquet")
    return folder


def as_is(table):
    return table


def test_columns_of_nothing_take_the_type_of_the_others(tmp_path):
    nothing = pl.lit(None, pl.Null)
    folder = split(tmp_path, lambda t: t.with_columns(size=nothing), as_is)
    manifest, _ = built(folder, tmp_path / "cache")
    table = frame().with_columns(size=pl.when(pl.int_range(pl.len()) >= 24).then("size"))
    assert same(manifest, reference(tmp_path, table))
    assert [feature.missing for feature in manifest.source] == [0.5, 0]


@pytest.mark.parametrize("first", [0, 1])
def test_patterns_see_the_columns_of_all_files(tmp_path, first):
    changes = [lambda t: t.drop("value"), as_is]
    folder = split(tmp_path, changes[first], changes[1 - first])
    manifest, told = built(folder, tmp_path / "cache", features=["size", "v*"])
    lacking = (pl.int_range(pl.len()) >= 24) == (first == 1)
    table = frame().with_columns(value=pl.when(~lacking).then("value"))
    assert same(manifest, reference(tmp_path, table))
    assert (
        f"1 of 3 columns are not in all files, and are missing there: 'value' is not in {folder}/{first}.parquet"
        in told
    )


def test_types_that_differ_between_files_are_one(tmp_path):
    def whole(table):
        return table.with_columns(pl.col("value").cast(pl.Int64), pl.col("date").cast(pl.String))

    folder = split(tmp_path, whole, lambda t: t.with_columns(pl.col("value").cast(pl.UInt8)), as_is)
    assert same(built(folder, tmp_path / "cache")[0], reference(tmp_path))


def test_a_type_that_is_no_number_is_named_with_the_other(tmp_path):
    folder = split(tmp_path, as_is, lambda t: t.with_columns(value=pl.lit("many")))
    with pytest.raises(
        InputError, match=r"1\.parquet: column 'value' is String, no number; in .*0\.parquet it is Float64"
    ):
        built(folder, tmp_path / "cache")


@pytest.mark.parametrize("text", ["", " ", "NA", "N/A", "#N/A", "null", "NULL", "None", "nan", "NaN"])
def test_texts_of_no_number_are_missing(tmp_path, text):
    rows = f"2020-01-01,a,{text},1,0\n2020-01-01,b,2,1,0\n"
    (tmp_path / "p.csv").write_text("date,code,size,value,y_1\n" + rows)
    assert [feature.missing for feature in built(tmp_path / "p.csv", tmp_path / "cache")[0].source] == [0.5, 0]


@pytest.mark.parametrize("text", ["many", "1,5", "1.234.5", "5%", "$3", "--"])
def test_a_text_that_is_no_number_is_named(tmp_path, text):
    (tmp_path / "a.csv").write_text("date,code,size,value,y_1\n2020-01-01,a,1,1,0\n")
    (tmp_path / "b.csv").write_text(f'date,code,size,value,y_1\n2020-01-02,a,1,1,0\n2020-01-02,b,1,"{text}",0\n')
    with pytest.raises(InputError) as caught:
        built(tmp_path, tmp_path / "cache")
    for word in ("b.csv", "'value'", repr(text), "b on 2020-01-02"):
        assert word in str(caught.value)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_blank_lines_are_no_rows(tmp_path, end):
    lines = frame().write_csv().splitlines()
    (tmp_path / "p.csv").write_text(end.join([*lines[:9], "", *lines[9:], "", "", ""]), newline="")
    assert same(built(tmp_path / "p.csv", tmp_path / "cache")[0], reference(tmp_path))


def test_a_line_with_values_alone_is_no_blank_line(tmp_path):
    (tmp_path / "p.csv").write_text("date,code,size,value,y_1\n2020-01-01,a,1,1,0\n\n,,1,1,0\n")
    with pytest.raises(InputError, match="1 rows have no date in column 'date'"):
        built(tmp_path / "p.csv", tmp_path / "cache")


def test_blanks_around_names_are_cut(tmp_path):
    text = frame().write_csv()
    (tmp_path / "p.csv").write_text(text.replace("date,code,size,value,y_1", "date, code, size ,value, y_1"))
    assert same(built(tmp_path / "p.csv", tmp_path / "cache")[0], reference(tmp_path))
    (tmp_path / "p.csv").write_text(text.replace("size,value", "size, size"))
    with pytest.raises(InputError, match="columns ' size' and 'size' differ in blanks alone"):
        built(tmp_path / "p.csv", tmp_path / "cache")


def test_a_gzip_that_was_cut_is_named(tmp_path):
    rng = np.random.default_rng(0)
    lines = "".join(f"2020-01-01,c{i},{x},1,0\n" for i, x in enumerate(rng.standard_normal(20_000)))
    frame().write_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(f"date,code,size,value,y_1\n{lines}".encode())[:-40])
    with pytest.raises(InputError, match=r"b\.csv\.gz: cannot be read"):
        built(tmp_path, tmp_path / "cache")


def test_an_infinite_value_is_named(tmp_path):
    table = frame().with_columns(value=pl.when(pl.int_range(pl.len()) == 7).then(float("inf")).otherwise("value"))
    table.write_parquet(tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r"p\.parquet: column 'value' of c1 on 2020-01-02 is infinite"):
        built(tmp_path / "p.parquet", tmp_path / "cache")


def test_a_damaged_file_is_named_among_many(tmp_path):
    folder = split(tmp_path, as_is, as_is, as_is)
    (folder / "9.csv").write_text("date,code,size,value,y_1\n2021-01-01,a,1,1,0\n2021-01-01,b,1,1,0,7,7\n")
    with pytest.raises(InputError, match=r"9\.csv: cannot be read"):
        built(folder, tmp_path / "cache")


@pytest.mark.parametrize("named", [True, False])
def test_pandas_files_with_an_index_of_dates_and_codes(tmp_path, named):
    """As pandas writes a MultiIndex: levels behind the columns, unnamed ones as `__index_level_i__`."""
    levels = {"date": "__index_level_0__", "code": "__index_level_1__"}
    table = frame().select(*FEATURES, "y_1", "date", "code")
    table = table.with_columns(pl.col("date").cast(pl.Datetime("ns")))
    table.rename({} if named else levels).write_parquet(tmp_path / "p.parquet")
    manifest, _ = built(tmp_path / "p.parquet", tmp_path / "cache", features=["*"])
    assert same(manifest, reference(tmp_path))


def test_the_index_of_a_filtered_pandas_frame_is_no_feature(tmp_path):
    table = frame().with_columns(__index_level_0__=pl.int_range(pl.len()))
    table.write_parquet(tmp_path / "p.parquet")
    assert built(tmp_path / "p.parquet", tmp_path / "cache", features=["*"])[0].features == FEATURES


def bars(n_days=30):
    """Bars as Yahoo's files have them, split-adjusted; dividends are in the adjusted close alone."""
    rng = np.random.default_rng(1)
    close = 10 * np.exp(np.cumsum(0.01 * rng.standard_normal(n_days)))
    days = np.busday_offset("2020-01-01", np.arange(n_days), "forward")
    return pl.DataFrame(
        {
            "Date": days, "Open": close, "High": close * 1.01, "Low": close * 0.99, "Close": close,
            "Adj Close": close * np.where(np.arange(n_days) < 15, 0.9, 1), "Volume": np.full(n_days, 100),
        }
    )  # fmt: skip


def targets_of(folder):
    return np.asarray(open_panel(folder).targets)[:, 0]


@pytest.mark.parametrize("adjusted", [False, True])
def test_yahoo_names(tmp_path, adjusted):
    (tmp_path / "in" / "ticker=AAPL").mkdir(parents=True)
    bars().write_csv(tmp_path / "in" / "ticker=AAPL" / "AAPL.csv")
    told = []
    settings = {"horizons": [1], "rename": ["Adj Close=close"] if adjusted else []}
    build("ohlcv", [tmp_path / "in"], tmp_path / "cache", settings, told.append)
    close = bars()["Adj Close" if adjusted else "Close"].to_numpy().astype(np.float32).astype(float)
    np.testing.assert_allclose(targets_of(tmp_path / "cache")[:-1], close[1:] / close[:-1] - 1, atol=1e-6)
    assert read_manifest(tmp_path / "cache").codes == ["AAPL"]
    told = " | ".join(told)
    assert "column 'Date' is read as the date" in told
    assert "column 'Open' is read as 'open'" in told
    assert ("column 'Close' gives way to 'Adj Close'" in told) == adjusted
    assert ("column 'Close' is read as 'close'" in told) != adjusted


def test_renamed_dates_codes_and_features(tmp_path):
    table = frame().rename({"date": "Trade Day", "code": "RIC", "size": "a=b"[:1], "y_1": "forward"})
    table.write_parquet(tmp_path / "p.parquet")
    renames = ["Trade Day=date", "RIC = code", "a=size", "forward=y_1"]
    assert same(built(tmp_path / "p.parquet", tmp_path / "cache", rename=renames)[0], reference(tmp_path))


def test_renames_swap(tmp_path):
    frame().rename({"size": "value", "value": "size"}).write_parquet(tmp_path / "p.parquet")
    manifest, told = built(tmp_path / "p.parquet", tmp_path / "cache", rename=["size=value", "value=size"])
    assert same(manifest, reference(tmp_path))
    assert "gives way" not in told


@pytest.mark.parametrize(
    ("rename", "words"),
    [(["size"], "old=new"), (["=size"], "old=new"), (["sise=x"], "no file has a column 'sise'. They have size"),
     (["size=x", "value=x"], "Give each name once"), (["size=x", "size=z"], "Give each name once")],
)  # fmt: skip
def test_a_bad_rename_is_refused(tmp_path, rename, words):
    frame().write_parquet(tmp_path / "p.parquet")
    with pytest.raises(InputError, match="--rename") as caught:
        built(tmp_path / "p.parquet", tmp_path / "cache", rename=rename)
    assert words in str(caught.value)


def test_names_that_differ_in_case_alone_are_refused(tmp_path):
    bars().with_columns(close=1.0, CLOSE=2.0, code=pl.lit("A")).drop("close").write_parquet(tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r"'Close' and 'CLOSE' both may be 'close'. Choose one with --rename"):
        build("ohlcv", [tmp_path / "p.parquet"], tmp_path / "cache", {"code": "code"})


def test_a_bar_that_one_file_lacks_is_named(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    bars().with_columns(ticker=pl.lit("A")).write_parquet(folder / "a.parquet")
    bars().with_columns(ticker=pl.lit("B")).drop("Volume").write_parquet(folder / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet: no column 'volume'"):
        build("ohlcv", [folder], tmp_path / "cache", {})


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "p.csv").write_text("date,code,size,size,value,y_1\n2020-01-01,a,1,2,3,0\n")
    with pytest.raises(InputError, match="two columns are named 'size'"):
        built(tmp_path / "p.csv", tmp_path / "cache")


def test_a_folder_of_nothing_but_junk_says_so(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "_SUCCESS").touch()
    with pytest.raises(InputError, match=r"no data file; left out 1 file: 1 hidden \(_SUCCESS\)"):
        built(tmp_path / "in", tmp_path / "cache")


def test_a_spark_folder_as_a_whole(tmp_path):
    """What Spark writes, with checksums, a success mark, a part without rows, and a Mac's shadow of a part."""
    folder = tmp_path / "in"
    folder.mkdir()
    for day, table in frame().partition_by("date", as_dict=True).items():
        inside = folder / f"date={day[0]}"
        inside.mkdir()
        name = "part-00000-0f1e.c000.snappy.parquet"
        table.drop("date").write_parquet(inside / name)
        table.drop("date")[:0].write_parquet(inside / name.replace("00000", "00001"))
        (inside / f".{name}.crc").write_bytes(b"crc\0")
    (folder / "_SUCCESS").touch()
    (folder / "._SUCCESS.crc").write_bytes(b"crc\0")
    shutil.copy(folder / "date=2020-01-01" / name, folder / f"._{name}")
    manifest, told = built(folder, tmp_path / "cache")
    assert same(manifest, reference(tmp_path))
    assert manifest.calendar[0] == str(datetime.date(2020, 1, 1))
    assert "left out 19 files: 11 hidden" in told
    assert "8 without rows" in told


def test_the_command_line_takes_the_options(tmp_path):
    """Two renames, a period and its pace, and dates of few codes, as a user gives them."""
    table = frame().rename({"date": "Era", "code": "Id"}).with_columns(Era=pl.col("Era").rank("dense").cast(pl.Int64))
    late = table[:1].with_columns(Era=pl.lit(99, pl.Int64))
    pl.concat([table, late]).write_csv(tmp_path / "p.CSV")
    options = "--rename Era=date --rename Id=code --features size,value --targets y_1 --dtype float32 --transform none"
    options += " --period era --periods-per-year 52 --min-codes 2"
    arguments = ["cache", "build", tmp_path / "p.CSV", "--out", tmp_path / "cache", *options.split()]
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert "left out 1 dates of fewer than 2 codes, 1 rows" in result.output
    assert "period era, periods per year 52; eras 1 to 8 are read as 1900-01-02 to 1900-01-09" in result.output
    assert read_manifest(tmp_path / "cache").checksums == reference(tmp_path).checksums
