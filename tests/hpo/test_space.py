"""A search space is data: every dimension decides settings that exist, and each of them once."""

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution

from engine.config_file import load
from hpo.algorithms import SAMPLERS
from hpo.config import SPACE, SPACES, Choices, Range, Simplex, StudyConfig
from hpo.space import check_space, check_values, configured, fitting, parameters_of, suggest
from loaders.errors import InputError


def drawn(space, count=200, horizons=2):
    """Settings of as many trials of a random search."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = []
    for _ in range(count):
        trial = study.ask()
        found.append(suggest(trial, space, horizons))
        study.tell(trial, 0.0)
    return found


def test_numbers_choices_and_their_types():
    space = {
        "train.epochs": Range(low=2, high=4),
        "train.learning_rate": Range(low=1e-4, high=1e-2, log=True),
        "model.size": Choices(choices=("tiny", "small")),
    }
    found = drawn(space)
    assert {each["train.epochs"] for each in found} == {2, 3, 4}
    assert {each["model.size"] for each in found} == {"tiny", "small"}
    rates = np.log10([each["train.learning_rate"] for each in found])
    assert rates.min() > -4
    assert rates.max() < -2
    assert np.median(rates) == pytest.approx(-3, abs=0.25)


def test_a_simplex_is_uniform_and_sums_to_one():
    found = drawn({"objective.horizon_weights": Simplex(simplex="horizons")}, 2000, horizons=3)
    weights = np.array([each["objective.horizon_weights"] for each in found])
    assert weights.shape == (2000, 3)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)
    # Of a flat Dirichlet distribution: each mean 1/3, P(weight > 1/2) = 1/4.
    np.testing.assert_allclose(weights.mean(0), 1 / 3, atol=0.02)
    np.testing.assert_allclose((weights > 0.5).mean(0), 0.25, atol=0.03)


def test_a_term_is_in_or_out_by_an_even_chance():
    terms = ("rank_ic", "ic", "huber")
    found = drawn({"objective": Simplex(simplex=terms)}, 4000)
    weights = np.array([[each[f"objective.{term}"] for term in terms] for each in found])
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)
    left = (weights > 0).sum(1)
    # Of three fair coins; none in, which means all, in an eighth.
    np.testing.assert_allclose([(left == n).mean() for n in (1, 2, 3)], [3 / 8, 3 / 8, 2 / 8], atol=0.03)
    two = weights[left == 2]
    np.testing.assert_allclose(np.sort(two, 1).mean(0), [0, 0.25, 0.75], atol=0.02)  # uniform on 0..1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_studies_of_other_seeds_draw_other_trials(sampler):
    def numbers(seed):
        study = optuna.create_study(sampler=SAMPLERS[sampler](seed, 0))
        return [study.ask({"x": FloatDistribution(0, 1)}).params["x"] for _ in range(4)]

    assert numbers(0) == numbers(0)
    assert not set(numbers(0)) & set(numbers(1))


@pytest.mark.parametrize("horizons", [1, 2, 20])
def test_a_configuration_is_found_in_its_space(horizons):
    config = load(StudyConfig, None, ["objective.sharpe=0.2", "train.learning_rate=3e-3"])
    parameters = parameters_of(config, horizons)
    settings = suggest(optuna.trial.FixedTrial(parameters), SPACE, horizons)
    assert settings["train.learning_rate"] == 3e-3
    assert settings["model.dropout"] == config.model.dropout
    assert settings["objective.horizon_weights"] == pytest.approx([1 / horizons] * horizons)
    given = {term: getattr(config.objective, term) for term in SPACE["objective"].simplex}
    found = {term: settings[f"objective.{term}"] for term in given}
    assert found == pytest.approx({term: weight / sum(given.values()) for term, weight in given.items()})


@pytest.mark.parametrize(
    "outside",
    [
        '[train]\nlearning_rate = 0.1',
        '[model]\ndropout = 0.9',
        '[hpo.space]\n"model.size" = { choices = ["small", "base"] }',
        '[hpo.space]\nobjective = { simplex = ["sharpe", "huber"] }',
    ],
)  # fmt: skip
def test_a_configuration_outside_its_space_is_not_found(tmp_path, outside):
    (tmp_path / "study.toml").write_text(outside)
    assert parameters_of(load(StudyConfig, tmp_path / "study.toml", []), 2) is None


def searching(space, kind="network"):
    config = load(StudyConfig, None, [f"hpo.kind={kind}"])
    return config.model_copy(update={"hpo": config.hpo.model_copy(update={"space": space})})


@pytest.mark.parametrize("kind", SPACES)
def test_each_kind_has_a_default_space_that_holds_its_own_settings(kind):
    config = fitting(load(StudyConfig, None, [f"hpo.kind={kind}"]))
    check_space(config)
    check_values(config)
    own = parameters_of(config, 2)
    assert own is not None
    for settings in drawn(config.hpo.space, 20):
        assert configured(config, settings) != config


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("network", "lightgbm.num_leaves"),
        ("lightgbm", "xgboost.num_leaves"),
        ("lightgbm", "model.dropout"),
        ("ridge", "train.learning_rate"),
        ("ridge", "train.seeds"),
        ("ridge", "model.last_layer_weight"),
        ("network", "model.last_layer_weight"),  # by which a trial is not judged
        ("network", "train.refit"),
        ("lightgbm", "train.refit"),
        ("network", "trees.weight"),
    ],
)
def test_settings_that_do_nothing_to_what_is_tuned_are_refused(kind, key):
    with pytest.raises(InputError, match=f"'{key}' does nothing to {kind}"):
        check_space(searching({key: Range(low=0.1, high=0.5)}, kind))


def test_a_rival_may_be_tuned_by_its_help_too():
    check_space(
        searching(
            {"model.neutralize": Range(low=0.0, high=0.5), "ridge.gaussian": Choices(choices=(True, False))}, "ridge"
        )
    )


def test_the_default_space_makes_valid_configurations():
    check_space(searching(SPACE))
    for settings in drawn(SPACE, 50):
        config = configured(StudyConfig(), settings)
        assert config.train.learning_rate == settings["train.learning_rate"]
        assert config.objective.pairwise == settings["objective.pairwise"]
        assert config.objective.horizon_weights == settings["objective.horizon_weights"]


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({}, "empty"),
        ({"train.speed": Range(low=0.1, high=1)}, "train.speed"),
        ({"speed": Range(low=0.1, high=1)}, "speed"),
        ({"hpo.seed": Range(low=1, high=2)}, "hpo.seed"),
        ({"objective": Simplex(simplex=("rank_ic", "rank_oc"))}, "objective.rank_oc"),
        ({"objective": Simplex(simplex=("ic", "huber")), "objective.ic": Range(low=0.1, high=1)}, "decided twice"),
    ],
)
def test_dimensions_that_decide_nothing_or_twice_are_refused(space, words):
    with pytest.raises(InputError, match=r"hpo\.space") as error:
        check_space(searching(space))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("dimension", "words"),
    [
        ("{low = 2, high = 2}", "empty"),
        ("{low = 0, high = 1, log = true}", "logarithmic"),
        ('{choices = ["a"]}', "at least 2"),
        ("{lowest = 1}", "hpo.space"),
    ],
)
def test_ranges_that_hold_nothing_are_refused(tmp_path, dimension, words):
    path = tmp_path / "c.toml"
    path.write_text(f'[hpo.space]\n"train.learning_rate" = {dimension}\n')
    with pytest.raises(InputError) as error:
        load(StudyConfig, path, [])
    assert words in str(error.value)


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(InputError, match="spans"):
        configured(StudyConfig(), {"data.context": 4, "model.normalisation": True})


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"data.arrow": Choices(choices=("a", "b"))}, "same in every trial"),
        ({"train.device": Choices(choices=("cpu", "cuda"))}, "same in every trial"),
        ({"split.valid_fraction": Range(low=0.1, high=0.2)}, "same in every trial"),
        ({"model.dropout": Range(low=0.0, high=1.0)}, "model.dropout cannot be 1.0"),
        ({"train.learning_rate": Range(low=-0.1, high=0.1)}, "cannot be -0.1"),
        ({"train.epochs": Range(low=2.0, high=8.0)}, "train.epochs cannot be"),
        ({"model.size": Choices(choices=("tiny", "huge"))}, "cannot be 'huge'"),
        ({"objective": Simplex(simplex=("rank_ic", "tau"))}, "objective.tau cannot be 0.0"),
        ({"data.context": Range(low=10, high=60)}, "data.context goes to 60"),
        ({"objective.own.mine.weight": Range(low=-1.0, high=1.0)}, "cannot be -1.0"),
        ({"train.ema": Range(low=0.5, high=0.9), "train.swa": Range(low=0.1, high=0.5)}, "go together"),
        ({"model.spans": Range(low=2, high=4)}, "model.spans cannot be 2"),
    ],
)
def test_values_that_can_never_work_are_refused_before_the_first_trial(space, words):
    config = searching(space)
    check_space(config)
    with pytest.raises(InputError, match=r"hpo\.space") as refused:
        check_values(config)
    assert words in str(refused.value)


def test_values_that_can_work_pass():
    check_values(load(StudyConfig, None, []))
    settings = ['hpo.space={"model.options.width"={low=8, high=64}, "data.context"={choices=[5, 20]}}']
    check_values(load(StudyConfig, None, [*settings, "model.name=own:net"]))
