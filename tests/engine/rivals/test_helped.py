"""The help that rivals get, against float64 by definition; folds and saved rivals against single fits."""

import json

import numpy as np
import pytest
from scipy.stats import norm, rankdata

from engine.config import Trees
from engine.config_file import load
from engine.rivals.baseline import Asked, baseline
from engine.rivals.fit import fit_rival, run_baseline
from engine.rivals.options import Help, Options, Ridge, RivalConfig
from engine.rivals.saved import Origin, load_rival, save_rival
from engine.score.files import read_scores
from engine.score.online.features import online_scores, online_slopes
from engine.score.risk import moments_of, risk_directions
from engine.score.rows import present_rows
from loaders.errors import InputError
from loaders.panel import open_panel
from tests.engine.rivals.test_fit import SPLIT, needs, panel_in, samples
from tests.panels import cut

FEW = Trees(trees=10, num_leaves=6, min_data_in_leaf=40, learning_rate=0.2)
HELP = Help(seeds=3, half_life=40.0, online_weight=0.4, neutralize=0.5)


def test_scores_are_averaged_neutralised_and_joined_by_the_online_regression(tmp_path):
    needs("lightgbm")
    panel = panel_in(tmp_path)
    options = Options(help=HELP, trees={"lightgbm": FEW}, risk_factors=2)
    rival = fit_rival(panel, SPLIT, "lightgbm", options)
    found = rival.scores(panel, SPLIT.test)
    rows, day, _ = present_rows(panel, SPLIT.test)
    x, scored = panel.features[rows].astype(np.float64), panel.presence[rows] == 2
    directions = risk_directions(moments_of(panel, SPLIT.train), 2, [])
    slopes = online_slopes(panel, SPLIT.test, [])
    online = online_scores(panel, SPLIT.test, slopes, rival.neutral)
    for h, of_seeds in enumerate(rival.models):
        assert len(of_seeds) == 3
        every = np.stack([model.predict(x.astype(np.float32), day) for model in of_seeds], 1).astype(np.float64)
        expected = np.empty(len(rows))
        for d in np.unique(day):
            of_day = day == d
            of, s = x[of_day], every[of_day]
            u = scored[of_day]
            mean = ((s - s[u].mean(0)) / s[u].std(0)).mean(1)
            z = (of - of[u].mean(0)) / of[u].std(0)
            risks = z @ directions
            slope = np.linalg.lstsq(risks[u], mean[u], rcond=None)[0]
            expected[of_day] = mean - 0.5 * risks @ slope
        np.testing.assert_allclose(found[:, h], expected + 0.4 * online[:, h], atol=2e-4)


def test_without_help_scores_are_the_models_own(tmp_path):
    panel = panel_in(tmp_path)
    rival = fit_rival(panel, SPLIT, "ridge")
    rows, day, _ = present_rows(panel, SPLIT.test)
    own = rival.models[0][0].predict(panel.features[rows], day)
    np.testing.assert_allclose(rival.scores(panel, SPLIT.test)[:, 0], own, rtol=1e-6)


def test_ridge_with_a_half_life_is_weighted_least_squares(tmp_path):
    panel = panel_in(tmp_path)
    options = Options(help=Help(half_life=15))
    (model,) = fit_rival(panel, SPLIT, "ridge", options).models[0]
    x, y, day = centred(panel)
    w = 0.5 ** ((SPLIT.train.stop - 1 - day) / 15)
    scale = np.sqrt((w[:, None] * x**2).sum(0) / w.sum())
    solved = [
        np.linalg.lstsq(
            np.vstack([np.sqrt(w)[:, None] * x / scale, np.sqrt(w.sum() * a) * np.eye(6)]),
            np.concatenate([np.sqrt(w) * y, np.zeros(6)]), rcond=None,
        )[0] / scale
        for a in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    ]  # fmt: skip
    assert min(np.abs(model.coefficients - each).max() for each in solved) < 1e-9


def centred(panel, gaussian=False):
    rows, day = samples(panel, SPLIT.train, 0)
    x, y = panel.features[rows].astype(np.float64), np.empty(len(rows))
    for d in np.unique(day):
        of_day, n = day == d, (day == d).sum()
        y[of_day] = (rankdata(panel.targets[rows[of_day], 0]) - 0.5) / n - 0.5
        if gaussian:
            y[of_day] = norm.ppf(y[of_day] + 0.5)
            x[of_day] = norm.ppf((rankdata(x[of_day], axis=0) - 0.5) / n)
        x[of_day] -= x[of_day].mean(0)
    return x, y, day


def test_ridge_on_gaussian_ranks(tmp_path):
    panel = panel_in(tmp_path)
    options = Options(ridge=Ridge(gaussian=True))
    (model,) = fit_rival(panel, SPLIT, "ridge", options).models[0]
    x, y, _ = centred(panel, gaussian=True)
    scale = np.sqrt((x**2).mean(0))
    solved = [
        np.linalg.lstsq(
            np.vstack([x / scale, np.sqrt(len(x) * a) * np.eye(6)]), np.concatenate([y, np.zeros(6)]), rcond=None
        )[0]
        / scale
        for a in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    ]
    assert min(np.abs(model.coefficients - each).max() for each in solved) < 1e-9
    rows, day, _ = present_rows(panel, SPLIT.test)
    first = day == day[0]
    expected = norm.ppf((rankdata(panel.features[rows[first]], axis=0) - 0.5) / first.sum()) @ model.coefficients
    np.testing.assert_allclose(model.predict(panel.features[rows], day)[first], expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["ridge", "lightgbm", "xgboost", "catboost"])
def test_a_saved_rival_scores_later_days_as_it_would_have(tmp_path, kind):
    needs(kind)
    whole = panel_in(tmp_path / "whole")
    panel = cut(whole, tmp_path / "early", 0, 170)
    options = Options(help=HELP, trees={kind: FEW}, risk_factors=2)
    rival = fit_rival(panel, SPLIT, kind, options)
    path = tmp_path / "rival.safetensors"
    save_rival(path, rival, panel, Origin("2010-06-01"))
    read, origin = load_rival(path, whole, Options())
    assert origin == Origin("2010-06-01")
    np.testing.assert_array_equal(read.scores(whole, SPLIT.test), rival.scores(whole, SPLIT.test))
    path.write_bytes(path.read_bytes()[:-3] + b"xyz")
    with pytest.raises(InputError, match="damaged"):
        load_rival(path, whole, Options())


def test_a_saved_rival_says_where_it_comes_from(tmp_path):
    """Other settings are another model in the ledger, and a day that tuning has seen is told, when it is read too."""
    whole = panel_in(tmp_path / "whole")
    panel, path = cut(whole, tmp_path / "early", 0, 150), tmp_path / "rival.safetensors"
    found = {}
    for tuned in (None, str(whole.calendar[160])):
        for weight in ("0.1", "0.2"):
            given = ["data.context=4", f"model.online_weight={weight}"] + (
                [f"split.tuned_until={tuned}"] if tuned else []
            )
            baseline(load(RivalConfig, None, given, str(panel.folder)), Asked("ridge", save=path))
            later = load(RivalConfig, None, [], str(whole.folder))
            read = baseline(later, Asked("ridge", load=path, out=tmp_path / "scores.parquet"))
            assert [tuned in note for note in read.notes] == ([True] if tuned else [])
            metadata = read_scores(tmp_path / "scores.parquet").metadata
            assert metadata.get("tuned_until") == tuned
            found[tuned, weight] = metadata["run_id"]
    assert found[None, "0.1"] != found[None, "0.2"]


def test_a_rival_of_other_features_is_refused(tmp_path):
    panel, other = panel_in(tmp_path / "a"), panel_in(tmp_path / "b", horizons=(1, 2))
    save_rival(tmp_path / "r.safetensors", fit_rival(panel, SPLIT, "ridge"), panel, Origin("2010-06-01"))
    with pytest.raises(InputError, match="horizons"):
        load_rival(tmp_path / "r.safetensors", other, Options())


def config(folder, **split):
    return RivalConfig.model_validate(
        {"data": {"arrow": str(folder), "context": 4}, "model": {"online_weight": 0.4}, "split": split}
    )


def test_folds_are_fits_of_their_own(tmp_path):
    panel_in(tmp_path / "c")
    split = {"folds": 2, "valid_fraction": 0.1, "test_fraction": 0.15}
    found = baseline(config(tmp_path / "c", **split), Asked("ridge", walks=True, out=tmp_path / "s.parquet"))
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(tmp_path / "s.parquet").to_pydict()
    joined = dict(zip(zip(map(str, table["date"]), table["code"], strict=True), table["score_1"], strict=True))
    panel, seen = open_panel(tmp_path / "c"), 0
    for fold in range(2):
        alone = baseline(config(tmp_path / "c", **split, fold=fold), Asked("ridge", out=tmp_path / f"{fold}.parquet"))
        table = pyarrow.parquet.read_table(tmp_path / f"{fold}.parquet").to_pydict()
        for date, code, score in zip(table["date"], table["code"], table["score_1"], strict=True):
            assert joined[str(date), code] == score
            seen += 1
        assert alone.days["test"]["days"] == 27
    assert seen == len(joined)
    assert found.days["test"] == {"first": str(panel.calendar[126]), "last": str(panel.calendar[-1]), "days": 54}


def test_the_command_says_what_the_rival_got(tmp_path, run_command):
    panel_in(tmp_path / "c")
    given = ("--half-life", 30, "--online-weight", 0, "--neutralize", 0.2, "--seeds", 4, "--json")
    code, out, _ = run_command("baseline", "--arrow", tmp_path / "c", "--set", "data.context=4", *given)
    assert code == 0
    expected = "1 seed, half-life 30 days, no online regression, neutralised 0.2, refitted with the validation days"
    assert json.loads(out)["help"] == expected  # ridge has no seeds
    code, out, _ = run_command("baseline", "--arrow", tmp_path / "c", "--kind", "reversal", "--json")
    assert json.loads(out)["help"] == "nothing is fitted"


def test_help_changes_nothing_else(tmp_path):
    """The default of the options is no help: what `run_baseline` gave before there was any."""
    panel = panel_in(tmp_path)
    plain = run_baseline(panel, SPLIT, "ridge")["test"]
    helped = run_baseline(panel, SPLIT, "ridge", Options(help=Help()))["test"]
    np.testing.assert_array_equal(plain, helped)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"load": "a.safetensors", "walks": True}, "nothing is fitted"),
        ({"save": "a.safetensors", "walks": True}, "for each fold"),
        ({"save": "a.bin"}, "ends in .safetensors"),
        ({"kind": "reversal", "save": "a.safetensors"}, "nothing to save"),
        ({"load": "none.safetensors"}, "no such file"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, asked, said):
    from pathlib import Path

    panel_in(tmp_path / "c")
    asked = {key: Path(value) if key in ("load", "save") else value for key, value in asked.items()}
    with pytest.raises(InputError, match=said):
        baseline(config(tmp_path / "c"), Asked(**({"kind": "ridge"} | asked)))
