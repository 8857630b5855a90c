"""Every accepted form of a date, and those that are refused, in caches and in score files alike.

The right dates come from the standard library's datetime, which writes each form; the engine only reads them.
"""

import datetime
import decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.score.files import read_scores
from loaders.cache.build import build
from loaders.cache.format import read_manifest
from loaders.cache.sources.dates import parse
from loaders.errors import InputError

DAYS = [datetime.date(2019, 12, 31), datetime.date(2020, 2, 29), datetime.date(2020, 3, 1), datetime.date(1969, 7, 20)]
TOKYO = datetime.timezone(datetime.timedelta(hours=9))


def text(form):
    return lambda day: day.strftime(form)


def noon(day, zone=None):
    return datetime.datetime(day.year, day.month, day.day, 12, 30, tzinfo=zone)


# form: (how the standard library writes a day, Arrow type)
FORMS = {
    "date32": (lambda day: day, pa.date32()),
    "date64": (lambda day: day, pa.date64()),
    "datetime s": (noon, pa.timestamp("s")),
    "datetime ms": (noon, pa.timestamp("ms")),
    "datetime us": (noon, pa.timestamp("us")),
    "datetime ns": (noon, pa.timestamp("ns")),
    "datetime Tokyo, the day before in UTC": (
        lambda day: noon(day, TOKYO) - datetime.timedelta(hours=12), pa.timestamp("us", "Asia/Tokyo")
    ),
    "datetime New York, the day after in UTC": (
        lambda day: noon(day, datetime.UTC) + datetime.timedelta(hours=14), pa.timestamp("ms", "America/New_York")
    ),
    "-": (text("%Y-%m-%d"), pa.string()),
    "/": (text("%Y/%m/%d"), pa.string()),
    ".": (text("%Y.%m.%d"), pa.string()),
    "YYYYMMDD": (text("%Y%m%d"), pa.string()),
    "blanks": (text("  %Y-%m-%d "), pa.string()),
    "large text": (text("%Y-%m-%d"), pa.large_string()),
    "T": (lambda day: noon(day).isoformat(), pa.string()),
    "space, no seconds": (text("%Y-%m-%d 16:00"), pa.string()),
    "slashes and time": (text("%Y/%m/%d 16:00:00"), pa.string()),
    "YYYYMMDD and time": (text("%Y%m%dT16:00:00"), pa.string()),
    "fractions": (text("%Y-%m-%d 23:59:59.999999999"), pa.string()),
    "Z": (text("%Y-%m-%dT23:30:00Z"), pa.string()),
    "zone": (lambda day: noon(day, TOKYO).isoformat(), pa.string()),
    "zone of hours": (text("%Y-%m-%d 00:00:00+00"), pa.string()),
    "categorical": (text("%Y-%m-%d"), pa.dictionary(pa.int8(), pa.string())),
    "categorical YYYYMMDD": (text("%Y%m%d"), pa.dictionary(pa.int32(), pa.string())),
    "int32": (lambda day: int(day.strftime("%Y%m%d")), pa.int32()),
    "uint64": (lambda day: int(day.strftime("%Y%m%d")), pa.uint64()),
    "whole float": (lambda day: float(day.strftime("%Y%m%d")), pa.float64()),
    "whole float as text": (text("%Y%m%d.0"), pa.string()),
    "decimal": (lambda day: decimal.Decimal(day.strftime("%Y%m%d")), pa.decimal128(10, 0)),
}  # fmt: skip


def write_panel(folder, column, codes=None):
    """A panel of one code with a feature and a target, beside the column of dates."""
    n = len(column)
    codes = codes or ["A"] * n
    table = pa.table({"date": column, "code": codes, "x": np.arange(n, dtype=float), "y_1": np.zeros(n)})
    pq.write_table(table, folder / "p.parquet")
    return folder / "p.parquet"


def calendar_of(folder, column, **settings):
    path = write_panel(folder, column)
    wanted = {"features": ["x"], "targets": ["y_1"], "dtype": "float32", "periods_per_year": 252} | settings
    build("columns", [path], folder / "cache", wanted)
    return read_manifest(folder / "cache").calendar


def write_scores(folder, column, codes=None):
    table = pa.table(
        {"date": column, "code": codes or ["A"] * len(column), "score_1": np.arange(len(column), dtype=float)}
    )
    pq.write_table(table, folder / "s.parquet")
    return folder / "s.parquet"


@pytest.mark.parametrize("form", FORMS)
def test_an_accepted_form_gives_the_day_that_was_written(tmp_path, form):
    write, kind = FORMS[form]
    column = pa.array([write(day) for day in DAYS], kind)
    assert calendar_of(tmp_path, column) == [str(day) for day in sorted(DAYS)]
    assert read_scores(write_scores(tmp_path, column)).date.tolist() == DAYS


@pytest.mark.parametrize("form", [form for form, (_, kind) in FORMS.items() if kind == pa.string()])
def test_csv_takes_the_same_texts(tmp_path, form):
    write, _ = FORMS[form]
    rows = "".join(f"{write(day)},A,1,0\n" for day in DAYS)
    (tmp_path / "p.csv").write_text("date,code,x,y_1\n" + rows)
    build("columns", [tmp_path / "p.csv"], tmp_path / "cache", {"features": ["x"], "targets": ["y_1"]})
    assert read_manifest(tmp_path / "cache").calendar == [str(day) for day in sorted(DAYS)]


REFUSED = [
    "31-12-19", "98-01-05", "31-12-2019", "31/12/2019", "12/31/2019", "2020-1-5", "2020-01/05", "2020-13-01",
    "2020-02-30", "20200230", "2019-02-29", "190102", "2020", "Jan 5, 2020", "2020-01-05 noon", "2020-01-05x",
    "1799-12-31", "2201-01-01", "0031-12-19", "+2020-01-05", "12020-01-05", "2020-06", "202006", "18284", "era5",
    "soon", "", 20201, 18284, 0, -20200101, 202006, 31129999, 17991231, 22010101, 1577836800, 1577836800000000000,
    20200101.5, 1.5, datetime.date(31, 12, 19), datetime.date(1799, 12, 31), datetime.date(2201, 1, 1), True,
]  # fmt: skip


@pytest.mark.parametrize("value", REFUSED, ids=str)
def test_another_form_is_refused_with_file_column_code_and_value(tmp_path, value):
    good = {str: "2020-01-02", int: 20200102, float: 20200102.0, datetime.date: DAYS[0], bool: True}[type(value)]
    column, codes = pa.array([good, value]), ["A", "B"]
    path, scores = write_panel(tmp_path, column, codes), write_scores(tmp_path, column, codes)
    with pytest.raises(InputError) as caught:
        build("columns", [path], tmp_path / "cache", {"features": ["x"], "targets": ["y_1"]})
    with pytest.raises(InputError) as caught_scores:
        read_scores(scores)
    shown = "" if isinstance(value, bool) else str(value)
    for error, where in ((caught.value, "p.parquet"), (caught_scores.value, "s.parquet")):
        assert where in str(error)
        assert "date" in str(error)
        assert shown in str(error)
        if not isinstance(value, bool):
            assert "row of B" in str(error)
        assert "\n" not in str(error)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("value", ["2020-06", 202006, "18284", 20201])
def test_the_refusal_tells_the_period_that_would_accept_it(tmp_path, value):
    with pytest.raises(InputError, match=r"--period (month|era)"):
        calendar_of(tmp_path, pa.array([value]))


@pytest.mark.parametrize("form", ["text", "date", "float", "nan"])
def test_missing_dates_are_counted_by_file(tmp_path, form):
    values = {
        "text": ["2020-01-01", None, None],
        "date": [DAYS[0], None, None],
        "float": [20200101.0, None, None],
        "nan": [20200101.0, float("nan"), float("nan")],
    }[form]
    column = pa.array(values)
    with pytest.raises(InputError, match=r"p\.parquet: 2 rows have no date in column 'date'"):
        calendar_of(tmp_path, column)
    with pytest.raises(InputError, match=r"s\.parquet: 2 rows have no date"):
        read_scores(write_scores(tmp_path, column))


@pytest.mark.parametrize(
    "values",
    [["2020-01", "2020-02", "2020-04"], ["2020/01", "2020/02", "2020/04"], ["202001", "202002", "202004"],
     [202001, 202002, 202004], [202001.0, 202002.0, 202004.0], ["2020-01-01", "2020-02-01", "2020-04-01"],
     [datetime.date(2020, 1, 1), datetime.date(2020, 2, 1), datetime.date(2020, 4, 1)]],
    ids=str,
)  # fmt: skip
def test_months(tmp_path, values):
    column = pa.array(values)
    assert calendar_of(tmp_path, column, period="month") == ["2020-01-01", "2020-02-01", "2020-04-01"]
    scores = read_scores(write_scores(tmp_path, column), "month")
    assert [str(day) for day in scores.date] == ["2020-01-01", "2020-02-01", "2020-04-01"]


@pytest.mark.parametrize(
    "values",
    [[1, 2, 12], [1.0, 2.0, 12.0], ["1", "2", "12"], ["0001", "0002", "0012"], ["era1", "era2", "era12"],
     ["Era 1", "era_2", "ERA-12"]],
    ids=str,
)  # fmt: skip
def test_eras(tmp_path, values):
    column = pa.array(values)
    expected = [str(datetime.date(1900, 1, 1) + datetime.timedelta(n)) for n in (1, 2, 12)]
    assert calendar_of(tmp_path, column, period="era") == expected
    assert [str(day) for day in read_scores(write_scores(tmp_path, column), "era").date] == expected


@pytest.mark.parametrize("value", ["2020-01-01", 20200101, "eraX", -1, 100_000, datetime.date(2020, 1, 1)], ids=str)
def test_what_is_no_era_is_refused(tmp_path, value):
    with pytest.raises(InputError, match="date"):
        calendar_of(tmp_path, pa.array([value]), period="era")


def test_start_and_end_take_the_same_forms(tmp_path):
    months = pa.array(["2020-01", "2020-02", "2020-03", "2020-04"])
    assert calendar_of(tmp_path, months, period="month", start="2020-02", end="202003") == ["2020-02-01", "2020-03-01"]
    assert calendar_of(tmp_path, pa.array([3, 4, 5]), period="era", start="4") == ["1900-01-05", "1900-01-06"]


def test_files_of_several_forms_make_one_calendar(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i, (day, (write, kind)) in enumerate(zip(DAYS * 8, FORMS.values(), strict=False)):
        column = pa.array([write(day)], kind)
        pq.write_table(pa.table({"date": column, "code": [f"c{i}"], "x": [1.0], "y_1": [0.0]}), folder / f"{i}.parquet")
    build("columns", [folder], tmp_path / "cache", {"features": ["x"], "targets": ["y_1"]})
    assert read_manifest(tmp_path / "cache").calendar == [str(day) for day in sorted(DAYS)]


def test_every_day_of_eight_centuries_reads_back():
    first, last = datetime.date(1800, 1, 1).toordinal(), datetime.date(2200, 12, 31).toordinal()
    days = [datetime.date.fromordinal(n) for n in range(first, last + 1)]
    assert [parse(day.isoformat()) for day in days] == days
    assert [parse(int(day.strftime("%Y%m%d"))) for day in days] == days
    assert parse(str(datetime.date.fromordinal(first - 1))) is parse(str(datetime.date.fromordinal(last + 1))) is None
