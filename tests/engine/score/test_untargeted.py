"""A panel without targets is scored like one with them, and refused where targets are needed."""

from dataclasses import replace

import numpy as np
import pytest

from engine.score.predict import load_run, predict_days
from loaders.errors import InputError
from loaders.panel import open_panel
from loaders.split import Days
from tests.panels import untargeted as without_targets


@pytest.fixture
def untargeted(small_cache, tmp_path):
    """The small cache without its targets."""
    return without_targets(open_panel(small_cache), tmp_path / "cache").folder


def test_scores_are_those_of_a_panel_with_targets(small_cache, small_run, untargeted):
    run = load_run(small_run)
    config = run.config.model_copy(update={"model": run.config.model.model_copy(update={"online_weight": 0.0})})
    run, days = replace(run, config=config), Days(100, 130)
    with_targets = predict_days(run, open_panel(small_cache), days, "test")
    without = predict_days(run, open_panel(untargeted), days, "test")
    assert np.array_equal(with_targets.rows, without.rows)
    assert list(without.values) == run.state.horizons == [1, 5]
    for h in run.state.horizons:
        assert np.array_equal(with_targets.values[h], without.values[h])


def test_the_online_regression_asks_for_targets(small_run, untargeted):
    with pytest.raises(InputError, match=r"no targets .*online regression .*online_weight=0"):
        predict_days(load_run(small_run), open_panel(untargeted), Days(100, 130), "test")


def test_commands_that_need_targets_refuse_in_one_line(small_run, untargeted, tmp_path, run_command):
    for command in (
        ["train", "--arrow", untargeted, "--out", tmp_path / "run"],
        ["baseline", "--arrow", untargeted],
        ["evaluate", small_run, "--arrow", untargeted],
    ):
        code, _, err = run_command(*command)
        assert code == 2
        assert "has no targets (--targets none)" in err
        assert err.count("\n") == 1
