"""Studies of rivals: their trials, a stop in the middle of a fit, and what best.toml gives `baseline`."""

import os
import signal

import pytest

import hpo.cli  # the command, for `run_command`
import hpo.trials.rival
from engine.config_file import load
from engine.errors import Stopped
from engine.rivals.baseline import Asked, baseline
from engine.rivals.options import RivalConfig
from engine.score.metrics import METRICS
from hpo.config import StudyConfig, Work
from hpo.space import fitting
from hpo.study import batch_size, run_study
from loaders.errors import InputError
from tests.hpo.test_study import rows
from tests.hpo.workers import QUIET

HELP = ["model.online_weight=0.2", "train.half_life=200", "lightgbm.trees=20", "lightgbm.patience=5"]


def work(cache, folder, kind, trials=4, more=()):
    given = [f"hpo.kind={kind}", "data.context=4", "split.valid_fraction=0.2", "split.test_fraction=0.2", *HELP, *more]
    return Work(fitting(load(StudyConfig, None, given, str(cache))), trials, folder, "s", None)


@pytest.mark.parametrize(("kind", "folds"), [("ridge", 0), ("ridge", 2), ("lightgbm", 0)])
def test_the_best_settings_give_a_baseline_with_the_trials_figure(cache, tmp_path, kind, folds):
    if kind != "ridge":
        pytest.importorskip(kind)
    study = run_study(work(cache, tmp_path / "out", kind, more=[f"hpo.folds={folds}"]), 1, QUIET)
    table = rows(tmp_path / "out")
    assert len(table) == 4
    assert len({row["value"] for row in table}) > 1
    best = load(RivalConfig, tmp_path / "out" / "best.toml", [])
    assert best.split.tuned_until is not None
    found = baseline(best, Asked(kind))
    if not folds:
        valid = [figures["rank_ic"] for figures in found.splits["valid"].values()]
        assert sum(valid) / len(valid) == pytest.approx(study.best_value, rel=1e-9)
    assert not [note for note in found.notes if "tuned" in note]  # the test begins after it


def test_several_metrics_are_those_of_the_validation_part(cache, tmp_path):
    study = run_study(work(cache, tmp_path / "out", "ridge", 1, ['hpo.metrics=["rank_ic", "ic"]']), 1, QUIET)
    valid = baseline(work(cache, tmp_path, "ridge").config, Asked("ridge")).splits["valid"]
    for name, value in zip(("rank_ic", "ic"), study.trials[0].values, strict=True):
        assert METRICS[name].maximised
        assert value == pytest.approx(sum(each[name] for each in valid.values()) / len(valid), rel=1e-9)


def test_a_stop_in_a_fit_costs_no_trial(cache, tmp_path, monkeypatch):
    """The same command goes on to the trials of an unbroken study."""
    unbroken = run_study(work(cache, tmp_path / "a", "ridge"), 1, QUIET)
    fit, count = hpo.trials.rival.fit_rival, []

    def stopped(*given):
        count.append(1)
        if len(count) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return fit(*given)

    monkeypatch.setattr(hpo.trials.rival, "fit_rival", stopped)
    with pytest.raises(Stopped, match="The same command resumes it"):
        run_study(work(cache, tmp_path / "b", "ridge"), 1, QUIET)
    study = run_study(work(cache, tmp_path / "b", "ridge"), 1, QUIET)
    complete = [trial for trial in study.trials if trial.values]
    assert [(t.params, t.values) for t in complete] == [(t.params, t.values) for t in unbroken.trials]


def test_a_package_that_is_missing_ends_in_a_line(cache, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "catboost", None)
    with pytest.raises(InputError, match="--kind catboost: not available"):
        run_study(work(cache, tmp_path / "out", "catboost", 1), 1, QUIET)
    assert not (tmp_path / "out").exists()  # no trial has failed


def test_rivals_are_fitted_one_at_a_time(cache, tmp_path):
    config = work(cache, tmp_path, "ridge").config
    assert batch_size("auto", config, 9) == batch_size("1", config, 9) == 1
    with pytest.raises(InputError, match="one trial at a time"):
        batch_size("2", config, 9)


def test_the_command_evaluates_the_best(cache, tmp_path, run_command):
    out = tmp_path / "out"
    options = [word for each in ("data.context=4", "split.valid_fraction=0.2") for word in ("--set", each)]
    code, shown, error = run_command(
        "hpo", "--arrow", cache, "--kind", "ridge", "--trials", "2", "--out", out, "--evaluate-best", *options
    )
    assert (code, error) == (0, "")
    best = load(RivalConfig, out / "best.toml", [])
    expected = baseline(best, Asked("ridge")).splits["test"]
    for figures in expected.values():
        assert f"{figures['rank_ic']:.4f}" in shown
    assert "ridge · test" in " ".join(shown.split())
