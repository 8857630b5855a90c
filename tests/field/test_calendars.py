"""What a calendar says of itself: dates a year, eras, and dates that only few codes hold.

Calendars are made by the standard library's datetime, so the number of their dates a year is known beforehand.
"""

import datetime

import numpy as np
import polars as pl
import pytest

from loaders.cache.build import build
from loaders.cache.format import read_manifest
from loaders.cache.shards import read_manifests
from loaders.cache.sources.calendar import held_by_few, period_of
from loaders.errors import InputError

HOLIDAYS = {(1, 1), (1, 20), (2, 17), (4, 10), (5, 25), (7, 3), (9, 7), (11, 26), (12, 25)}  # 9, as in New York


def days(start, years):
    first = datetime.date(*start)
    return [first + datetime.timedelta(n) for n in range(round(years * 365.25))]


def weekdays(start, years):
    return [day for day in days(start, years) if day.weekday() < 5 and (day.month, day.day) not in HOLIDAYS]


def every(weekday):
    return lambda start, years: [day for day in days(start, years) if day.weekday() == weekday]


def month_ends(start, years):
    """The last weekday of each month."""
    last = {(day.year, day.month): day for day in days(start, years) if day.weekday() < 5}
    return list(last.values())


def first_of(months):
    return lambda start, years: [day for day in days(start, years) if day.day == 1 and day.month in months]


CALENDARS = {
    "weekdays": (weekdays, "day", 252),
    "every day": (days, "day", 365),
    "Sunday to Thursday": (lambda s, y: [day for day in days(s, y) if day.weekday() not in (4, 5)], "day", 252),
    "Fridays": (every(4), "week", 52),
    "Sundays": (every(6), "week", 52),
    "month ends": (month_ends, "month", 12),
    "first of the month": (first_of(range(1, 13)), "month", 12),
    "quarters": (first_of((1, 4, 7, 10)), "other", 4),
    "years": (first_of((1,)), "other", 1),
}


def as_days(dates):
    return np.array(dates, "datetime64[D]")


@pytest.mark.parametrize("kind", CALENDARS)
@pytest.mark.parametrize(("start", "years"), [((2003, 5, 14), 12.3), ((2012, 1, 1), 4), ((2019, 3, 1), 2.6)])
def test_periods_a_year_come_from_the_calendar(kind, start, years):
    make, name, per_year = CALENDARS[kind]
    assert period_of(as_days(make(start, years))) == (name, per_year)


@pytest.mark.parametrize("kind", ["weekdays", "every day", "Fridays", "month ends", "first of the month"])
@pytest.mark.parametrize("years", [0.3, 0.6, 1.1])
def test_a_calendar_without_a_complete_year(kind, years):
    make, name, per_year = CALENDARS[kind]
    assert period_of(as_days(make((2019, 9, 2), years))) == (name, per_year)


def test_one_week_of_weekdays_is_no_calendar_of_every_day():
    assert period_of(as_days(["2020-01-06", "2020-01-07", "2020-01-08", "2020-01-09", "2020-01-10"])).per_year == 252


def test_a_gap_of_months_and_a_long_halt_change_nothing():
    dates = [
        day for day in weekdays((2003, 5, 14), 12.3) if not datetime.date(2008, 2, 1) < day < datetime.date(2009, 1, 5)
    ]
    assert period_of(as_days(dates)) == ("day", 252)


def test_dates_of_two_centuries_have_a_pace():
    assert period_of(as_days(["1970-01-01", "2116-02-20"])).per_year == pytest.approx(1 / 146.1, rel=0.01)


def test_another_pace_is_measured():
    dates = [day for day in days((2010, 1, 1), 6) if day.weekday() in (1, 3)]
    name, per_year = period_of(as_days(dates))
    assert name == "other"
    assert per_year == pytest.approx(104, abs=1)


@pytest.mark.parametrize(
    ("asked", "kind"), [("day", "weekdays"), ("day", "every day"), ("week", "Fridays"), ("month", "month ends")]
)
def test_a_stated_period_that_agrees(asked, kind):
    make, name, per_year = CALENDARS[kind]
    assert period_of(as_days(make((2010, 1, 1), 5)), asked) == (name, per_year)


@pytest.mark.parametrize(
    ("asked", "kind"), [("month", "weekdays"), ("day", "month ends"), ("week", "every day"), ("day", "Fridays")]
)
def test_a_stated_period_that_contradicts_is_refused_unless_its_pace_is_stated(asked, kind):
    calendar = as_days(CALENDARS[kind][0]((2010, 1, 1), 5))
    with pytest.raises(InputError, match=f"--period: {asked}, but the calendar has"):
        period_of(calendar, asked)
    assert period_of(calendar, asked, 100) == (asked, 100)


def test_the_number_a_year_can_be_stated():
    assert period_of(as_days(weekdays((2010, 1, 1), 5)), None, 244) == ("day", 244)
    for bad in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="--periods-per-year"):
            period_of(as_days(weekdays((2010, 1, 1), 5)), None, bad)
    with pytest.raises(InputError, match="'year' is not known"):
        period_of(as_days(weekdays((2010, 1, 1), 5)), "year")


def test_a_single_date():
    assert period_of(as_days(["2020-01-01"])) == ("other", None)
    assert period_of(as_days(["2020-01-01"]), "month") == ("month", 12)


def panel(dates, codes=40, seed=0):
    """Every code on every date, one feature."""
    n = len(dates)
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "date": np.repeat(np.array(dates, "datetime64[D]"), codes),
            "code": [f"C{i:03d}" for i in range(codes)] * n,
            "x": rng.standard_normal(n * codes),
            "y_1": rng.standard_normal(n * codes),
        }
    )


def built(table, folder, **settings):
    table.write_parquet(folder / "p.parquet")
    told = []
    build(
        "columns",
        [folder / "p.parquet"],
        folder / "cache",
        {"features": ["x"], "targets": ["y_1"]} | settings,
        told.append,
    )
    return read_manifest(folder / "cache"), " | ".join(told)


def test_the_build_tells_the_period(tmp_path):
    manifest, told = built(panel(month_ends((2010, 1, 1), 5)), tmp_path)
    assert "period month, periods per year 12" in told
    assert (manifest.period, manifest.periods_per_year) == ("month", 12)
    twice = [day for day in days((2010, 1, 1), 3) if day.weekday() in (1, 3)]
    assert "periods per year 104, as measured; --periods-per-year states it" in built(panel(twice, 3), tmp_path)[1]


def test_eras_are_told(tmp_path):
    table = panel(days((2010, 1, 1), 0.1), 5).with_columns(date=pl.format("era{}", pl.col("date").rank("dense") + 573))
    manifest, told = built(table, tmp_path, period="era")
    first = datetime.date(1900, 1, 1) + datetime.timedelta(574)
    assert manifest.calendar[0] == str(first)
    last = first + datetime.timedelta(len(manifest.calendar) - 1)
    assert f"eras 574 to {573 + len(manifest.calendar)} are read as {first} to {last}" in told
    assert "period era, periods per year not known" in told
    assert (manifest.period, manifest.periods_per_year) == ("era", None)
    assert "period era, periods per year 52" in built(table, tmp_path, period="era", periods_per_year=52.0)[1]


def with_saturdays(n=120):
    """The panel of the field: one code trades on Saturdays, too."""
    dates = weekdays((2015, 1, 1), 3)
    saturdays = [day for day in days((2015, 1, 1), 3) if day.weekday() == 5][:n]
    extra = panel(saturdays).filter(pl.col("code") == "C017")
    return pl.concat([panel(dates), extra]), dates, saturdays


def test_saturdays_of_one_code_are_told_with_date_and_code(tmp_path):
    table, dates, saturdays = with_saturdays()
    manifest, told = built(table, tmp_path)
    assert f"120 dates are held by 1 code (first {saturdays[0]} by C017)" in told
    assert "leave them out with --min-codes 2" in told
    assert len(manifest.calendar) == len(dates) + 120
    assert "period day, periods per year 252" in told  # metrics skip dates of few codes


def test_saturdays_of_one_code_are_left_out_on_request(tmp_path):
    table, dates, _ = with_saturdays()
    manifest, told = built(table, tmp_path, min_codes=2)
    assert manifest.calendar == [str(day) for day in dates]
    assert manifest.counts["dates_of_few_codes"] == manifest.counts["rows_on_dates_of_few_codes"] == 120
    assert manifest.rows == 40 * len(dates)
    assert "left out 120 dates of fewer than 2 codes, 120 rows" in told
    assert "held by" not in told
    clean = panel(dates)
    (tmp_path / "clean").mkdir()
    assert built(clean, tmp_path / "clean")[0].checksums == manifest.checksums


def test_shards_count_what_the_build_left_out_once(tmp_path):
    table, _, _ = with_saturdays()
    table.write_parquet(tmp_path / "p.parquet")
    settings = {"features": ["x"], "targets": ["y_1"], "min_codes": 2, "shards": 3}
    build("columns", [tmp_path / "p.parquet"], tmp_path / "cache", settings)
    whole = read_manifests(tmp_path / "cache")[-1]
    assert whole.counts["dates_of_few_codes"] == whole.counts["rows_on_dates_of_few_codes"] == 120
    assert (whole.period, whole.periods_per_year) == ("day", 252)


def test_a_code_that_trades_only_on_dates_left_out_is_gone(tmp_path):
    table, _, saturdays = with_saturdays(3)
    alone = panel(saturdays, 1).with_columns(code=pl.lit("ALONE"))
    manifest, _ = built(pl.concat([table, alone]), tmp_path, min_codes=3)
    assert "ALONE" not in manifest.codes
    assert manifest.counts["rows_on_dates_of_few_codes"] == 6


def test_more_codes_than_any_date_has_are_refused(tmp_path):
    with pytest.raises(InputError, match="--min-codes: no date has 41 codes, the most is 40"):
        built(panel(days((2010, 1, 1), 0.1)), tmp_path, min_codes=41)
    with pytest.raises(InputError, match="--min-codes: 0 is less than 1"):
        built(panel(days((2010, 1, 1), 0.1)), tmp_path, min_codes=0)


def test_a_panel_that_grows_shrinks_or_halts_is_not_blamed():
    n = 2000
    growing = np.minimum(1 + np.arange(n) // 4, 300)
    assert not held_by_few(growing).any()
    assert not held_by_few(growing[::-1]).any()
    listed_at_once = np.where(np.arange(n) < 700, 20, 3000)
    assert not held_by_few(listed_at_once).any()
    assert not held_by_few(np.ones(n, int)).any()


@pytest.mark.parametrize("run", [1, 2, 5])
def test_short_runs_of_few_codes_are_found(run):
    codes = np.full(400, 50)
    codes[200 : 200 + run] = 9
    codes[100] = 10  # a fifth is not less than a fifth
    codes[-1] = 3  # the last day, half delivered
    assert np.flatnonzero(held_by_few(codes)).tolist() == [*range(200, 200 + run), 399]
