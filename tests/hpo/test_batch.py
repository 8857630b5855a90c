"""Trials in a batch are the trials that one after the other would be: the same figures, counts, pruning and files."""

from dataclasses import replace

import optuna
import pytest

import engine.training.epoch
import engine.training.loop
import hpo.study
from engine.checkpoint import LAST, load_checkpoint
from engine.errors import RunFailed, Stopped
from hpo.study import batch_size, run_study
from loaders.errors import InputError
from tests.hpo.workers import QUIET, work

RANDOM = ['hpo.sampler="random"', "train.epochs=2", 'hpo.pruner="none"']  # draws by the trial's number alone


def values(study):
    return [trial.value for trial in study.get_trials()]


def batched(cache, folder, size, trials=5, settings=RANDOM):
    asked = work(cache, folder, trials, settings=settings)
    return run_study(replace(asked, batch=size), 1, QUIET)


@pytest.fixture(scope="module")
def alone(cache, tmp_path_factory):
    """Five trials, one after the other, each in slots of its own."""
    return batched(cache, tmp_path_factory.mktemp("alone") / "out", 1, settings=[*RANDOM, "train.compile=off"])


@pytest.mark.parametrize("size", [2, 5])
def test_a_batch_has_the_trials_of_one_after_the_other(cache, alone, tmp_path, size):
    study = batched(cache, tmp_path / "out", size)
    assert [trial.state.name for trial in study.get_trials()] == ["COMPLETE"] * 5
    assert [trial.params for trial in study.get_trials()] == [trial.params for trial in alone.get_trials()]
    assert values(study) == pytest.approx(values(alone), abs=2e-3)  # rounding, at these learning rates
    for trial in study.get_trials():
        state, _ = load_checkpoint(tmp_path / "out" / "trials" / f"{trial.number:04d}" / "checkpoints" / LAST)
        assert (state.finished, state.epoch, len(state.history)) == (True, 2, 2)


def test_a_pruned_trial_leaves_its_slot_to_the_next(cache, tmp_path, monkeypatch):
    class Odd(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.number % 2 == 1

    monkeypatch.setitem(hpo.study.PRUNERS, "halving", Odd)
    settings = ['hpo.sampler="random"', "train.epochs=3"]
    study = batched(cache, tmp_path / "out", 2, 5, settings)
    assert [trial.state.name for trial in study.get_trials()] == ["COMPLETE", "PRUNED"] * 2 + ["COMPLETE"]
    assert [len(trial.intermediate_values) for trial in study.get_trials()] == [3, 1, 3, 1, 3]


def test_a_trial_that_fails_ends_alone(cache, tmp_path, monkeypatch):
    """Its loss is not finite, also where a progress bar would look; the other slot goes on, a trial takes its place."""
    real = engine.training.epoch.mean_losses

    def first_fails(run, every):
        if run.folder.name == "0000":
            raise RunFailed(f"{run.folder}: the loss is nan")
        return real(run, every)

    monkeypatch.setattr(engine.training.loop, "mean_losses", first_fails)
    monkeypatch.setattr(engine.training.epoch, "mean_losses", first_fails)
    monkeypatch.setattr(engine.training.epoch, "SHOW_SECONDS", -1.0)
    study = batched(cache, tmp_path / "out", 2, 3)
    assert [trial.state.name for trial in study.get_trials()] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]


def test_trials_of_another_shape_wait_for_a_batch_of_their_own(cache, tmp_path):
    space = 'hpo.space={"model.size"={choices=["tiny","small"]},"train.learning_rate"={low=0.001,high=0.004}}'
    study = batched(cache, tmp_path / "out", 3, 4, [*RANDOM, space])
    assert [trial.state.name for trial in study.get_trials()] == ["COMPLETE"] * 4
    assert {trial.params["model.size"] for trial in study.get_trials()} == {"tiny", "small"}


def test_a_stopped_batch_resumes_to_the_same_figures(cache, tmp_path, monkeypatch):
    whole = batched(cache, tmp_path / "whole", 2, 3)
    from engine.training.epoch import EpochOfRun

    real, steps = EpochOfRun.count, []

    def stop_at_fifth(epoch, i):
        real(epoch, i)
        steps.append(i)
        if len(steps) == 5:
            epoch.run.stop.append(2)

    monkeypatch.setattr(EpochOfRun, "count", stop_at_fifth)
    with pytest.raises(Stopped):
        batched(cache, tmp_path / "out", 2, 3)
    monkeypatch.setattr(EpochOfRun, "count", real)
    resumed = batched(cache, tmp_path / "out", 2, 3)
    found = [value for value in values(resumed) if value is not None]
    assert len(found) == 3
    assert set(values(whole)[:2]) < set(found)  # the two that were stopped, to the digit


def test_a_batch_size_that_is_no_number_is_refused(cache, tmp_path):
    config = work(cache, tmp_path / "out").config
    assert (batch_size("auto", config, 20), batch_size("7", config, 3)) == (1, 3)
    for given in ("0", "-1", "many"):
        with pytest.raises(InputError, match="--batch"):
            batch_size(given, config, 20)
