"""The section [hpo]: what it may say, who reads it, and that a mistake in it is one clear line."""

import subprocess
import sys

import pytest
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from engine.config_file import load, load_config, to_toml
from hpo.algorithms import PRUNERS, SAMPLERS, STEP_IS_FOLD
from hpo.cli import main
from hpo.config import StudyConfig
from loaders.errors import InputError

FILE = '[train]\nepochs = 3\n[hpo]\nseed = 7\n[hpo.space]\n"model.dropout" = { low = 0.1, high = 0.2 }\n'


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(FILE)
    return path


def test_a_study_reads_the_section_and_a_training_ignores_it(file):
    config = load(StudyConfig, file, ["hpo.sampler=random"])
    assert (config.train.epochs, config.hpo.seed, config.hpo.sampler) == (3, 7, "random")
    assert list(config.hpo.space) == ["model.dropout"]
    training = load_config(file, [])
    assert training.train.epochs == 3
    assert to_toml(training) == to_toml(config)
    with pytest.raises(InputError, match=r"^hpo: no such setting"):
        load_config(file, ["hpo.seed=8"])


@pytest.mark.parametrize("setting", ["hpo.folds=true", "hpo.seed=false", "train.epochs=true"])
def test_true_and_false_are_no_numbers(setting):
    with pytest.raises(InputError, match="true and false are no numbers"):
        load(StudyConfig, None, [setting])


def test_a_range_of_truth_is_refused_and_a_choice_of_it_is_not(file):
    file.write_text('[hpo.space]\n"model.dropout" = { low = false, high = true }\n')
    with pytest.raises(InputError, match="low: true and false are no numbers"):
        load(StudyConfig, file, [])
    file.write_text('[hpo.space]\n"model.attention" = { choices = [false, true] }\n')
    assert load(StudyConfig, file, []).hpo.space["model.attention"].choices == (False, True)


@pytest.mark.parametrize(("setting", "names"), [("sampler", SAMPLERS), ("pruner", PRUNERS)])
def test_every_algorithm_of_the_registry_may_be_named_and_no_other(setting, names):
    for name in names:
        assert getattr(load(StudyConfig, None, [f"hpo.{setting}={name}"]).hpo, setting) == name
    with pytest.raises(InputError, match=f"'best' is no {setting}; there are {', '.join(names)}"):
        load(StudyConfig, None, [f"hpo.{setting}=best"])


def test_the_registry_makes_optunas():
    assert all(isinstance(make(0, 0), BaseSampler) for make in SAMPLERS.values())
    assert all(isinstance(make(), BasePruner) for make in PRUNERS.values())
    assert set(PRUNERS) > STEP_IS_FOLD


def test_a_configuration_is_read_without_optuna(file):
    program = """
import sys
from pathlib import Path
sys.modules["optuna"] = None
from engine.config_file import load
from hpo.config import StudyConfig
print(load(StudyConfig, Path(sys.argv[1]), []).hpo.pruner)
"""
    done = subprocess.run([sys.executable, "-c", program, str(file)], check=True, capture_output=True, text=True)
    assert done.stdout == "halving\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "hpo.speed=1"], "hpo.speed"),
        (["--set", "hpo.sampler=best"], "'best' is no sampler"),
        (["--set", "hpo.metrics=[\"turnover\"]"], "'turnover' is no metric to maximise"),
        (["--config", "wrong.toml"], "objective.rank_oc"),
        (["--config", "empty.toml"], "empty"),
        (["--storage", "postgresql://nobody@127.0.0.1:1/none"], "--storage"),
        (["--storage", "nonsense"], "--storage"),
        (["--set", "hpo.space={'train.learning_rate' = 'text'}"], "hpo.space.train.learning_rate"),
        (["--set", "hpo.space={'train.learning_rate' = 1e26}"], "hpo.space.train.learning_rate"),
        (["--set", "hpo.space={'train.learning_rate' = [[[]]]}"], "hpo.space.train.learning_rate"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(cache, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.toml").write_text('[hpo.space.objective]\nsimplex = ["ic", "rank_oc"]\n')
    (tmp_path / "empty.toml").write_text('[hpo.space]\n"model.dropout" = { low = 0.5, high = 0.2 }\n')
    line = ["hpo", "--trials", "2", "--arrow", str(cache), "--out", "out", *arguments]
    monkeypatch.setattr(sys, "argv", ["atft-engine", *line])
    with pytest.raises(SystemExit) as stop:
        main()
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert len(err.strip().splitlines()) == 1, err
    assert words in err
