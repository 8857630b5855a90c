"""A rival that is fitted once more, to the validation days too: by what, and which days each fit scores."""

from dataclasses import replace

import numpy as np
import pytest

from engine.config import Trees
from engine.rivals.fit import fit_rival, part_scores
from engine.rivals.options import Help, Options
from engine.rivals.saved import Origin, load_rival, save_rival
from engine.score.cross_section import ranks_within_day
from tests.engine.rivals.test_fit import KINDS, SPLIT, needs, panel_in, samples
from tests.panels import rewritten

FEW = Trees(trees=30, patience=5, num_leaves=6, min_data_in_leaf=40, learning_rate=0.2)
HELP = Help(seeds=2, half_life=60, neutralize=0.3, refit=True)


def options(kind, **changes):
    return Options(help=replace(HELP, **changes), trees={kind: FEW}, risk_factors=2)


def contents(models):
    return [[model.content() for model in of_seeds] for of_seeds in models]


@pytest.mark.parametrize("kind", KINDS)
def test_the_chosen_fit_scores_validation_and_the_refit_later_days(tmp_path, kind):
    needs(kind)
    panel = panel_in(tmp_path / "panel", signal=1.0)
    plain, refitted = (fit_rival(panel, SPLIT, kind, options(kind, refit=on)) for on in (False, True))
    if kind != "catboost":  # whose files hold a time
        assert contents(refitted.chosen) == contents(plain.models) != contents(refitted.models)
    one, other = (part_scores(rival, panel, SPLIT) for rival in (plain, refitted))
    np.testing.assert_array_equal(one["valid"], other["valid"])
    assert not np.array_equal(one["test"], other["test"])
    if kind != "ridge":
        counts = [[[model.trees for model in of] for of in each] for each in (refitted.chosen, refitted.models)]
        assert counts[0] == counts[1]
    assert str(refitted.help).endswith("refitted with the validation days")
    path = tmp_path / "rival.safetensors"
    save_rival(path, refitted, panel, Origin(refitted.until))
    read, _ = load_rival(path, panel, Options())
    again = part_scores(read, panel, SPLIT)
    for part in ("valid", "test"):
        np.testing.assert_allclose(again[part], other[part], rtol=1e-6, atol=1e-7)
    assert read.help == refitted.help


@pytest.mark.parametrize("kind", KINDS)
def test_validation_targets_teach_the_refit_and_later_ones_do_not(tmp_path, kind):
    needs(kind)
    panel = panel_in(tmp_path / "panel", signal=1.0)
    day = np.arange(len(panel.targets)) - np.repeat(panel.offset - panel.first, panel.days)
    fits = [fit_rival(panel, SPLIT, kind, options(kind, seeds=1))]
    for name, changed in (("gap", (day >= 90) & (day < 100)), ("test", day >= SPLIT.valid.stop)):
        targets = np.where(changed[:, None], -panel.targets, panel.targets)
        other = rewritten(panel, tmp_path / name, targets=targets)
        fits.append(fit_rival(other, SPLIT, kind, options(kind, seeds=1)))
    base, gap, test = (part_scores(each, panel, SPLIT) for each in fits)
    np.testing.assert_array_equal(base["test"], test["test"])
    np.testing.assert_array_equal(base["valid"], gap["valid"])
    assert not np.array_equal(base["test"], gap["test"])  # days between the parts are learned from, too


def test_ridge_is_least_squares_on_both_parts(tmp_path):
    panel = panel_in(tmp_path)
    given = Options(help=Help(half_life=60, refit=True))
    rival = fit_rival(panel, SPLIT, "ridge", given)
    for horizon, (model,) in enumerate(rival.models):
        rows, day = samples(panel, SPLIT.refit().train, horizon)
        assert day.max() == SPLIT.valid.stop - 1
        x = panel.features[rows].astype(np.float64)
        for d in np.unique(day):
            x[day == d] -= x[day == d].mean(0)
        weight = 0.5 ** ((SPLIT.valid.stop - 1 - day) / 60)
        scale = np.sqrt((weight[:, None] * x**2).sum(0) / weight.sum())
        root = np.sqrt(weight)[:, None]
        penalty = rival.chosen[horizon][0].penalty
        stacked = np.vstack([root * x / scale, np.sqrt(weight.sum() * penalty) * np.eye(x.shape[1])])
        aims = np.concatenate([root[:, 0] * ranks_within_day(panel.targets[rows, horizon], day), np.zeros(x.shape[1])])
        np.testing.assert_allclose(model.coefficients, np.linalg.lstsq(stacked, aims, rcond=None)[0] / scale, rtol=1e-6)


def test_lightgbm_is_that_of_both_parts(tmp_path):
    """By the library itself, from samples that the test puts together."""
    package = pytest.importorskip("lightgbm")
    panel = panel_in(tmp_path, signal=1.0)
    rival = fit_rival(panel, SPLIT, "lightgbm", Options(help=Help(refit=True), trees={"lightgbm": FEW}))
    for horizon, (model,) in enumerate(rival.models):
        rows, day = samples(panel, SPLIT.refit().train, horizon)
        y = ranks_within_day(panel.targets[rows, horizon], day)
        parameters = {
            "objective": "regression", "learning_rate": 0.2, "num_leaves": 6, "max_bin": 63, "feature_fraction": 0.5,
            "bagging_fraction": 0.5, "bagging_freq": 1, "lambda_l2": 1.0, "min_data_in_leaf": 40, "metric": "None",
            "deterministic": True, "force_col_wise": True, "verbosity": -1, "seed": 0, "num_threads": 1,
        }  # fmt: skip
        x = panel.features[rows].astype(np.float32)
        trees = rival.chosen[horizon][0].trees
        booster = package.train(parameters, package.Dataset(x, y, params=parameters), trees)
        np.testing.assert_allclose(model.predict(x, day), booster.predict(x), rtol=1e-6, atol=1e-9)
