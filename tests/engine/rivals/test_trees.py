"""Boosted trees: what they are fitted to, what stops them, and their settings, whichever library grows them."""

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr, zscore

from engine.config import Trees
from engine.rivals.fit import FITTED, fit_rival, run_baseline
from engine.rivals.options import Help, Options
from engine.rivals.samples import Problem
from engine.rivals.trees.data import GRADES, data_of
from loaders.errors import InputError
from tests.engine.rivals.test_fit import SPLIT, needs, panel_in, samples

LIBRARIES = ["lightgbm", "xgboost", "catboost"]
FEW = {"trees": 40, "patience": 10, "num_leaves": 6, "min_data_in_leaf": 40, "learning_rate": 0.2}


def options(kind, **changes):
    return Options(trees={kind: Trees(**(FEW | changes))})


def test_targets_are_ranks_z_scores_or_grades_of_their_day(tmp_path):
    panel = panel_in(tmp_path)
    problem = Problem(panel, SPLIT, 1, Options(help=Help(half_life=20)))
    rows, day = samples(panel, SPLIT.train, 1)
    y = panel.targets[rows, 1]
    found = {name: data_of(problem, "train", Trees(objective=name)) for name in ("rank", "huber", "lambdarank")}
    for d in np.unique(day):
        of_day, n = day == d, (day == d).sum()
        ranks = (rankdata(y[of_day]) - 0.5) / n
        np.testing.assert_allclose(found["rank"].target[of_day], ranks - 0.5, atol=1e-12)
        np.testing.assert_allclose(found["huber"].target[of_day], zscore(y[of_day].astype(np.float64)), rtol=1e-6)
        np.testing.assert_array_equal(found["lambdarank"].target[of_day], np.floor(ranks * GRADES))
    age = SPLIT.train.stop - 1 - day
    np.testing.assert_allclose(found["rank"].weight, 0.5 ** (age / 20), rtol=1e-12)
    np.testing.assert_array_equal(found["lambdarank"].groups, np.unique(day, return_counts=True)[1])
    assert data_of(problem, "valid", Trees()).weight is None


@pytest.mark.parametrize("objective", ["rank", "huber", "lambdarank"])
@pytest.mark.parametrize("kind", LIBRARIES)
def test_every_objective_finds_a_signal_in_silence(tmp_path, kind, objective, capfd):
    needs(kind)
    panel = panel_in(tmp_path, signal=1.0)
    scores = run_baseline(panel, SPLIT, kind, options(kind, objective=objective))["test"]
    assert mean_rank_ic(panel, SPLIT.test, scores[:, 0]) > 0.35
    assert capfd.readouterr() == ("", "")


def mean_rank_ic(panel, part, scores):
    from engine.score.rows import present_rows

    rows, day, _ = present_rows(panel, part)
    y = panel.targets[rows, 0]
    keep = (panel.presence[rows] == 2) & np.isfinite(y)
    return np.mean([spearmanr(scores[keep & (day == d)], y[keep & (day == d)])[0] for d in np.unique(day[keep])])


@pytest.mark.parametrize("kind", LIBRARIES)
def test_the_fit_stops_at_the_best_validation_rank_ic(tmp_path, kind):
    """Of all trees grown without stopping, the first so many have the best RankIC of validation."""
    needs(kind)
    panel = panel_in(tmp_path, signal=0.3)
    rows, day = samples(panel, SPLIT.valid, 0)
    problem = Problem(panel, SPLIT, 0, options(kind, patience=40))
    (fitted,) = FITTED[kind](problem, range(1))
    x = panel.features[rows].astype(np.float32)
    y = panel.targets[rows, 0]
    with_trees = {
        "lightgbm": lambda n: fitted.booster.predict(x, num_iteration=n),
        "xgboost": lambda n: fitted.booster.inplace_predict(x, iteration_range=(0, n)),
        "catboost": lambda n: fitted.booster.predict(x, ntree_end=n),
    }[kind]
    count = {
        "lightgbm": lambda: fitted.booster.best_iteration,
        "xgboost": lambda: fitted.booster.num_boosted_rounds(),
        "catboost": lambda: fitted.booster.tree_count_,
    }[kind]()
    figure = [
        np.mean([spearmanr(s[day == d], y[day == d])[0] for d in np.unique(day) if (day == d).sum() >= 20])
        for s in map(with_trees, range(1, count + 1))
    ]
    assert 1 <= count < 40
    assert int(np.argmax(figure)) + 1 == count
    np.testing.assert_array_equal(fitted.predict(x, day), with_trees(count))


@pytest.mark.parametrize("kind", LIBRARIES)
def test_seeds_differ_and_repeat(tmp_path, kind):
    needs(kind)
    panel = panel_in(tmp_path)
    problem = Problem(panel, SPLIT, 0, options(kind))
    x = panel.features[samples(panel, SPLIT.valid, 0)[0]].astype(np.float32)
    day = np.zeros(len(x), np.int64)
    first, second = (model.predict(x, day) for model in FITTED[kind](problem, range(3, 5)))
    (again,) = (model.predict(x, day) for model in FITTED[kind](problem, range(4, 5)))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(second, again)


def test_settings_reach_the_library(tmp_path):
    needs("lightgbm")
    panel = panel_in(tmp_path)
    rival = fit_rival(panel, SPLIT, "lightgbm", options("lightgbm", num_leaves=3, trees=2, stop="loss"))
    leaves = [line.count(" ") + 1 for line in leaf_values(rival.models[0][0])]
    assert 1 <= len(leaves) <= 2
    assert max(leaves) == 3


def trees_of(model):
    return model.booster.model_to_string().split("Tree=")[1:]


def leaf_values(model):
    return [line for tree in trees_of(model) for line in tree.splitlines() if line.startswith("leaf_value=")]


def test_days_too_broad_for_lambdarank_are_refused(tmp_path, monkeypatch):
    needs("lightgbm")
    from engine.rivals.trees import lightgbm

    monkeypatch.setattr(lightgbm, "MOST_OF_DAY", 30)
    with pytest.raises(InputError, match="lambdarank takes 30 samples a day"):
        fit_rival(panel_in(tmp_path), SPLIT, "lightgbm", options("lightgbm", objective="lambdarank"))
