"""A refit: which days teach it, which days each model scores, and how its file is kept and read."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.checkpoint import BEST, LAST, REFIT, load_checkpoint
from engine.config_file import load_config
from engine.errors import RunFailed
from engine.evaluation.evaluate import evaluate
from engine.inputs import make_split
from engine.live.latest import predict_latest
from engine.score.predict import load_run, predict_run
from engine.score.rows import present_rows
from engine.score.tables import read_summary
from engine.screen.console import QUIET
from engine.training import refit as module
from engine.training.loop import train
from engine.training.run import resumed_config
from loaders.errors import InputError
from loaders.panel import open_panel
from tests.panels import rewritten

SETTINGS = [
    "data.context=4", "data.block_days=16", "model.spans=[3]", "train.epochs=1", "train.blocks=4", "train.half_life=40",
    "model.risk_factors=2", "train.learning_rate=5e-3", "train.refit=2",
]  # fmt: skip


def trained(cache, folder, *settings):
    return train(load_config(None, [*SETTINGS, *settings], str(cache)), folder, False, QUIET)


def weights_of(run, name):
    return load_checkpoint(run / "checkpoints" / name)[1]


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def negated(panel, folder, part):
    """The panel with the targets of a part negated."""
    rows = present_rows(panel, part).rows
    targets = panel.targets.copy()
    targets[rows] *= -1
    return rewritten(panel, folder, targets=targets).folder


@pytest.fixture(scope="module")
def run(small_cache, tmp_path_factory):
    return trained(small_cache, tmp_path_factory.mktemp("refit") / "run")


def test_validation_days_teach_the_refit_alone_and_test_days_nothing(run, small_cache, tmp_path):
    panel = open_panel(small_cache)
    split = make_split(load_config(None, SETTINGS, str(small_cache)), panel)
    of_valid = trained(negated(panel, tmp_path / "valid", split.valid), tmp_path / "of_valid")
    of_test = trained(negated(panel, tmp_path / "test", split.test), tmp_path / "of_test")
    for other, refit_differs in ((of_valid, True), (of_test, False)):
        assert same(weights_of(run, BEST), weights_of(other, BEST))
        assert same(weights_of(run, REFIT), weights_of(other, REFIT)) != refit_differs
    assert not same(weights_of(run, BEST), weights_of(run, REFIT))


def test_the_best_epoch_scores_validation_and_the_refit_later_days(run, small_cache, tmp_path):
    plain = trained(small_cache, tmp_path / "plain", "train.refit=0")
    figures, without = (read_summary(each)["splits"] for each in (run, plain))
    assert figures["valid"] == without["valid"]
    assert figures["test"] != without["test"]
    for part in ("valid", "test"):
        found = evaluate([run], part, None, None, in_sample=part == "valid")["splits"][part]
        for horizon, metrics in figures[part].items():
            assert found[horizon]["rank_ic"] == pytest.approx(metrics["rank_ic"], abs=1e-7)
    loaded, panel = load_run(run), open_panel(small_cache)
    assert same(loaded.chosen.state_dict(), {n.removeprefix("model."): t for n, t in weights_of(run, BEST).items()})
    assert same(loaded.model.state_dict(), {n.removeprefix("model."): t for n, t in weights_of(run, REFIT).items()})
    expected = predict_run(loaded, panel, "test").values[1]
    np.testing.assert_array_equal(expected, predict_run(replace(loaded, chosen=None), panel, "test").values[1])


def test_the_newest_day_is_scored_by_the_refit(run, small_cache):
    panel, state = open_panel(small_cache), load_run(run).state
    found = predict_latest(run)
    assert found.trained_until == state.split["valid"][1]
    rows = predict_run(load_run(run), panel, "test")
    last = panel.calendar[-1]
    day = panel.calendar[rows.rows - panel.offset[panel.code_of(rows.rows)] + panel.first[panel.code_of(rows.rows)]]
    by_row = dict(zip(rows.rows[day == last].tolist(), rows.values[1][day == last].tolist(), strict=True))
    for row, score in zip(found.rows.rows.tolist(), found.rows.values[1].tolist(), strict=True):
        assert score == pytest.approx(by_row[row], abs=1e-4)


@pytest.mark.parametrize("settings", [[], ["train.seeds=2"], ["train.ema=0.9"], ["model.last_layer_weight=0.5"]])
def test_a_refit_that_was_cut_short_begins_anew(small_cache, tmp_path, monkeypatch, settings):
    whole = trained(small_cache, tmp_path / "whole", *settings)
    calls, real = [], module.train_epoch

    def dies(runs):
        calls.append(runs)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(runs)

    monkeypatch.setattr(module, "train_epoch", dies)
    with pytest.raises(KeyboardInterrupt):
        trained(small_cache, tmp_path / "cut", *settings)
    monkeypatch.undo()
    cut = tmp_path / "cut"
    assert not (cut / "checkpoints" / REFIT).exists()
    assert load_checkpoint(cut / "checkpoints" / LAST)[0].finished
    with pytest.raises(InputError, match=r"refit.safetensors: is missing: its training has not ended.*Resume it"):
        load_run(cut)
    train(resumed_config(cut, [], None), cut, True, QUIET)
    assert same(weights_of(whole, REFIT), weights_of(cut, REFIT))
    assert read_summary(whole)["splits"] == read_summary(cut)["splits"]
    before = (cut / "checkpoints" / REFIT).read_bytes()
    (cut / "summary.json").unlink()
    train(resumed_config(cut, [], None), cut, True, QUIET)  # reads the refit that is there
    assert (cut / "checkpoints" / REFIT).read_bytes() == before
    assert read_summary(whole)["splits"] == read_summary(cut)["splits"]


def test_a_refit_keeps_parts_off_and_takes_the_rate_of_the_phase(small_cache, tmp_path, monkeypatch):
    phases = tmp_path / "phases.toml"
    phases.write_text(
        '[[phases]]\nname = "one"\nepochs = 1\n\n[[phases]]\nname = "two"\nepochs = 1\nlearning_rate = 0.001\n'
        'off = ["temporal"]\nfrozen = ["embedding"]\nweights = { rank_ic = 1.0 }\n'
    )
    seen, real = [], module.train_epoch
    monkeypatch.setattr(module, "train_epoch", lambda runs: seen.append(runs[0]) or real(runs))
    run = train(load_config(phases, SETTINGS, str(small_cache)), tmp_path / "run", False, QUIET)
    best, phase = load_checkpoint(run / "checkpoints" / BEST)[0], seen[0].phase
    assert phase.epochs == 2
    assert phase.learning_rate == [5e-3, 1e-3][best.phase]
    assert (list(phase.off), list(phase.frozen)) == [([], []), (["temporal"], ["embedding"])][best.phase]
    assert seen[0].fold.split.train.stop == seen[0].fold.split.valid.stop


def test_another_runs_refit_is_refused(run, small_cache, tmp_path):
    other = trained(small_cache, tmp_path / "other", "train.seed=7")
    shutil.copy(run / "checkpoints" / REFIT, other / "checkpoints" / REFIT)
    with pytest.raises(InputError, match=r"refit.safetensors: is of run .*another run"):
        load_run(other)
    shutil.copy(other / "checkpoints" / BEST, other / "checkpoints" / REFIT)
    with pytest.raises(InputError, match="kind 'best'"):
        load_run(other)


def test_a_loss_that_is_not_finite_fails_the_refit(small_cache, tmp_path, monkeypatch):
    def fails(run, every):
        raise RunFailed("the loss is nan")

    monkeypatch.setattr(module, "mean_losses", fails)
    with pytest.raises(RunFailed):
        trained(small_cache, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints" / REFIT).exists()
    assert not (tmp_path / "run" / "summary.json").exists()


def test_rows_that_change_beneath_a_refit_end_it(small_cache, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    shutil.copytree(small_cache, cache)
    real = module.train_epoch

    def changed(runs):
        found = real(runs)
        os.utime(open_panel(cache).files[0].path, (1, 1))
        return found

    monkeypatch.setattr(module, "train_epoch", changed)
    with pytest.raises(InputError, match=r"changed|written"):
        trained(cache, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints" / REFIT).exists()
