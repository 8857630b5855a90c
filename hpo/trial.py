"""One trial: a training, in this process, whose validation is reported after every epoch.

The trial's run folder is an ordinary one, so a trial whose worker died resumes from its last checkpoint.
"""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from optuna import TrialPruned

from engine.config import SplitConfig
from engine.dates import dates_of, span_of
from engine.errors import RunFailed
from engine.inputs import Inputs
from engine.screen.console import QUIET
from engine.training.fold import Fold, make_fold
from engine.training.loop import EpochResult
from engine.training.run import CONFIG, Run, open_run
from engine.training.step.learner import Slots
from hpo.config import StudyConfig
from loaders.errors import InputError, WriteError
from loaders.panel import Panel
from loaders.split import Split, gap_days, tuning_folds

CPU = torch.device("cpu")

# Gives a run that is ready for its next epoch, and is sent what came of it.
Training = Generator[Run, EpochResult | RunFailed, list[float]]


class TrialFailed(Exception):
    """A trial without a result; the message says why."""


def study_folds(config: StudyConfig, panel: Panel, device: torch.device = CPU) -> list[tuple[StudyConfig, Fold]]:
    """The configuration and split of every fold; one where the split is as it is.

    Raises InputError where a fold has no day to train on.
    """
    base = make_fold(config, panel, device)
    if not config.hpo.folds:
        return [(config, base)]
    gap = gap_days(config.data.context, panel.manifest.horizons, panel.manifest.known_after)
    splits = tuning_folds(base.split, config.hpo.folds, gap, config.split.rolling)
    configs = [config.model_copy(update={"split": _by_dates(config.split, split, panel)}) for split in splits]
    return [(of_fold, make_fold(of_fold, panel, device)) for of_fold in configs]


def tuning_days(folds: list[tuple[StudyConfig, Fold]]) -> dict[str, Any]:
    """The {first, last, days} of all validation parts of a study."""
    valid = [fold.split.valid for _, fold in folds]
    return span_of(folds[0][1].panel.calendar[valid[0].start : valid[-1].stop])


def _by_dates(asked: SplitConfig, split: Split, panel: Panel) -> SplitConfig:
    """The settings that mean a split, so that the configuration of a fold's run says which days it has."""
    dates = dates_of(split, panel.calendar)
    by_dates = {f"{part}_{end}": dates[part][i] for part in ("valid", "test") for i, end in enumerate(("start", "end"))}
    by_dates |= {"train_start": dates["train"][0]}
    return asked.model_copy(update={**by_dates, "folds": 0, "fold": 0})


@dataclass(frozen=True)
class Epoch:
    """What is known of a trial after an epoch. Metrics are those of the best checkpoints so far."""

    number: int  # from 1, over all folds
    fold: int
    ends_fold: bool
    metrics: list[float]  # of this fold
    means: list[float]  # over the folds so far


def run_trial(
    folds: Sequence[tuple[StudyConfig, Fold]],
    inputs: Inputs,
    folder: Path,
    report: Callable[[Epoch], bool],
    slots: Slots | None,
    stop: list[int],
) -> Training:
    """Train on every fold; returns the metrics of the best checkpoints, means over folds.

    A generator: whoever drives it trains the epoch of the run that it gives, alone or beside those of other trials.

    Args:
        folds: what `study_folds` gives, with the trial's settings in the configurations.
        folder: for the run folders; runs that exist are resumed.
        report: called after every epoch, also those before a run was resumed; returns whether to prune the trial.
        slots, stop: as for `open_run`.

    Raises TrialPruned, TrialFailed for a training that cannot go on or a metric that is missing, and what is
    `of_the_machine`.
    """
    finished: list[list[float]] = []
    before = 0  # epochs of the folds that are finished
    for number, (config, fold) in enumerate(folds):
        run_folder = folder / f"fold-{number}" if len(folds) > 1 else folder
        resume = (run_folder / CONFIG).exists()
        try:
            with open_run(config, inputs, fold, run_folder, resume, QUIET, slots=slots, stop=stop) as run:
                metrics: list[float] = []
                epoch = 0
                while epoch < run.state.epoch or not run.state.finished:
                    if epoch == run.state.epoch:  # the epochs before are those of a run that was resumed
                        result = yield run
                        if isinstance(result, RunFailed):
                            raise result
                    epoch += 1
                    metrics = _metrics(run, config, epoch)
                    ends_fold = run.state.finished and epoch == run.state.epoch
                    prune = report(Epoch(before + epoch, number, ends_fold, metrics, _mean([*finished, metrics])))
                    is_last = ends_fold and number + 1 == len(folds)  # when pruning would save nothing
                    if prune and not is_last:
                        raise TrialPruned
                before += run.state.epoch
                finished.append(metrics)
        except (RunFailed, InputError) as error:
            if of_the_machine(error):
                raise  # the trial is not at fault
            raise TrialFailed(str(error)) from error
    return _mean(finished)


def of_the_machine(error: Exception) -> bool:
    """Whether an error is about what the machine did not allow: a write, or a read that failed. It costs no trial."""
    return isinstance(error, WriteError) or isinstance(error.__cause__, OSError)


def _mean(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]


def _metrics(run: Run, config: StudyConfig, epoch: int) -> list[float]:
    """Of the best checkpoint after this epoch, means over all horizons, whatever their weights."""
    best: dict[str, Any] = [line for line in run.state.history[:epoch] if line["best"]][-1]
    found = []
    for metric in config.hpo.metrics:
        values = [metrics[metric] for metrics in best["valid"].values()]
        if any(value is None or not math.isfinite(value) for value in values):
            raise TrialFailed(f"{metric} of epoch {best['epoch']} is missing")
        found.append(sum(values) / len(values))
    return found
