"""Drive trials to their end, one after the other, or several as slots of one batch that are refilled as trials end.

Every trial is a generator that gives a run and is sent what its next epoch came to, so the trials of a batch go on side
by side, epoch by epoch, and each one reports, is pruned and resumes as it would alone.
"""

import time
from collections.abc import Generator
from contextlib import suppress
from functools import partial
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from engine.distributed import SINGLE
from engine.inputs import Inputs
from engine.training.fold import Fold
from engine.training.loop import next_epochs
from engine.training.run import Run, plan_of, steps_of, stop_signals
from engine.training.step.batched import BatchedStep
from engine.training.step.learner import Slots, batch_shape, make_batch, wants_batch
from hpo.algorithms import SAMPLERS, STEP_IS_FOLD
from hpo.config import NETWORK, StudyConfig, Work
from hpo.dispatch import claim, fail, hold, should_prune, turn
from hpo.space import configured, suggest
from hpo.storage import EPOCHS, SECONDS, SETTINGS, count_finished
from hpo.trials.network import run_trial
from hpo.trials.rival import run_rival
from hpo.trials.trial import Epoch, TrialFailed, of_the_machine
from loaders.errors import InputError, WriteError

WAIT_S = 0.5  # between two attempts to claim a trial

# Gives the trial's configuration, is sent its slots, and then is what `run_trial` is.
Driven = Generator[Any, Any, None]


def run_trials(work: Work, study: optuna.Study, inputs: Inputs, folds: list[tuple[StudyConfig, Fold]]) -> None:
    """Run trials, as many at a time as `work.batch`, until enough are finished.

    Trials of another shape than those of the batch wait until it has none left.

    Raises InputError where the cache's rows have changed on disk, WriteError where something cannot be written, which
    costs no trial, Stopped after a signal.
    """
    of_network = work.config.hpo.kind == NETWORK
    batched = of_network and (work.batch > 1 or wants_batch(work.config, inputs.device, SINGLE))
    shape: object = None
    batch: BatchedStep | None = None
    active: dict[int, tuple[Driven, Run]] = {}  # by place in the batch
    waiting: tuple[Driven, StudyConfig] | None = None
    with stop_signals() as stop:
        try:
            while True:
                inputs.verification.raise_if_failed()  # here: what fails one trial would fail all
                for place in range(work.batch):
                    if place in active:
                        continue
                    waiting = waiting or _claimed(work, study, inputs, folds, stop)
                    if waiting is None:
                        break
                    trial, config = waiting
                    if batched and (batch is None or batch_shape(config) != shape):
                        if active:
                            break
                        count = work.batch * config.train.seeds
                        steps = steps_of(config, plan_of(config, folds[0][1])) * -(-work.trials // work.batch)
                        batch = make_batch(config, inputs.source, inputs.device, SINGLE, count, steps)
                        shape = batch_shape(config)
                    waiting = None
                    slots = None if batch is None else Slots(batch, place * config.train.seeds)
                    if (run := _send(trial, slots)) is not None:
                        active[place] = trial, run
                if active:
                    _next_epochs(active)
                elif waiting is None:
                    if count_finished(study) >= work.trials:
                        break
                    time.sleep(WAIT_S)
        finally:
            for trial in [trial for trial, _ in active.values()] + ([] if waiting is None else [waiting[0]]):
                trial.close()
    inputs.verification.wait()


def _next_epochs(active: dict[int, tuple[Driven, Run]]) -> None:
    """Train the next epoch of every trial and let each one go on; those that have ended leave their place."""
    groups: dict[object, list[int]] = {}  # a step has one set of parts that are off or frozen
    for place, (_, run) in active.items():
        groups.setdefault((run.phase.off, run.phase.frozen), []).append(place)
    for places in groups.values():
        results = next_epochs([active[place][1] for place in places])
        for place, result in zip(places, results, strict=True):
            trial, _ = active.pop(place)
            if (run := _send(trial, result)) is not None:
                active[place] = trial, run


def _send(trial: Driven, value: object) -> Any:
    """What a trial gives next; None where it has ended."""
    try:
        return trial.send(value)
    except StopIteration:
        return None


def _claimed(
    work: Work, study: optuna.Study, inputs: Inputs, folds: list[tuple[StudyConfig, Fold]], stop: list[int]
) -> tuple[Driven, StudyConfig] | None:
    """A trial for this process and its configuration; None while enough are running or finished."""
    while count_finished(study) < work.trials:
        hpo = work.config.hpo
        with turn(work.folder):
            trial = claim(study, work.trials, work.folder, partial(SAMPLERS[hpo.sampler], hpo.seed))
            if trial is None:
                return None
            driven = _driven(work, study, trial, inputs, folds, stop)
            if (config := _send(driven, None)) is not None:
                return driven, config
    return None


def _driven(
    work: Work, study: optuna.Study, trial: optuna.Trial, inputs: Inputs, folds: list[tuple[StudyConfig, Fold]],
    stop: list[int],
) -> Driven:  # fmt: skip
    """A claimed trial, from its settings to what the study is told of it."""
    hpo = work.config.hpo
    # Suppressed where another worker took this one for dead.
    with suppress(UpdateFinishedTrialError), hold(study, trial, work.folder) as folder:
        settings = suggest(trial, hpo.space, len(inputs.panel.manifest.horizons))
        trial.set_user_attr(SETTINGS, settings)
        before, started = trial.user_attrs.get(SECONDS, 0.0), time.monotonic()

        def count_seconds() -> None:
            trial.set_user_attr(SECONDS, before + time.monotonic() - started)

        def report(epoch: Epoch) -> bool:
            trial.set_user_attr(EPOCHS, epoch.number)
            count_seconds()
            by_fold = hpo.pruner in STEP_IS_FOLD
            if len(hpo.metrics) > 1 or (by_fold and not epoch.ends_fold):
                return False
            value, step = (epoch.metrics, epoch.fold) if by_fold else (epoch.means, epoch.number)
            trial.report(value[0], step)
            return should_prune(study, trial)

        try:
            try:
                configs = [(configured(of_fold, settings), fold) for of_fold, fold in folds]
                slots = yield configs[0][0]
                if hpo.kind == NETWORK:
                    metrics = yield from run_trial(configs, inputs, folder, report, slots, stop)
                else:
                    metrics = run_rival(configs, inputs, work.folder, report, stop)
            finally:
                count_seconds()
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        except OSError as error:
            what = f"could not be read or written ({error.strerror})"
            raise WriteError(str(error.filename or folder), what, "Mend that; the same command resumes") from error
        except (TrialFailed, InputError) as error:
            if of_the_machine(error):
                raise  # left as it is, to be repeated
            inputs.verification.wait()  # damaged rows fail no trial, they end the command
            fail(study, trial, str(error))
        else:
            study.tell(trial, metrics, skip_if_finished=True)
