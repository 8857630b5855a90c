"""Exact counts: what a killed worker leaves is retried, once, and nothing is run for nothing.

A killed worker is one whose lock is released before the study hears of its trial, as the system does for a process.
"""

import contextlib
import threading
from datetime import timedelta

import optuna
import pytest
import sqlalchemy
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import RandomSampler
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState

import hpo.dispatch
from engine.errors import RunFailed
from hpo.dispatch import SURPLUS, claim, fail, hold, repeats, turn
from hpo.storage import REASON, SECONDS, open_storage


@pytest.fixture
def opened(storage, tmp_path, name):
    """Opens the study in a storage of its own, as another worker would."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def open_study(opened_storage=None):
        return optuna.create_study(
            storage=opened_storage or open_storage(storage, tmp_path),
            study_name=name,
            direction="maximize",
            load_if_exists=True,
        )

    return open_study


@pytest.fixture
def study(opened, storage, reopened):
    return opened(storage and reopened(storage))


@pytest.fixture
def alive():
    """Holds of workers that are alive until the test ends."""
    with contextlib.ExitStack() as holds:
        yield holds


class Killed(BaseException):
    pass


def kill_at(study, trial, folder, seconds=None):
    """Run a claimed trial until its worker is killed; gives its parameters and its run folder."""
    with contextlib.suppress(Killed), hold(study, trial, folder) as run:
        trial.suggest_float("x", 0, 1)
        if seconds is not None:
            trial.set_user_attr(SECONDS, seconds)
        raise Killed
    return trial.params, run


def held(study, alive, folder):
    """A trial that its worker holds until the test ends."""
    trial = claim(study, 2, folder, RandomSampler)
    alive.enter_context(hold(study, trial, folder))
    return trial


def states(study):
    return [trial.state.name for trial in study.get_trials()]


def test_workers_draw_apart(opened, alive, tmp_path):
    drawn = []
    for study in (opened(), opened(), opened()):
        trial = claim(study, 6, tmp_path, RandomSampler)
        alive.enter_context(hold(study, trial, tmp_path))
        drawn.append(trial.suggest_float("x", 0, 1))
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("storage", [None], indirect=True, ids=["journal"])
def test_workers_that_claim_at_once_draw_apart(opened, alive, tmp_path, monkeypatch):
    study, other, drawn = opened(), opened(), []

    def draw(worker):
        with turn(tmp_path):
            trial = claim(worker, 6, tmp_path, RandomSampler)
            alive.enter_context(hold(worker, trial, tmp_path))
            drawn.append(trial.suggest_float("x", 0, 1))

    real, thread = study.ask, threading.Thread(target=draw, args=(other,))

    def ask_while_another_claims():
        thread.start()
        thread.join(timeout=0.5)  # the whole of it, where the other waits for its turn
        return real()

    monkeypatch.setattr(study, "ask", ask_while_another_claims)
    draw(study)
    thread.join()
    assert len(set(drawn)) == 2


def test_a_killed_workers_trial_is_retried_with_its_parameters_and_folder(opened, tmp_path):
    study, other = opened(), opened()
    params, run = kill_at(study, claim(study, 3, tmp_path, RandomSampler), tmp_path, seconds=12.5)
    for worker in (other, study):  # and a retry that is killed is retried like any other trial
        again = claim(worker, 3, tmp_path, RandomSampler)
        assert again.user_attrs[SECONDS] == 12.5
        assert kill_at(worker, again, tmp_path) == (params, run)
    assert states(study) == ["FAIL", "FAIL", "RUNNING"]


def test_a_worker_killed_between_failing_a_trial_and_retrying_it_loses_nothing(study, tmp_path):
    trial = claim(study, 3, tmp_path, RandomSampler)
    params, run = kill_at(study, trial, tmp_path)
    study.tell(trial, state=TrialState.FAIL)
    assert kill_at(study, claim(study, 3, tmp_path, RandomSampler), tmp_path) == (params, run)


@pytest.mark.parametrize("storage", [None], indirect=True, ids=["journal"])
@pytest.mark.parametrize("retry", [False, True])
def test_a_trial_of_the_folder_that_was_never_held_is_retried_at_once_in_its_place(study, tmp_path, retry):
    """Its worker was killed in its turn, so a trial that is asked for meanwhile would be drawn without it."""
    unheld = claim(study, 9, tmp_path, RandomSampler)
    if retry:
        kill_at(study, unheld, tmp_path)
        unheld = claim(study, 9, tmp_path, RandomSampler)
    again = claim(study, 9, tmp_path, RandomSampler)
    assert repeats(study.get_trials()[again.number]) == unheld.number
    assert states(study)[-2:] == ["FAIL", "RUNNING"]


@pytest.mark.parametrize("storage", ["sqlite", "postgresql", "grpc"], indirect=True)
@pytest.mark.parametrize("retry", [False, True])
def test_a_trial_that_was_never_held_is_given_up_after_a_while(study, tmp_path, monkeypatch, retry):
    unheld = claim(study, 1, tmp_path, RandomSampler)
    if retry:
        kill_at(study, unheld, tmp_path)
        unheld = claim(study, 1, tmp_path, RandomSampler)
    assert claim(study, 1, tmp_path, RandomSampler) is None
    monkeypatch.setattr(hpo.dispatch, "UNHELD", timedelta(0))
    assert claim(study, 1, tmp_path, RandomSampler).number == unheld.number + 1


def test_a_live_workers_trial_is_left_to_it(opened, tmp_path, alive, monkeypatch):
    study, other = opened(), opened()
    alive.enter_context(hold(study, claim(study, 1, tmp_path, RandomSampler), tmp_path))
    monkeypatch.setattr(hpo.dispatch, "UNHELD", timedelta(0))
    assert claim(other, 1, tmp_path, RandomSampler) is None
    assert states(other) == ["RUNNING"]


def test_a_trial_that_finishes_while_it_is_taken_for_lost_stays_finished(study, tmp_path, monkeypatch):
    def finish(trial, folder, alone):
        study.tell(trial.number, 1.0)
        return True

    claim(study, 1, tmp_path, RandomSampler)
    monkeypatch.setattr(hpo.dispatch, "_dead", finish)
    assert claim(study, 1, tmp_path, RandomSampler) is None
    assert states(study) == ["COMPLETE"]


def test_a_worker_whose_trial_was_given_up_cannot_write_to_it(opened, tmp_path):
    study, other = opened(), opened()
    slow = claim(study, 1, tmp_path, RandomSampler)
    with contextlib.ExitStack() as stack:
        stack.enter_context(hold(study, slow, tmp_path))
        other.tell(slow.number, state=TrialState.FAIL)  # as for heartbeats that come too late
        with pytest.raises(UpdateFinishedTrialError):
            slow.set_user_attr(SECONDS, 1.0)
    assert claim(other, 1, tmp_path, RandomSampler).number == 1


@pytest.mark.parametrize("storage", ["sqlite", "postgresql"], indirect=True)
def test_a_trial_held_elsewhere_is_given_up_by_its_heartbeats(opened, storage, tmp_path):
    study, here, elsewhere = opened(), tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    params, _ = kill_at(study, claim(study, 1, elsewhere, RandomSampler), elsewhere)
    assert claim(study, 1, here, RandomSampler) is None
    engine = sqlalchemy.create_engine(storage)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = '2000-01-01 00:00:00'"))
    engine.dispose()
    assert kill_at(study, claim(study, 1, here, RandomSampler), here)[0] == params


def test_a_trial_that_failed_by_itself_is_replaced_and_not_retried(study, tmp_path):
    first = claim(study, 3, tmp_path, RandomSampler)
    drawn = first.suggest_float("x", 0, 1)
    fail(study, first, "rank_ic is missing")
    second = claim(study, 3, tmp_path, RandomSampler)
    assert second.suggest_float("x", 0, 1) != drawn
    assert RetryHeartbeatStaleTrialCallback.retry_history(study.get_trials()[1]) == []
    assert study.get_trials()[0].user_attrs[REASON] == "rank_ic is missing"


def test_no_more_trials_run_than_are_missing(study, tmp_path, alive):
    first, second = (held(study, alive, tmp_path) for _ in range(2))
    assert claim(study, 2, tmp_path, RandomSampler) is None  # wait: one of them may yet fail
    study.tell(first, 1.0)
    assert claim(study, 2, tmp_path, RandomSampler) is None
    study.tell(second, state=TrialState.PRUNED)
    assert claim(study, 2, tmp_path, RandomSampler) is None
    assert states(study) == ["COMPLETE", "PRUNED"]


def test_of_two_workers_that_ask_at_once_the_later_withdraws(study, tmp_path, monkeypatch):
    """The trial of another worker, elsewhere, comes between this one's look and its own."""
    real = study.ask
    monkeypatch.setattr(study, "ask", lambda: (real(), real())[1])
    assert claim(study, 1, tmp_path, RandomSampler) is None
    assert states(study) == ["RUNNING", "FAIL"]
    assert study.get_trials()[1].user_attrs[REASON] == SURPLUS


def test_of_two_retries_of_a_trial_the_later_withdraws(study, tmp_path):
    kill_at(study, claim(study, 9, tmp_path, RandomSampler), tmp_path)
    study.tell(0, state=TrialState.FAIL)
    for _ in range(2):  # as two workers elsewhere would that see the failure at once
        RetryHeartbeatStaleTrialCallback()(study, study.get_trials()[0])
    assert claim(study, 9, tmp_path, RandomSampler).number == 1
    assert claim(study, 9, tmp_path, RandomSampler) is None
    assert study.get_trials()[2].user_attrs[REASON] == SURPLUS
    assert claim(study, 9, tmp_path, RandomSampler).number == 3


def test_a_study_whose_trials_all_fail_ends(study, tmp_path):
    for i in range(3):
        fail(study, claim(study, 2, tmp_path, RandomSampler), f"reason {i}")
    with pytest.raises(RunFailed, match="reason 2"):
        claim(study, 2, tmp_path, RandomSampler)
