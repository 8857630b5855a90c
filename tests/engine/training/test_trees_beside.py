"""Trees beside a network: their share of the score, what they are fitted with, and their file."""

import json
import shutil
import sys

import numpy as np
import pytest

from engine.config_file import config_hash, load_config
from engine.evaluation.evaluate import evaluate
from engine.reporting.decomposition import scores_apart
from engine.rivals.beside import TREES
from engine.rivals.fit import fit_rival
from engine.rivals.options import Help, Options
from engine.score.predict import load_run, predict_days, predict_run
from engine.score.rows import CPU, present_rows
from engine.score.tables import read_summary
from engine.screen.console import QUIET
from engine.training.fold import make_fold
from engine.training.loop import train
from loaders.cache.format import SCORED
from loaders.errors import InputError
from loaders.panel import open_panel
from loaders.split import Days

pytest.importorskip("lightgbm")

SETTINGS = [
    "data.context=4", "data.block_days=16", "model.spans=[3]", "train.epochs=2", "train.blocks=4", "train.half_life=80",
    "model.neutralize=0.3", "model.risk_factors=2", "trees.trees=15", "trees.min_data_in_leaf=50", "trees.weight=0.25",
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(small_cache, tmp_path_factory):
    """The same training without trees and with them, online regression included."""
    folder = tmp_path_factory.mktemp("beside")
    for name, kind in (("alone", "off"), ("both", "lightgbm")):
        config = load_config(None, [*SETTINGS, f"trees.kind={kind}"], str(small_cache))
        train(config, folder / name, False, QUIET)
    return folder


def rival_scores(config, panel, part):
    """Those of a rival with the same help but the online regression, as `baseline` would have them."""
    fold = make_fold(config, panel, CPU)
    given = Help(config.train.seeds, config.train.half_life, 0.0, config.model.neutralize, refit=True)
    options = Options(help=given, trees={"lightgbm": config.trees}, risk_factors=2, deviations=True)
    return fit_rival(panel, fold.split, "lightgbm", options).scores(panel, part)


def test_the_score_is_the_weighted_mean_and_the_regression(runs, small_cache):
    panel = open_panel(small_cache)
    alone, both = (load_run(runs / name) for name in ("alone", "both"))
    first, last = (np.searchsorted(panel.calendar, np.datetime64(day)) for day in both.state.split["test"])
    part = Days(int(first), int(last) + 1)
    scores = [predict_days(run, panel, part, "test") for run in (alone, both)]
    expected, found = (np.stack([each.values[h] for h in panel.manifest.horizons], 1) for each in scores)
    rows = np.argsort(present_rows(panel, part).rows)
    trees = rival_scores(both.config, panel, part)[rows]
    order = [np.argsort(each.rows) for each in scores]
    plain = load_config(None, [*SETTINGS, "model.online_weight=0"], str(small_cache))
    online = expected[order[0]] - network_of(alone, plain, panel, part)[rows]
    network = expected[order[0]] - online
    np.testing.assert_allclose(found[order[1]], 0.75 * network + 0.25 * trees + online, atol=2e-5)
    here = panel.presence[np.sort(present_rows(panel, part).rows)] == SCORED
    assert np.corrcoef(trees[here, 0], network[here, 0])[0, 1] < 0.999


def network_of(run, config, panel, part):
    from engine.inputs import open_loader
    from engine.score.predict import score_part

    with open_loader(config, panel, CPU) as source:
        return score_part(run.model, source, part, config).numpy()


def test_the_summary_is_of_both_and_the_epochs_of_the_network(runs, small_cache):
    summary = read_summary(runs / "both")
    for split in ("valid", "test"):
        figures = evaluate([runs / "both"], split, None, str(small_cache))["splits"][split]
        for horizon, expected in summary["splits"][split].items():
            assert figures[horizon]["rank_ic"] == pytest.approx(expected["rank_ic"], abs=1e-9)
    lines = [(runs / name / "metrics.jsonl").read_text().splitlines() for name in ("alone", "both")]
    valid = [[json.loads(line)["valid"]["1"]["rank_ic"] for line in of_run] for of_run in lines]
    assert valid[0] == pytest.approx(valid[1], abs=1e-12)
    assert summary["splits"]["test"] != read_summary(runs / "alone")["splits"]["test"]


def test_a_member_is_a_network_alone(runs, small_cache):
    panel = open_panel(small_cache)
    alone, both = (predict_run(load_run(runs / name), panel, "test", 0) for name in ("alone", "both"))
    assert all((alone.values[h] == both.values[h]).all() for h in alone.values)


def test_a_resumed_run_keeps_its_trees(runs, small_cache, tmp_path):
    run = shutil.copytree(runs / "both", tmp_path / "run")
    before = (run / TREES).read_bytes()
    config = load_config(run / "config.toml", [])
    train(config, run, True, QUIET)
    assert (run / TREES).read_bytes() == before
    (run / TREES).unlink()  # killed before they were written
    train(config, run, True, QUIET)
    assert (run / TREES).read_bytes() == before
    assert read_summary(run)["splits"] == read_summary(runs / "both")["splits"]


def test_trees_of_another_run_and_damaged_or_missing_ones_are_refused(runs, small_cache, tmp_path):
    run = shutil.copytree(runs / "both", tmp_path / "run")
    other = load_config(None, [*SETTINGS, "trees.kind=lightgbm", "train.seed=1"], str(small_cache))
    train(other, tmp_path / "other", False, QUIET)
    sound = (run / TREES).read_bytes()
    (run / TREES).write_bytes((tmp_path / "other" / TREES).read_bytes())
    with pytest.raises(InputError, match=r"trees[.]safetensors: is of another run"):
        load_run(run)
    for place in range(0, len(sound), len(sound) // 40):
        (run / TREES).write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        with pytest.raises(InputError, match=r"trees[.]safetensors"):
            load_run(run)
    (run / TREES).unlink()
    with pytest.raises(InputError, match=r"trees[.]safetensors"):
        load_run(run)


def test_settings_of_trees_do_not_change_the_identity_of_a_run_without_any():
    plain = load_config(None, [])
    assert config_hash(load_config(None, ["trees.num_leaves=7"])) == config_hash(plain)
    with_trees = load_config(None, ["trees.kind=lightgbm"])
    assert config_hash(with_trees) != config_hash(plain)
    assert config_hash(load_config(None, ["trees.kind=lightgbm", "trees.num_leaves=7"])) != config_hash(with_trees)


def test_the_report_shows_the_parts_of_the_score(runs, small_cache):
    from engine.evaluation.sources import source_of

    panel, run = open_panel(small_cache), load_run(runs / "both")
    first, last = (int(np.searchsorted(panel.calendar, np.datetime64(day))) for day in run.state.split["test"])
    part = Days(first, last + 1)
    source = source_of("both", predict_days(run, panel, part, "test"), [], panel)
    parts = scores_apart(run, panel, part, source, source.rows)
    assert list(parts) == [
        "network", "network, neutralised", "trees, neutralised", "online regression, neutralised", "all: the score",
    ]  # fmt: skip
    weight = run.config.model.online_weight
    whole = 0.75 * parts["network, neutralised"] + 0.25 * parts["trees, neutralised"]
    whole += weight * parts["online regression, neutralised"]
    np.testing.assert_allclose(parts["all: the score"], whole, atol=2e-5)


def test_the_option_asks_for_lightgbm(small_cache, tmp_path, run_command):
    options = [word for each in (*SETTINGS, "train.epochs=1") for word in ("--set", each)]
    code, _, error = run_command("train", "--arrow", small_cache, "--with-trees", "--out", tmp_path / "run", *options)
    assert (code, error) == (0, "")
    assert load_run(tmp_path / "run").trees.kind == "lightgbm"
    code, _, error = run_command("predict", tmp_path / "run", "--arrow", small_cache, "--date", "latest")
    assert (code, error) == (0, "")


def test_a_package_that_is_missing_is_said_before_the_training(small_cache, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "catboost", None)
    config = load_config(None, [*SETTINGS, "trees.kind=catboost"], str(small_cache))
    with pytest.raises(InputError, match=r"trees[.]kind=catboost: not available"):
        train(config, tmp_path / "run", False, QUIET)
    assert not (tmp_path / "run").exists()


def test_the_option_leaves_a_kind_that_is_named(small_cache, tmp_path, run_command):
    pytest.importorskip("xgboost")
    given = [word for setting in [*SETTINGS, "trees.kind=xgboost"] for word in ("--set", setting)]
    code, _, err = run_command("train", "--arrow", small_cache, "--out", tmp_path / "run", "--with-trees", *given)
    assert code == 0, err
    assert load_config(tmp_path / "run" / "config.toml", []).trees.kind == "xgboost"


def test_days_that_trees_do_not_take_are_refused_before_the_training(small_cache, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.rivals.trees.lightgbm.MOST_OF_DAY", 20)
    settings = [*SETTINGS, "trees.kind=lightgbm", "trees.objective=lambdarank"]
    with pytest.raises(InputError, match=r"trees\.objective: lambdarank takes 20 samples a day"):
        train(load_config(None, settings, str(small_cache)), tmp_path / "run", False, QUIET)
    assert not (tmp_path / "run").exists()
