"""Which worker runs which trial, and whose trial must be run again.

A study ends with exactly as many finished (complete or pruned) trials as were asked for, whatever was killed: a trial
whose worker died fails without a reason, and is put back as a new trial with the same parameters and run folder, which
goes on from the last checkpoint. A trial that failed by itself has a reason, and another takes its place.

Workers of one machine take turns by a lock on a file; workers of several machines may for a moment take one trial too
many, and the later one steps back.
"""

import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import fail_stale_trials
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.trial import FrozenTrial, TrialState

from engine.train.run import RunFailed

REASON, OWNER, RETRY_OF, FOLDER = "reason", "owner", "retry_of", "folder"  # attributes of trials, like the next
SETTINGS, EPOCHS, SECONDS = "settings", "epochs", "seconds"
SURPLUS = "another worker had taken the last place"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
UNCLAIMED_S = 10.0  # after which a running trial without an owner is taken for one whose worker died at once


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Wait for, and hold, the turn among the workers of this machine; a worker that dies gives it back."""
    with (folder / ".turn").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def claim(
    study: optuna.Study, wanted: int, folder: Path, sampler: Callable[[int], BaseSampler]
) -> tuple[optuna.Trial | None, bool]:
    """A trial for this worker, or None while the others may finish what is wanted; and whether all is done.

    Args:
        sampler: for the trial of that number, so that no two workers draw alike, and a study begun again goes on.

    Raises RunFailed where more trials have failed by themselves than are wanted.
    """
    with turn(folder):
        _give_up_dead(study)
        every = study.get_trials(deepcopy=False)
        finished = sum(trial.state in FINISHED for trial in every)
        if finished >= wanted:
            return None, True
        failed = [trial.user_attrs[REASON] for trial in every if trial.state == TrialState.FAIL and _own(trial)]
        if len(failed) > wanted:
            raise RunFailed(
                f"{len(failed)} trials failed, more than the {wanted} that are wanted; the last: {failed[-1]}"
            )
        if finished + sum(trial.state == TrialState.RUNNING for trial in every) >= wanted:
            return None, False
        study.sampler = sampler(len(every))
        trial = study.ask()
        trial.set_user_attr(OWNER, _me())
    if _too_many(study, trial, wanted):
        fail(study, trial, SURPLUS)
        return None, False
    return trial, False


def fail(study: optuna.Study, trial: optuna.Trial, reason: str) -> None:
    """End a trial that gave no figure, so that it is not run again."""
    trial.set_user_attr(REASON, reason)
    study.tell(trial, state=TrialState.FAIL)


def _own(trial: FrozenTrial) -> bool:
    return trial.user_attrs.get(REASON, SURPLUS) != SURPLUS


def _give_up_dead(study: optuna.Study) -> None:
    fail_stale_trials(study)  # by heartbeats, where the storage has them
    every = study.get_trials(deepcopy=False)
    for trial in every:
        if trial.state == TrialState.RUNNING and _dead(trial):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    retried = {trial.user_attrs.get(RETRY_OF) for trial in every}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
        if REASON not in trial.user_attrs and trial.number not in retried:
            seconds = trial.user_attrs.get(SECONDS, 0.0)
            attributes = {RETRY_OF: trial.number, FOLDER: folder_number(trial), SECONDS: seconds}
            study.enqueue_trial(trial.params, user_attrs=attributes)


def folder_number(trial: FrozenTrial | optuna.Trial) -> int:
    """The number in the name of a trial's run folder: that of the first trial that wrote there."""
    return int(trial.user_attrs.get(FOLDER, trial.number))


def _too_many(study: optuna.Study, trial: optuna.Trial, wanted: int) -> bool:
    before = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
    standing = [
        other
        for other in before
        if other.state in FINISHED or (other.state == TrialState.RUNNING and other.number < trial.number)
    ]
    again = trial.user_attrs.get(RETRY_OF)
    twice = again is not None and any(
        other.user_attrs.get(RETRY_OF) == again and other.number < trial.number for other in before
    )
    return twice or len(standing) >= wanted


def _me() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}


def _dead(trial: FrozenTrial) -> bool:
    owner = trial.user_attrs.get(OWNER)
    if owner is None:
        began = trial.datetime_start or datetime.now()
        return time.time() - began.timestamp() > UNCLAIMED_S
    return owner["host"] == socket.gethostname() and _started(owner["pid"]) != owner["started"]


def _started(pid: int) -> str | None:
    """When a process began, which tells it from a later one of the same number; None where there is none."""
    try:
        # The command's name, in brackets, may hold spaces; the 20th field after it is the time of the start.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]  # dead, though its parent has not yet taken note


@contextmanager
def heartbeat(study: optuna.Study, trial: optuna.Trial) -> Iterator[None]:
    """Signs of life of a running trial, where the storage takes them: for workers of other machines."""
    storage, stop = study._storage, threading.Event()
    if not isinstance(storage, BaseHeartbeat) or storage.get_heartbeat_interval() is None:
        yield
        return

    def beat() -> None:
        while True:
            storage.record_heartbeat(trial._trial_id)
            if stop.wait(storage.get_heartbeat_interval()):
                return

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
