"""`atft-engine hpo`: a study of many trials on one open panel, from the first to its results.

The loop is ask, train, tell (`_work`); samplers, pruners and storages are Optuna's.
"""

import multiprocessing
import os
import signal
import threading
import time
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.live import Live

from engine.config_file import config_hash
from engine.inputs import Inputs, open_inputs, resolve
from engine.train.fold import Fold
from engine.train.run import RunFailed, Stopped
from hpo.claims import EPOCHS, FINISHED, REASON, SECONDS, SETTINGS, claim, fail, folder_number, heartbeat
from hpo.config import StudyConfig
from hpo.progress import status
from hpo.results import write_results
from hpo.space import check_space, configured, parameters_of, suggest
from hpo.storage import open_storage
from hpo.trial import Pruned, TrialFailed, run_trial, study_folds
from loaders.errors import InputError
from loaders.order import mix
from loaders.panel import open_panel

ASKED = "asked"  # attribute of the study
WAIT_S = 0.5  # between two looks at what the other workers do


@dataclass(frozen=True)
class Work:
    """What the workers of a study share."""

    config: StudyConfig
    trials: int  # finished ones that are wanted
    folder: Path
    name: str
    storage: str | None  # URL, None: a journal in the folder


def run_study(work: Work, workers: int, console: Console) -> optuna.Study:
    """Run trials until as many as are wanted are complete or pruned, then write the study's results.

    A study that exists is resumed. One worker is this process, several are processes of their own.

    Raises InputError for a space, cache or storage that will not do, or a study of another search; RunFailed where too
    many trials failed; Stopped after a signal: the same command resumes.
    """
    _quiet()
    check_space(work.config.hpo.space)
    work.folder.mkdir(parents=True, exist_ok=True)
    study, begun = _open(work), time.monotonic()
    if workers == 1:
        live = Live(console=console, get_renderable=lambda: status(study, work.trials, begun), refresh_per_second=1)
        with open_inputs(work.config, work.config.train.device) as inputs, live:
            _work(work, study, inputs)
    else:
        _together(work, study, workers, console, begun)
    write_results(study, work.config, work.folder)
    return study


def _quiet() -> None:
    """Optuna tells of every trial and of what may change in later releases; the study tells its own."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


def _open(work: Work) -> optuna.Study:
    """The study, made or found; refused where it searches something else.

    Its first trial is the command's own configuration, where the space holds it: what the others have to beat.
    """
    hpo, panel = work.config.hpo, open_panel(work.config.data.arrow, work.config.data.store)
    storage = open_storage(work.storage, work.folder)
    study = optuna.create_study(
        storage=storage, study_name=work.name, directions=["maximize"] * len(hpo.metrics), load_if_exists=True,
        pruner=_pruner(work.config),
    )  # fmt: skip
    searched = hpo.model_dump_json(exclude={"sampler", "pruner", "seed"})
    asked = [panel.manifest.cache_id, config_hash(resolve(work.config, panel)), searched]
    if study.user_attrs.get(ASKED, asked) != asked:
        what = f"the study {work.name!r} was begun with another cache, configuration or space"
        raise InputError(str(work.folder), what, "Give the command it began with, or another --study and --out")
    study.set_user_attr(ASKED, asked)
    own = parameters_of(work.config, len(panel.manifest.horizons))
    if own is not None and not study.get_trials(deepcopy=False):
        study.enqueue_trial(own)
    return study


def _pruner(config: StudyConfig) -> optuna.pruners.BasePruner:
    return {
        "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=2),
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=4),
        "wilcoxon": optuna.pruners.WilcoxonPruner,
        "none": optuna.pruners.NopPruner,
    }[config.hpo.pruner]()


def _sampler(config: StudyConfig, number: int) -> optuna.samplers.BaseSampler:
    """For the trial of that number."""
    seed = mix(config.hpo.seed, number) % 2**32
    return {
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=5),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "qmc": lambda: optuna.samplers.QMCSampler(scramble=True, seed=config.hpo.seed),
    }[config.hpo.sampler]()


def _work(work: Work, study: optuna.Study, inputs: Inputs) -> None:
    """Trials, one after the other, until enough are finished.

    Raises InputError where the cache's rows have changed on disk.
    """
    sampler, folds = partial(_sampler, work.config), study_folds(work.config, inputs)
    while True:
        inputs.verification.raise_if_failed()  # here: what fails one trial would fail all
        trial, done = claim(study, work.trials, work.folder, sampler)
        if done:
            inputs.verification.wait()
            return
        if trial is None:
            time.sleep(WAIT_S)
            continue
        with heartbeat(study, trial):
            _run(work, study, trial, inputs, folds)


def _run(
    work: Work, study: optuna.Study, trial: optuna.Trial, inputs: Inputs, folds: list[tuple[StudyConfig, Fold]]
) -> None:
    config = work.config
    settings = suggest(trial, config.hpo.space, len(inputs.panel.manifest.horizons))
    trial.set_user_attr(SETTINGS, settings)
    one = len(config.hpo.metrics) == 1
    by_fold = config.hpo.pruner == "wilcoxon"
    said: set[int] = set()
    before, begun = trial.user_attrs.get(SECONDS, 0.0), time.monotonic()

    def spent() -> None:
        """Say how long this trial took so far, with what workers that died at it had said."""
        trial.set_user_attr(SECONDS, before + time.monotonic() - begun)

    def report(fold: int, epochs: int, metrics: list[float]) -> bool:
        trial.set_user_attr(EPOCHS, epochs)
        spent()
        step = fold if by_fold else epochs
        if one and step not in said:
            said.add(step)
            trial.report(metrics[0], step)
            return trial.should_prune()
        return False

    try:
        configs = [(configured(of_fold, settings), fold) for of_fold, fold in folds]
        metrics, epochs = run_trial(configs, inputs, _folder(work, trial), report)
    except Pruned:
        spent()
        trial.set_user_attr(REASON, "pruned")
        study.tell(trial, state=TrialState.PRUNED)
    except (TrialFailed, InputError) as error:
        spent()
        fail(study, trial, str(error))
    else:
        trial.set_user_attr(EPOCHS, epochs)
        spent()
        study.tell(trial, metrics)


def _together(work: Work, study: optuna.Study, workers: int, console: Console, begun: float) -> None:
    """Several workers, each a process with its share of the cores; this one looks on.

    A worker that dies leaves its trial to the others.
    """
    context = multiprocessing.get_context("spawn")
    threads = max(torch.get_num_threads() // workers, 1)
    processes = [
        context.Process(target=_worker, args=(work, threads), name=f"worker-{number}") for number in range(workers)
    ]
    previous = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        for process in processes:
            process.start()
        with Live(console=console, get_renderable=lambda: status(study, work.trials, begun), refresh_per_second=1):
            for process in processes:
                process.join()
    except KeyboardInterrupt as stop:
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()
        raise Stopped(f"{work.folder}: stopped by a signal. The same command resumes it") from stop
    finally:
        signal.signal(signal.SIGTERM, previous)
    finished = sum(trial.state in FINISHED for trial in study.get_trials(deepcopy=False))
    if finished < work.trials:
        codes = ", ".join(str(process.exitcode) for process in processes)
        what = f"{work.folder}: the workers ended (exit codes {codes}) after {finished} of {work.trials} trials"
        raise RunFailed(f"{what}. The same command resumes it")


def _worker(work: Work, threads: int) -> None:
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    _quiet()
    torch.set_num_threads(threads)
    with open_inputs(work.config, work.config.train.device) as inputs:
        _work(work, _open(work), inputs)


def _end_with_parent() -> None:
    """Stop this process, as by a signal to it, once the one that started it is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def trial_folders(work: Work, trial: FrozenTrial) -> list[Path]:
    """The run folders of a trial, one for each fold."""
    folder = _folder(work, trial)
    count = work.config.hpo.folds
    return [folder / f"fold-{number}" for number in range(count)] if count > 1 else [folder]


def _folder(work: Work, trial: FrozenTrial | optuna.Trial) -> Path:
    return work.folder / "trials" / f"{folder_number(trial):04d}"
