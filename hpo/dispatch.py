"""Hand out trials to workers, so that exactly as many finish as are wanted, whatever is killed.

Optuna stores trials, sends heartbeats and queues retries. Exact counts need three things more:

count    Optuna's MaxTrialsCallback ends each worker after its own trial, so several workers finish too many. Here a
         worker claims a trial only while finished and running trials are fewer than wanted. Workers that share a
         folder take turns: in its turn one claims a trial, holds it and draws its settings. Of workers elsewhere that
         claim at the same moment, the one with the higher trial number withdraws.
death    Optuna's heartbeats need a database and take a minute. Here a worker also holds a file lock during its trial.
         The system releases it when the process ends, so workers that share the folder notice at once. Where all
         workers share it, a trial that nobody holds in another's turn is lost.
retry    Optuna loses the trial of a worker that is killed before the first heartbeat, or between the failure of a
         trial and its retry. Here a trial that failed without a reason is retried wherever it has no retry yet. A
         trial that failed by itself has a reason, and a new trial takes its place.
order    A sampler's seed is that of the trial's place among the trials that repeat no other, so a study that was
         killed and continued draws what an unbroken one does, and its pruner sees each trial once.
"""

import copy
import fcntl
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.storages._heartbeat import get_heartbeat_thread
from optuna.trial import FrozenTrial, TrialState

from engine.errors import RunFailed
from hpo.storage import FINISHED, FOLDER, HELD, REASON, RUNS, SETTINGS
from loaders.errors import WriteError

SURPLUS = "another worker claimed the last trial"
UNHELD = timedelta(seconds=10)  # after that a running trial that no worker holds yet is taken for lost


def claim(study: optuna.Study, wanted: int, folder: Path, sampler: Callable[[int], BaseSampler]) -> optuna.Trial | None:
    """A trial for this worker, which must `hold` it in the same `turn`; None while the running trials may be enough.

    Args:
        folder: of the study.
        sampler: makes the sampler of a trial from its place, see `order` above.

    Raises RunFailed where more trials failed by themselves than are wanted.
    """
    _fail_dead(study, folder)
    # One snapshot: a trial lost between two would be retried and replaced.
    trials = study.get_trials(deepcopy=False)
    _retry_lost(study, trials)
    failed = [trial for trial in trials if failed_by_itself(trial)]
    if len(failed) > wanted:
        last = failed[-1].user_attrs[REASON]
        raise RunFailed(f"{len(failed)} trials failed, more than the {wanted} that are wanted; the last: {last}")
    if sum(trial.state in (*FINISHED, TrialState.RUNNING) for trial in trials) >= wanted:
        return None
    study.sampler = sampler(_next_place(study))
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
    with _locked(lock), get_heartbeat_thread(trial._trial_id, study._storage):
        trial.set_user_attr(FOLDER, trial.user_attrs.get(FOLDER, trial.number))
        trial.set_user_attr(HELD, trial.number)  # a retry starts with the attributes of the trial that it repeats
        yield run_folder(folder, trial)
        with _usable(lock):
            lock.unlink()


def run_folder(folder: Path, trial: FrozenTrial | optuna.Trial) -> Path:
    """The folder of a trial's runs, in the study's folder."""
    return folder / RUNS / f"{trial.user_attrs[FOLDER]:04d}"


def should_prune(study: optuna.Study, trial: optuna.Trial) -> bool:
    """Whether the study's pruner ends a trial, by trials that no other repeats: a retry stands for those before it."""
    lost = {repeats(one) for one in study.get_trials(deepcopy=False)}

    def of_each(deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        return [one for one in study.get_trials(deepcopy, states) if one.number not in lost]

    view = copy.copy(study)
    view.get_trials = of_each  # type: ignore[method-assign]
    return study.pruner.prune(view, study.get_trials(deepcopy=False)[trial.number])


def fail(study: optuna.Study, trial: optuna.Trial, reason: str) -> None:
    """Fail a trial for good: it is not retried."""
    trial.set_user_attr(REASON, reason)
    study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)


def failed_by_itself(trial: FrozenTrial) -> bool:
    """Whether a trial failed for a reason of its own: it was neither killed nor surplus."""
    return trial.state == TrialState.FAIL and trial.user_attrs.get(REASON, SURPLUS) != SURPLUS


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Lock out the other workers that share the folder. Raises WriteError where there can be no lock."""
    with _locked(folder / ".turn"):
        yield


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Lock a file, which is made where it is missing. Raises WriteError where that cannot be."""
    with _usable(lock):
        lock.parent.mkdir(exist_ok=True)
        file = lock.open("w")
    with file:
        with _usable(lock):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _usable(lock: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cure = "Mend that; the same command resumes the study"
        raise WriteError(str(lock), f"cannot be used ({error.strerror})", cure) from error


def _fail_dead(study: optuna.Study, folder: Path) -> None:
    fail_stale_trials(study)  # by heartbeats, where the storage has them
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _dead(trial, folder, alone=isinstance(study._storage, JournalStorage)):
            with suppress(UpdateFinishedTrialError):  # another worker was faster
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _dead(trial: FrozenTrial, folder: Path, alone: bool) -> bool:
    """Whether the worker of a running trial is gone; False where only heartbeats can tell.

    Args:
        alone: all workers have this folder, since the study lives in it.
    """
    if trial.user_attrs.get(HELD) != trial.number:
        if alone:  # its worker's turn has ended
            return True
        return trial.datetime_start is not None and datetime.now() - trial.datetime_start > UNHELD
    lock = _lock(folder, trial.number)
    with _usable(lock):
        try:
            with lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:  # held in another folder, or the study lost the record of its end
            return alone
        except BlockingIOError:  # held in this folder
            return False
    return True


def _lock(folder: Path, number: int) -> Path:
    return folder / RUNS / f"{number:04d}.lock"


def _retry_lost(study: optuna.Study, trials: list[FrozenTrial]) -> None:
    """Queue again each trial that failed without a reason, with its attributes and, if all are drawn, parameters."""
    retried = {repeats(trial) for trial in trials}
    for trial in trials:
        if trial.state == TrialState.FAIL and REASON not in trial.user_attrs and trial.number not in retried:
            lost = copy.deepcopy(trial)
            if SETTINGS not in lost.user_attrs:  # drawn in part: what is left would be drawn from other random numbers
                lost.params, lost.distributions = {}, {}
            # What its pruner kept: the retry reports every epoch again, and may have been about to be pruned.
            for name in [name for name in lost.system_attrs if name.startswith("completed_rung_")]:
                del lost.system_attrs[name]
            RetryHeartbeatStaleTrialCallback()(study, lost)


def _next_place(study: optuna.Study) -> int:
    """The place of the trial that is asked for next: that of the trial it repeats, where it is a retry."""
    trials = study.get_trials(deepcopy=False)
    waiting = next((trial for trial in trials if trial.state == TrialState.WAITING), None)
    first = len(trials)
    if waiting is not None:
        first = (RetryHeartbeatStaleTrialCallback.retry_history(waiting) or [waiting.number])[0]
    return sum(repeats(trial) is None for trial in trials[:first])


def repeats(trial: FrozenTrial) -> int | None:
    """The number of the trial that this one retries; None: it is no retry."""
    history = RetryHeartbeatStaleTrialCallback.retry_history(trial)
    return history[-1] if history else None


def _surplus(study: optuna.Study, number: int, wanted: int) -> bool:
    """Whether the trials before this one are enough, or one of them already is the same retry.

    Numbers follow the order of creation, so no trial can still appear before this one; those that have not failed may
    finish. Hence at most `wanted` trials finish of those for which this was False.
    """
    trials = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    before = [trial for trial in trials.values() if trial.number < number]
    repeated = repeats(trials[number])
    twice = repeated is not None and repeated in map(repeats, before)
    return twice or sum(trial.state != TrialState.FAIL for trial in before) >= wanted
