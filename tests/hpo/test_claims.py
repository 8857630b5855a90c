"""Exact counts: what a dead worker leaves is run again, once, and nothing is run for nothing."""

import subprocess
import sys
from datetime import datetime, timedelta

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

import hpo.claims
from engine.train.run import RunFailed
from hpo.claims import FOLDER, OWNER, REASON, RETRY_OF, SECONDS, claim, fail, folder_number
from hpo.storage import open_storage


@pytest.fixture
def study(tmp_path):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(storage=open_storage(None, tmp_path), study_name="s", direction="maximize")


def started(study, tmp_path, wanted=3):
    trial, done = claim(study, wanted, tmp_path, RandomSampler)
    assert not done
    trial.suggest_float("x", 0, 1)
    return trial


def states(study):
    return [trial.state.name for trial in study.get_trials()]


def test_two_processes_that_begin_together_draw_apart(study, tmp_path):
    other = optuna.load_study(study_name="s", storage=open_storage(None, tmp_path))
    drawn = [started(one, tmp_path, 6).params["x"] for one in (study, other, study, other)]
    assert len(set(drawn)) == 4


def die(study, number):
    """Let the trial's owner be a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    trial_id = study.get_trials()[number]._trial_id
    owner = study.get_trials()[number].user_attrs[OWNER] | {"pid": ended.pid}
    study._storage.set_trial_user_attr(trial_id, OWNER, owner)


def test_a_dead_workers_trial_is_run_again_with_its_parameters_and_folder(study, tmp_path):
    first = started(study, tmp_path)
    first.set_user_attr(SECONDS, 12.5)
    die(study, first.number)
    again = started(study, tmp_path)
    assert again.user_attrs[SECONDS] == 12.5
    assert states(study) == ["FAIL", "RUNNING"]
    assert again.params == first.params
    assert folder_number(again) == first.number
    # And once more, still in the first one's folder.
    die(study, again.number)
    third = started(study, tmp_path)
    assert folder_number(third) == first.number
    assert study.get_trials()[third.number].user_attrs[RETRY_OF] == again.number
    assert states(study) == ["FAIL", "FAIL", "RUNNING"]


def test_a_worker_killed_between_giving_up_and_trying_again_loses_nothing(study, tmp_path):
    first = started(study, tmp_path)
    study.tell(first, state=TrialState.FAIL)  # as another worker's `_give_up_dead`, killed right then
    assert started(study, tmp_path).params == first.params


def test_a_trial_whose_worker_died_before_it_signed_is_given_up_after_a_while(study, tmp_path, monkeypatch):
    unsigned = study.ask()
    other, _ = claim(study, 2, tmp_path, RandomSampler)
    assert states(study) == ["RUNNING", "RUNNING"]
    later = datetime.now() + timedelta(seconds=60)
    monkeypatch.setattr(hpo.claims.time, "time", later.timestamp)
    claim(study, 2, tmp_path, RandomSampler)
    assert study.get_trials()[unsigned.number].state == TrialState.FAIL
    assert study.get_trials()[other.number].state == TrialState.RUNNING


def test_a_trial_that_failed_by_itself_is_not_run_again_but_replaced(study, tmp_path):
    first = started(study, tmp_path)
    fail(study, first, "rank_ic is missing")
    second = started(study, tmp_path)
    assert RETRY_OF not in study.get_trials()[second.number].user_attrs
    assert second.params != first.params
    assert study.get_trials()[0].user_attrs[REASON] == "rank_ic is missing"


def test_no_more_trials_run_than_are_missing(study, tmp_path):
    first, second = started(study, tmp_path, 2), started(study, tmp_path, 2)
    assert claim(study, 2, tmp_path, RandomSampler) == (None, False)  # wait: one of them may yet fail
    study.tell(first, 1.0)
    assert claim(study, 2, tmp_path, RandomSampler) == (None, False)
    study.tell(second, state=TrialState.PRUNED)
    assert claim(study, 2, tmp_path, RandomSampler) == (None, True)


def test_of_two_machines_that_claim_at_once_the_later_steps_back(study, tmp_path, monkeypatch):
    """The other machine's trial appears between this one's look and its own."""
    real = study.ask
    monkeypatch.setattr(study, "ask", lambda: (real(), real())[1])
    trial, done = claim(study, 1, tmp_path, RandomSampler)
    assert (trial, done) == (None, False)
    assert states(study) == ["RUNNING", "FAIL"]
    assert study.get_trials()[1].user_attrs[REASON] == hpo.claims.SURPLUS


def test_of_two_retries_of_one_trial_the_later_steps_back(study, tmp_path):
    first = started(study, tmp_path)
    fail(study, first, "x")
    for _ in range(2):
        study.enqueue_trial({"x": 0.5}, user_attrs={RETRY_OF: 0, FOLDER: 0})
    one, _ = claim(study, 9, tmp_path, RandomSampler)
    two, _ = claim(study, 9, tmp_path, RandomSampler)
    assert one.number == 1
    assert two is None


def test_a_study_whose_trials_all_fail_ends(study, tmp_path):
    for i in range(3):
        fail(study, started(study, tmp_path, 2), f"reason {i}")
    with pytest.raises(RunFailed, match="reason 2"):
        claim(study, 2, tmp_path, RandomSampler)
