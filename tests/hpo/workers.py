"""Studies of a small cache, and workers in processes of their own that are killed at a moment of the test's choice."""

import multiprocessing
import os
import signal
import time
from datetime import timedelta

import optuna
import torch
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState
from rich.console import Console
from rich.live import Live

import engine.training.run
import hpo.dispatch
import hpo.drive
import hpo.study
from engine.config_file import load
from hpo.config import StudyConfig, Work

SMALL = ["data.context=6", "data.block_days=24", "model.spans=[3]", "train.epochs=4", "train.patience=4"]
QUIET = Console(quiet=True)

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.hpo.preload"])


def work(cache, folder, trials=4, storage=None, settings=(), name="s"):
    config = load(StudyConfig, None, [*SMALL, *settings], str(cache))
    return Work(config, trials, folder, name, storage)


def start_worker(work, moment=None):
    """A worker in a process of its own, which SIGKILL ends at the moment."""
    return _start(_run_worker, work, moment, torch.get_num_threads())


def first_is_killed(work, threads):
    """A worker of `atft-engine hpo --workers`, of which the first is killed beside another."""
    moment = "beside another" if multiprocessing.current_process().name == "worker-0" else None
    _run_worker(work, moment, threads)


def start_parent(work):
    """A process that starts one worker as `atft-engine hpo --workers` starts several."""
    return _start(_run_parent, work)


def _start(target, work, *arguments):
    work.folder.mkdir(exist_ok=True)
    process = processes.Process(target=target, args=(work, *arguments))
    process.start()
    return process


def _run_parent(work):
    hpo.study._run_workers(work, hpo.study._open_study(work), 1, Live(console=QUIET))


def _run_worker(work, moment, threads):
    if moment is not None:
        MOMENTS[moment]()
    hpo.study._worker(work, threads)


def _die(*_arguments, **_more):
    os.kill(os.getpid(), signal.SIGKILL)


def _when_claimed():
    """A trial is running in the storage, and its worker has not said that it holds it."""
    hpo.drive.hold = _die


def _when_opening():
    """The run has a folder, with a checkpoint and no configuration."""
    engine.training.run.write_atomically = _die
    hpo.dispatch.UNHELD = timedelta(0)  # of the trial that was only claimed


def _at_second_epoch():
    real, epochs = optuna.Trial.report, []

    def report(trial, value, step):
        real(trial, value, step)
        epochs.append(step)
        if len(epochs) == 2:
            _die()

    optuna.Trial.report = report


def _beside_another():
    """At an epoch's end, while another worker runs another trial."""
    real = optuna.Trial.report

    def report(trial, value, step):
        real(trial, value, step)
        end = time.monotonic() + 120  # should there be no other, the test fails instead of hanging
        while len(trial.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        _die()

    optuna.Trial.report = report


def _before_retry():
    """Another worker's trial has failed, and is not queued again."""
    RetryHeartbeatStaleTrialCallback.__call__ = _die


def _before_result():
    """The trial has been trained to its end, and the study does not know."""
    optuna.Study.tell = _die


MOMENTS = {
    "claimed": _when_claimed,
    "opening": _when_opening,
    "second epoch": _at_second_epoch,
    "beside another": _beside_another,
    "before retry": _before_retry,
    "before result": _before_result,
}
