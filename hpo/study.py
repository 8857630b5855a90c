"""`atft-engine hpo`: a study of many trials on one open panel, from the first to its results.

The loop is ask, train, tell (`hpo.drive`); samplers, pruners and storages are Optuna's.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial
from rich.console import Console, Group
from rich.live import Live

from engine.config_file import config_hash
from engine.dates import dates_of
from engine.errors import RunFailed, Stopped
from engine.inputs import open_inputs, resolve, resolve_device
from engine.reporting.report import report_study
from engine.rivals.beside import check_library
from engine.training.schedule import phases_of
from hpo.algorithms import PRUNERS
from hpo.config import NETWORK, StudyConfig, Work
from hpo.dispatch import run_folder
from hpo.drive import run_trials
from hpo.results import status, write_results
from hpo.space import check_space, check_values, parameters_of
from hpo.storage import (
    DAYS,
    JOURNAL,
    check_attributes,
    check_folder,
    check_known,
    count_finished,
    open_storage,
    reading,
    storage_errors,
    storage_failed,
)
from hpo.trials.folds import study_folds, tuning_days
from loaders.disk.durable import make_folder
from loaders.errors import InputError
from loaders.panel import open_panel

BATCH = 20  # trials of a batch on a GPU
IDENTITY = "identity"  # attribute of the study: cache, configuration, space and days


def run_study(work: Work, workers: int, console: Console) -> optuna.Study:
    """Run trials until as many as are wanted are complete or pruned, then write the study's results.

    An existing study is resumed. One worker is this process, several are processes of their own.

    Raises InputError for a bad space, cache or storage, or a study of another search; WriteError where something cannot
    be written; RunFailed where too many trials failed; Stopped after a signal. The same command resumes the study.
    """
    _quiet()
    check_space(work.config)
    check_library(work.config.hpo.kind, f"--kind {work.config.hpo.kind}")
    make_folder(work.folder)
    check_values(work.config)
    try:
        return _run_study(work, workers, console)
    except storage_errors() as error:
        raise storage_failed(_where(work), error) from error


def _run_study(work: Work, workers: int, console: Console) -> optuna.Study:
    study, started = _open_study(work), time.monotonic()
    tuned_until = max(study.user_attrs[DAYS]["last"], work.config.split.tuned_until or "")
    of_fold = sum(phase.epochs for phase in phases_of(work.config)) if work.config.hpo.kind == NETWORK else 1
    epochs = of_fold * max(work.config.hpo.folds, 1)

    last = Group()

    def shown() -> Group:
        """The status, or the last one: a thread asks for it too, and what fails is said by those who run trials."""
        nonlocal last
        with suppress(InputError, *storage_errors()):
            last = status(study, work.trials, epochs, started, console.is_terminal)
        return last

    live = Live(console=console, get_renderable=shown, refresh_per_second=1)
    if workers == 1:
        with open_inputs(work.config, _device(work.config)) as inputs, live:
            run_trials(work, study, inputs, study_folds(work.config, inputs.panel, inputs.device))
    else:
        _run_workers(work, study, workers, live)
    write_results(study, work.config, tuned_until, work.folder)
    report_study(work.folder, console)
    return study


def _device(config: StudyConfig) -> str:
    return config.train.device if config.hpo.kind == NETWORK else "cpu"


def _where(work: Work) -> str:
    """Where the study lives, for messages."""
    return str(work.folder / JOURNAL) if work.storage is None else f"--storage {work.storage}"


def batch_size(asked: str, config: StudyConfig, trials: int) -> int:
    """Trials that a process trains at a time; "auto": BATCH on a GPU, where a step of many models takes little more
    than a step of one, and one on a CPU, whose threads are faster. Raises InputError for what is no number.
    """
    if asked == "auto":
        return min(BATCH, trials) if resolve_device(_device(config)).type == "cuda" else 1
    if not asked.isdecimal() or int(asked) < 1:
        raise InputError("--batch", f"{asked!r} is no number of trials", "Give 1 or more, or auto")
    if config.hpo.kind != NETWORK and int(asked) > 1:
        raise InputError("--batch", f"{config.hpo.kind} is fitted one trial at a time", "Leave it out")
    return min(int(asked), trials)


def trial_folders(work: Work, trial: FrozenTrial) -> list[Path]:
    """The run folders of a trial, one for each fold."""
    folder = run_folder(work.folder, trial)
    count = work.config.hpo.folds
    return [folder / f"fold-{number}" for number in range(count)] if count > 1 else [folder]


def _quiet() -> None:
    """Silence what Optuna says of every trial, of interfaces that may change, and of heartbeats without optimize()."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", ExperimentalWarning)
    warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used with Study.optimize")


def _open_study(work: Work) -> optuna.Study:
    """Create or load the study. Raises InputError where it searches something else.

    Its first trial is the command's own configuration, where the space holds it: what the others have to beat.
    """
    hpo, panel = work.config.hpo, open_panel(work.config.data.arrow, work.config.data.store)
    check_folder(work.folder, work.name)
    told: list[str] = []
    storage = open_storage(work.storage, work.folder, told.append)
    with reading(_where(work)):
        study = optuna.create_study(
            storage=storage, study_name=work.name, load_if_exists=True, directions=["maximize"] * len(hpo.metrics),
            pruner=PRUNERS[hpo.pruner](),
        )  # fmt: skip
        check_attributes(study, _where(work))
        check_known(study, work.folder, _where(work))
    for line in told:  # not beside the line of one that is refused
        print(line, file=sys.stderr)
    searched = hpo.model_dump_json(exclude={"sampler", "pruner", "seed"})
    folds = study_folds(work.config, panel)
    dates = [dates_of(fold.split, panel.calendar) for _, fold in folds]
    identity = [panel.manifest.cache_id, config_hash(resolve(work.config, panel), hpo.sections), searched, dates]
    if study.user_attrs.get(IDENTITY, identity) != identity:
        what = f"the study {work.name!r} has another cache, configuration or space, or other days"
        raise InputError(str(work.folder), what, "Repeat the command that began it, or pass another --study and --out")
    study.set_user_attr(IDENTITY, identity)
    study.set_user_attr(DAYS, tuning_days(folds))
    own = parameters_of(work.config, len(panel.manifest.horizons))
    if own is not None and not study.get_trials(deepcopy=False):
        study.enqueue_trial(own)
    return study


def _run_workers(work: Work, study: optuna.Study, workers: int, live: Live) -> None:
    """Run several workers, each a process with its share of the cores, and show the study's status meanwhile.

    A worker that dies leaves its trial to the others.
    """
    context = multiprocessing.get_context("spawn")
    threads = max(torch.get_num_threads() // workers, 1)
    processes = [
        context.Process(target=_worker, args=(work, threads), name=f"worker-{number}") for number in range(workers)
    ]
    try:
        with _handled_by(signal.default_int_handler, signal.SIGINT, signal.SIGTERM):
            # Workers inherit that they ignore Ctrl-C, which a terminal sends to all: this process ends them.
            with _handled_by(signal.SIG_IGN, signal.SIGINT):
                for process in processes:
                    process.start()
            with live:
                for process in processes:
                    process.join()
    except KeyboardInterrupt as stop:
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()
        raise Stopped(f"{work.folder}: stopped by a signal. The same command resumes it") from stop
    finished = count_finished(study)
    if finished < work.trials:
        codes = ", ".join(str(process.exitcode) for process in processes)
        what = f"{work.folder}: the workers ended (exit codes {codes}) after {finished} of {work.trials} trials"
        raise RunFailed(f"{what}. The same command resumes it")


@contextmanager
def _handled_by(handler: Any, *numbers: int) -> Iterator[None]:
    """Let a handler take signals while the block runs; in a thread beside the main one, which gets none, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def _worker(work: Work, threads: int) -> None:
    threading.Thread(target=_stop_with_parent, name="parent", daemon=True).start()
    _quiet()
    torch.set_num_threads(threads)
    try:
        with open_inputs(work.config, _device(work.config)) as inputs:
            run_trials(work, _open_study(work), inputs, study_folds(work.config, inputs.panel, inputs.device))
    except Stopped:
        sys.exit(1)  # by the process that started this one, which says so
    except (InputError, RunFailed) as error:
        sys.exit(str(error))  # a line on stderr, and exit code 1
    except storage_errors() as error:
        sys.exit(str(storage_failed(_where(work), error)))


def _stop_with_parent() -> None:
    """Send this process SIGTERM once the one that started it is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
