"""Tuning never sees a day of the study's own test, and what is tested on days that it has seen says so.

A day is seen where it is trained or validated on, or where a label of such a day ends. The tests enumerate days.
"""

import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rich.console import Console

from engine.cli.app import main
from engine.config_file import config_hash, load, load_config
from engine.evaluation.evaluate import evaluate
from engine.score.predict import load_run
from engine.training.folds import fold_settings, train_folds
from engine.training.loop import train
from hpo.config import StudyConfig, Work
from hpo.results import BEST
from hpo.study import run_study, trial_folders
from hpo.trials.folds import study_folds
from loaders.errors import InputError
from loaders.panel import open_panel
from loaders.split import gap_days, split_by_date, split_by_fraction, tuning_folds, walk_forward
from tests.conftest import SMALL

QUIET = Console(quiet=True)
CALENDAR = np.busday_offset("2002-12-02", np.arange(3760), "forward")  # as long as NASDAQ's
WEEKDAYS = np.busday_offset("2010-01-04", np.arange(160), "forward")
SHORT = [*SMALL, "train.epochs=1", "train.blocks=4", "split.valid_fraction=0.1", "split.test_fraction=0.1"]

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:Heartbeat of storage:UserWarning"),
]


def seen_by(splits, longest):
    """Days that training and validation look at, with the days on which their labels end."""
    parts = [part for split in splits for part in (split.train, split.valid)]
    return {day for part in parts for day in range(part.start, part.stop + longest)}


def days_of(parts):
    return {day for part in parts for day in range(part.start, part.stop)}


@given(
    folds=st.integers(1, 8), valid=st.floats(0.02, 0.4), test=st.floats(0.02, 0.4), context=st.integers(1, 60),
    horizons=st.lists(st.integers(1, 30), min_size=1, max_size=3), days=st.integers(100, 1500), rolling=st.booleans(),
)  # fmt: skip
def test_no_day_of_tuning_lies_in_the_test(folds, valid, test, context, horizons, days, rolling):
    gap = gap_days(context, horizons, 0)
    try:
        base = split_by_fraction(CALENDAR[:days], valid, test, gap)
    except InputError:
        assume(False)
    try:
        splits = tuning_folds(base, folds, gap, rolling)
    except InputError:
        assert len(base.valid) * folds + gap >= base.valid.stop  # the first fold would train on nothing
        return
    assert len(splits) == folds
    assert not seen_by(splits, max(horizons)) & days_of([base.test])
    assert {split.test for split in splits} == {base.test}
    stretches = [day for split in splits for day in range(split.valid.start, split.valid.stop)]
    assert stretches == list(range(stretches[0], base.valid.stop))  # one after the other, to the end
    assert {len(split.valid) for split in splits} == {len(base.valid)}
    for split in splits:
        assert split.train.stop - 1 + max(horizons) < split.valid.start
        assert split.train.stop + context - 1 <= split.valid.start
        assert len(split.train) >= 1
        assert split.train.start == 0 or rolling
    if rolling:
        assert {len(split.train) for split in splits} == {len(splits[0].train)}
    if folds == 1:
        assert splits == [base]


def test_five_folds_of_nasdaq_see_no_test_day():
    gap = gap_days(20, [1, 5], 0)
    later = walk_forward(CALENDAR, 5, 0.1, 0.1, gap)  # `train --config best.toml --folds 5`
    tests = days_of(split.test for split in later)
    assert len(tests) == 1880
    validated_before = days_of(split.valid for split in later)  # when tuning had the same folds
    assert len(validated_before & tests) == 1428
    assert not seen_by(tuning_folds(later[0], 5, gap), 5) & tests
    single = split_by_fraction(CALENDAR, 0.1, 0.1, gap)
    assert not seen_by(tuning_folds(single, 5, gap), 5) & days_of([single.test])


def test_too_many_folds_are_refused():
    base = split_by_fraction(CALENDAR, 0.2, 0.2, 20)
    with pytest.raises(InputError, match=r"hpo\.folds.*fewer folds"):
        tuning_folds(base, 5, 20)


def study_config(cache, *settings):
    return load(StudyConfig, None, [*SHORT, *settings], str(cache))


@pytest.mark.parametrize("split", ["fractions", "dates", "folds", "a later fold"])
def test_the_folds_of_a_study_are_those_days_by_date(small_cache, split):
    settings = {
        "fractions": [],
        "dates": [f"split.valid_start={WEEKDAYS[100]}", f"split.test_start={WEEKDAYS[130]}",
                  f"split.test_end={WEEKDAYS[149]}"],
        "folds": ["split.folds=3"],
        "a later fold": ["split.folds=3", "split.fold=2"],
    }[split]  # fmt: skip
    base_of = {
        "fractions": lambda: split_by_fraction(WEEKDAYS, 0.1, 0.1, 7),
        "dates": lambda: split_by_date(WEEKDAYS, *(str(WEEKDAYS[day]) for day in (100, 130, 149)), 7),
        "folds": lambda: walk_forward(WEEKDAYS, 3, 0.1, 0.1, 7)[0],
        "a later fold": lambda: walk_forward(WEEKDAYS, 3, 0.1, 0.1, 7)[2],
    }[split]  # fmt: skip
    found = study_folds(study_config(small_cache, "hpo.folds=2", *settings), open_panel(small_cache))
    assert [fold.split for _, fold in found] == tuning_folds(base_of(), 2, 7)
    for config, fold in found:
        assert config.split.valid_start == str(WEEKDAYS[fold.split.valid.start])
        assert config.split.valid_end == str(WEEKDAYS[fold.split.valid.stop - 1])
        assert config.split.test_end == str(WEEKDAYS[fold.split.test.stop - 1])


@pytest.mark.parametrize("folds", [0, 2])
def test_trials_train_networks_alone(small_cache, folds):
    config = study_config(small_cache, f"hpo.folds={folds}", "trees.kind=lightgbm")
    assert {each.trees.kind for each, _ in study_folds(config, open_panel(small_cache))} == {"off"}


def test_the_last_day_of_validation(small_cache):
    dates = [str(WEEKDAYS[day]) for day in (100, 130)]
    assert split_by_date(WEEKDAYS, *dates, None, 7, valid_end=str(WEEKDAYS[110])).valid.stop == 111
    assert split_by_date(WEEKDAYS, *dates, None, 7, train_start=str(WEEKDAYS[50])).train.start == 50
    for day in (99, 123):  # before its first, and inside the gap
        with pytest.raises(InputError, match=r"split\.valid_end"):
            split_by_date(WEEKDAYS, *dates, None, 7, valid_end=str(WEEKDAYS[day]))
    with pytest.raises(InputError, match="valid_end needs"):
        load_config(None, ["split.valid_end=2011-01-01"])


@pytest.fixture(scope="module")
def study(small_cache, tmp_path_factory):
    """A study of one trial on two folds: its work, and Optuna's study."""
    work = Work(study_config(small_cache, "hpo.folds=2"), 1, tmp_path_factory.mktemp("tuned") / "out", "s", None)
    return work, run_study(work, 1, QUIET)


# Days of 160 with fractions of 0.1: the test is 144..159, validation 128..136, and before it another 9 days.
TUNED_UNTIL = str(WEEKDAYS[136])


def test_a_study_says_what_it_has_seen(study, small_cache):
    work, optuna_study = study
    best = load_config(work.folder / BEST, [])
    assert best.split.tuned_until == TUNED_UNTIL
    assert best.data.arrow == str(small_cache)
    assert optuna_study.user_attrs["days"] == {"first": str(WEEKDAYS[119]), "last": TUNED_UNTIL, "days": 18}
    folders = trial_folders(work, optuna_study.trials[0])
    test = [str(WEEKDAYS[144]), str(WEEKDAYS[159])]
    trained, validated = ((0, 111), (0, 120)), ((119, 127), (128, 136))
    assert [load_run(folder).state.split for folder in folders] == [
        {"train": [str(WEEKDAYS[day]) for day in train], "valid": [str(WEEKDAYS[day]) for day in valid], "test": test}
        for train, valid in zip(trained, validated, strict=True)
    ]
    found = evaluate(folders, "test", None, None)
    assert (found["days"]["test"]["first"], found["notes"]) == (test[0], [])


@pytest.mark.parametrize(("before", "after"), [(10, 136), (150, 150)])
def test_a_later_study_has_also_seen_what_an_earlier_one_saw(small_cache, tmp_path, before, after):
    config = study_config(small_cache, f"split.tuned_until={WEEKDAYS[before]}")  # without folds
    run_study(Work(config, 1, tmp_path / "out", "s", None), 1, QUIET)
    assert load_config(tmp_path / "out" / BEST, []).split.tuned_until == str(WEEKDAYS[after])


def test_the_own_test_of_a_study_is_out_of_sample(study, tmp_path):
    run = train(load_config(study[0].folder / BEST, []), tmp_path / "run", False, QUIET)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["days"]["test"]["first"] > TUNED_UNTIL
    assert summary["notes"] == []
    assert evaluate([run], "test", None, None)["notes"] == []


def test_a_test_on_days_that_tuning_saw_says_so(study, small_cache, tmp_path, monkeypatch, capsys):
    """Three folds of 16 test days, 112..159: tuning has seen 25 of them."""
    line = f"chosen with days until {TUNED_UNTIL}: 25 of 48 days are not out of sample"
    out = tmp_path / "folds"
    config = load_config(study[0].folder / BEST, fold_settings(3, False))
    train_folds(config, out, False, QUIET)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["days"] == {"test": {"first": str(WEEKDAYS[112]), "last": str(WEEKDAYS[159]), "days": 48}}
    assert [line in note for note in summary["notes"]] == [True]
    assert pq.read_schema(out / "scores.parquet").metadata[b"tuned_until"] == TUNED_UNTIL.encode()
    for path in (out, out / "scores.parquet"):
        assert [line in note for note in evaluate([path], "test", None, small_cache)["notes"]] == [True]
    for fold, count in enumerate(("16 of 16", "9 of 16", None)):
        notes = json.loads((out / f"fold-{fold}" / "summary.json").read_text())["notes"]
        assert evaluate([out / f"fold-{fold}"], "test", None, None)["notes"] == notes
        assert [f"{count} days are not out of sample" in note for note in notes] == ([] if count is None else [True])

    def shown(*arguments):
        monkeypatch.setattr(sys, "argv", ["atft-engine", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
        return capsys.readouterr().out

    assert line in shown("evaluate", out)
    assert line in shown("train", "--resume", "--out", out)
    assert "9 of 16 days are not" in shown("predict", out / "fold-1", "--out", tmp_path / "s.parquet")
    after = evaluate([out], "test", None, None, start=str(WEEKDAYS[137]))
    assert (after["days"]["span"]["first"], after["notes"]) == (str(WEEKDAYS[137]), [])


def test_a_study_of_other_days_is_another_study(study, small_cache):
    work, _ = study
    with pytest.raises(InputError, match="other days"):
        run_study(Work(study_config(small_cache, "hpo.folds=3"), 1, work.folder, "s", None), 1, QUIET)


def test_tuned_until_changes_no_figure(small_cache):
    one, other = (load_config(None, [f"split.tuned_until={day}"]) for day in ("2010-01-04", "2011-01-04"))
    assert config_hash(one) == config_hash(other) == config_hash(load_config(None, []))
    for bad in ("soon", "2010-13-01", "20100104"):
        with pytest.raises(InputError, match=r"split\.tuned_until"):
            load_config(None, [f"split.tuned_until={bad!r}"])
