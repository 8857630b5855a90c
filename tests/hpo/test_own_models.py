"""A study of a network and a term of the user's own, one trial at a time and as a batch."""

from dataclasses import replace

import pytest

from hpo.config import SPACE
from hpo.space import check_space, configured, fitting, parameters_of
from hpo.study import run_study
from tests.hpo.workers import QUIET, work

OWN = [
    "model.name=tests.own_models:Recurrent", "model.spans=[5, 10]", "train.epochs=2", "train.blocks=8",
    'hpo.sampler="random"', 'hpo.pruner="none"', "train.compile=off",
    "objective.own.squares={term='tests.own_models:squares', weight=0.1}",
    "hpo.space={'objective.own.squares.weight'={low=0.01, high=1.0}, 'train.learning_rate'={low=1e-4, high=1e-3}}",
]  # fmt: skip


def test_trials_of_a_batch_are_those_of_one_after_the_other(cache, tmp_path):
    alone = run_study(work(cache, tmp_path / "alone", 3, settings=OWN), 1, QUIET)
    batch = run_study(replace(work(cache, tmp_path / "batch", 3, settings=OWN), batch=2), 1, QUIET)
    assert [trial.params for trial in batch.trials] == [trial.params for trial in alone.trials]
    assert [t.value for t in batch.trials] == pytest.approx([t.value for t in alone.trials], abs=2e-3)
    assert "weight" in (tmp_path / "alone" / "best.toml").read_text()


def test_options_are_searched_by_name(cache, tmp_path):
    space = "hpo.space={'model.options.width'={low=2, high=8}}"
    config = work(
        cache, tmp_path, settings=["model.name=tests.own_models:Windows", "model.spans=[5, 10]", space]
    ).config
    check_space(config)
    assert configured(config, {"model.options.width": 5}).model.options == {"width": 5}
    assert parameters_of(config, 2) is None  # the factory's own default is not known
    assert parameters_of(configured(config, {"model.options.width": 5}), 2) == {"model.options.width": 5}


def test_the_default_space_of_an_own_network_has_no_setting_of_atft(cache, tmp_path):
    config = work(cache, tmp_path, settings=["model.name=tests.own_models:Windows", "model.spans=[5, 10]"]).config
    assert set(SPACE) - set(fitting(config).hpo.space) == {"model.dropout"}
    assert fitting(work(cache, tmp_path).config).hpo.space == SPACE
