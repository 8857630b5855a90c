"""Hand out trials to workers, so that exactly as many finish as are wanted, whatever is killed.

Optuna stores trials, sends heartbeats and queues retries. Exact counts need three things more:

count    Optuna's MaxTrialsCallback ends each worker after its own trial, so several workers finish too many. Here a
         worker claims a trial only while finished and running trials are fewer than wanted. Workers that share a
         folder claim one after the other. Of workers elsewhere that claim at the same moment, the one with the higher
         trial number withdraws.
death    Optuna's heartbeats need a database and take a minute. Here a worker also holds a file lock during its trial.
         The system releases it when the process ends, so workers that share the folder notice at once.
retry    Optuna loses the trial of a worker that is killed before the first heartbeat, or between the failure of a
         trial and its retry. Here a trial that failed without a reason is retried wherever it has no retry yet. A
         trial that failed by itself has a reason, and a new trial takes its place.
"""

import copy
import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.storages._heartbeat import get_heartbeat_thread
from optuna.trial import FrozenTrial, TrialState

from engine.errors import RunFailed
from hpo.storage import FINISHED, FOLDER, HELD, REASON

SURPLUS = "another worker claimed the last trial"
UNHELD = timedelta(seconds=10)  # after that a running trial that no worker holds yet is taken for lost


def claim(study: optuna.Study, wanted: int, folder: Path, sampler: Callable[[int], BaseSampler]) -> optuna.Trial | None:
    """A trial for this worker, which must `hold` it; None while the running trials may be enough.

    Args:
        folder: of the study.
        sampler: makes the sampler of a trial from its number.

    Raises RunFailed where more trials failed by themselves than are wanted.
    """
    with _turn(folder):
        _fail_dead(study, folder)
        trials = study.get_trials(
            deepcopy=False
        )  # one snapshot: a trial lost between two would be retried and replaced
        _retry_lost(study, trials)
        failed = [trial for trial in trials if failed_by_itself(trial)]
        if len(failed) > wanted:
            last = failed[-1].user_attrs[REASON]
            raise RunFailed(f"{len(failed)} trials failed, more than the {wanted} that are wanted; the last: {last}")
        if sum(trial.state in (*FINISHED, TrialState.RUNNING) for trial in trials) >= wanted:
            return None
        study.sampler = sampler(len(trials))
        trial = study.ask()
    if _surplus(study, trial.number, wanted):
        fail(study, trial, SURPLUS)
        return None
    return trial


@contextmanager
def hold(study: optuna.Study, trial: optuna.Trial, folder: Path) -> Iterator[Path]:
    """Show that the worker of a claimed trial is alive; yields the trial's run folder.

    A retry has the run folder of the trial that it repeats, and so resumes from the last checkpoint.

    Raises UpdateFinishedTrialError, like any later write to the trial, where it was taken for lost.
    """
    lock = _lock(folder, trial.number)
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as file, get_heartbeat_thread(trial._trial_id, study._storage):
        fcntl.flock(file, fcntl.LOCK_EX)
        trial.set_user_attr(FOLDER, trial.user_attrs.get(FOLDER, trial.number))
        trial.set_user_attr(HELD, trial.number)  # a retry starts with the attributes of the trial that it repeats
        yield run_folder(folder, trial)
        lock.unlink()


def run_folder(folder: Path, trial: FrozenTrial | optuna.Trial) -> Path:
    """The folder of a trial's runs, in the study's folder."""
    return folder / "trials" / f"{trial.user_attrs[FOLDER]:04d}"


def fail(study: optuna.Study, trial: optuna.Trial, reason: str) -> None:
    """Fail a trial for good: it is not retried."""
    trial.set_user_attr(REASON, reason)
    study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)


def failed_by_itself(trial: FrozenTrial) -> bool:
    """Whether a trial failed for a reason of its own: it was neither killed nor surplus."""
    return trial.state == TrialState.FAIL and trial.user_attrs.get(REASON, SURPLUS) != SURPLUS


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Lock out the other workers that share the folder."""
    with (folder / ".turn").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fail_dead(study: optuna.Study, folder: Path) -> None:
    fail_stale_trials(study)  # by heartbeats, where the storage has them
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _dead(trial, folder):
            with suppress(UpdateFinishedTrialError):  # another worker was faster
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _dead(trial: FrozenTrial, folder: Path) -> bool:
    """Whether the worker of a running trial is gone; False where only heartbeats can tell."""
    if trial.user_attrs.get(HELD) != trial.number:
        return trial.datetime_start is not None and datetime.now() - trial.datetime_start > UNHELD
    try:
        with _lock(folder, trial.number).open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (FileNotFoundError, BlockingIOError):  # held in another folder, or in this one
        return False
    return True


def _lock(folder: Path, number: int) -> Path:
    return folder / "trials" / f"{number:04d}.lock"


def _retry_lost(study: optuna.Study, trials: list[FrozenTrial]) -> None:
    """Queue a retry, with the same parameters and attributes, of each trial that failed without a reason."""
    retried = {_repeats(trial) for trial in trials}
    for trial in trials:
        if trial.state == TrialState.FAIL and REASON not in trial.user_attrs and trial.number not in retried:
            RetryHeartbeatStaleTrialCallback()(study, copy.deepcopy(trial))


def _repeats(trial: FrozenTrial) -> int | None:
    """The number of the trial that this one retries."""
    history = RetryHeartbeatStaleTrialCallback.retry_history(trial)
    return history[-1] if history else None


def _surplus(study: optuna.Study, number: int, wanted: int) -> bool:
    """Whether the trials before this one are enough, or one of them already is the same retry.

    Numbers follow the order of creation, so no trial can still appear before this one; those that have not failed may
    finish. Hence at most `wanted` trials finish of those for which this was False.
    """
    trials = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    before = [trial for trial in trials.values() if trial.number < number]
    repeats = _repeats(trials[number])
    twice = repeats is not None and repeats in map(_repeats, before)
    return twice or sum(trial.state != TrialState.FAIL for trial in before) >= wanted
