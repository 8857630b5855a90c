"""Splits by date: what was asked for, and nothing crosses a border."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaders.errors import InputError
from loaders.split import gap_days, split_by_date, split_by_fraction, walk_forward, walk_forward_by_year

CALENDAR = np.busday_offset("2010-01-04", np.arange(1000), "forward")


@given(
    st.integers(1, 60), st.lists(st.integers(1, 30), min_size=1, max_size=3), st.floats(0.1, 0.3), st.floats(0.1, 0.3)
)
def test_no_label_and_no_context_crosses(context, horizons, valid, test):
    split = split_by_fraction(CALENDAR, valid, test, gap_days(context, horizons, 0))
    for earlier, later in ((split.train, split.valid), (split.valid, split.test)):
        assert earlier.stop - 1 + max(horizons) <= later.start  # a label ends on that day's close at the latest
        assert later.start - (context - 1) >= earlier.stop
    assert split.train.start == 0
    assert split.test.stop == len(CALENDAR)


def test_dates_are_the_ones_asked_for():
    split = split_by_date(CALENDAR, "2011-01-01", "2012-02-01", "2012-12-31", 19)
    assert CALENDAR[split.valid.start] == np.datetime64("2011-01-03")  # the first trading day after
    assert CALENDAR[split.test.start] == np.datetime64("2012-02-01")
    assert CALENDAR[split.test.stop - 1] == np.datetime64("2012-12-31")
    assert split.train.stop == split.valid.start - 19
    assert split.valid.stop == split.test.start - 19
    assert split_by_date(CALENDAR, "2011-01-01", "2012-02-01", None, 19).test.stop == len(CALENDAR)


def test_walk_forward_folds_follow_one_another():
    folds = walk_forward(CALENDAR, 4, valid=0.1, test=0.15, gap=20)
    assert len(folds) == 4
    assert folds[-1].test.stop == len(CALENDAR)
    for fold in folds:
        assert len(fold.test) == 150
        assert fold.train.start == 0
        assert fold.train.stop + 20 == fold.valid.start
        assert fold.valid.stop + 20 == fold.test.start
    for a, b in itertools.pairwise(folds):
        assert a.test.stop == b.test.start


@given(st.integers(1, 5), st.floats(0.05, 0.15), st.floats(0.05, 0.15), st.integers(1, 60))
def test_rolling_folds_differ_from_expanding_ones_in_their_first_training_day_alone(folds, valid, test, gap):
    try:
        expanding = walk_forward(CALENDAR, folds, valid, test, gap)
    except InputError:
        with pytest.raises(InputError):
            walk_forward(CALENDAR, folds, valid, test, gap, rolling=True)
        return
    rolling = walk_forward(CALENDAR, folds, valid, test, gap, rolling=True)
    assert rolling[0] == expanding[0]
    for a, b in zip(rolling, expanding, strict=True):
        assert (a.valid, a.test, a.train.stop) == (b.valid, b.test, b.train.stop)
        assert len(a.train) == len(rolling[0].train)


@pytest.mark.parametrize(
    ("dates", "words"),
    [
        (("soon", "2012-01-01", None), "split.valid_start"),
        (("2011-01-01", "2012-13-01", None), "split.test_start"),
        (("2010-01-04", "2012-01-01", None), "train part is empty"),
        (("2012-01-01", "2012-01-05", None), "valid part is empty"),
        (("2012-01-01", "2011-01-01", None), "valid part is empty"),
        (("2012-01-01", "2030-01-01", None), "test part is empty"),
        (("2011-01-01", "2012-01-01", "2011-06-01"), "test part is empty"),
    ],
)
def test_parts_that_cannot_be(dates, words):
    with pytest.raises(InputError, match=words):
        split_by_date(CALENDAR, *dates, gap=19)


def test_too_many_folds_and_unknown_parts():
    with pytest.raises(InputError, match="empty"):
        walk_forward(CALENDAR, 8, valid=0.1, test=0.15, gap=20)
    with pytest.raises(InputError, match="nope"):
        split_by_fraction(CALENDAR, 0.2, 0.2, 5).part("nope")


def test_folds_by_year_test_a_calendar_year_each():
    days = np.busday_offset("2001-03-01", np.arange(2500))  # into 2010
    for rolling in (False, True):
        folds = walk_forward_by_year(days, 4, 20, rolling)
        lengths = set()
        for fold, year in zip(folds, (2007, 2008, 2009, 2010), strict=True):
            test, valid, train = (
                [str(days[i]) for i in (p.start, p.stop - 1)] for p in (fold.test, fold.valid, fold.train)
            )
            of_year = days[days.astype("datetime64[Y]") == np.datetime64(str(year))]
            assert test == [str(of_year[0]), str(of_year[-1])]
            assert valid[0] == str(np.busday_offset(f"{year - 2}-01-01", 0, "forward"))
            assert fold.valid.stop == fold.test.start - 20
            assert fold.train.stop == fold.valid.start - 20
            lengths.add(len(fold.train))
            assert rolling or train[0] == "2001-03-01"
        assert (len(lengths) == 1) == rolling
    with pytest.raises(InputError, match="10 years"):
        walk_forward_by_year(days, 11, 20)
    with pytest.raises(InputError, match="train part is empty"):
        walk_forward_by_year(days, 10, 20)
