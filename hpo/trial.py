"""One trial: a training, in this process, whose validation is reported after every epoch.

The trial's run folder is an ordinary one, so a trial whose worker died resumes from its last checkpoint.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from engine.inputs import Inputs
from engine.train.fold import Fold, make_fold
from engine.train.loop import epochs
from engine.train.run import Run, RunFailed, open_run
from hpo.config import StudyConfig
from loaders.errors import InputError

QUIET = Console(quiet=True)


class TrialFailed(Exception):
    """A trial without a result; the message says why."""


class Pruned(Exception):
    """A trial that is not worth its remaining epochs."""


def study_folds(config: StudyConfig, inputs: Inputs) -> list[tuple[StudyConfig, Fold]]:
    """The configuration and split of every fold that counts, one where the split is as it is."""
    if not config.hpo.folds:
        return [(config, make_fold(config, inputs.panel))]
    splits = [
        config.split.model_copy(update={"folds": config.hpo.folds, "fold": fold}) for fold in range(config.hpo.folds)
    ]
    configs = [config.model_copy(update={"split": split}) for split in splits]
    return [(of_fold, make_fold(of_fold, inputs.panel)) for of_fold in configs]


def run_trial(
    folds: Sequence[tuple[StudyConfig, Fold]],
    inputs: Inputs,
    folder: Path,
    report: Callable[[int, int, list[float]], bool],
) -> tuple[list[float], int]:
    """Train on every fold; gives the metrics of the best checkpoints (means over folds) and the epochs spent.

    Args:
        folds: what `study_folds` gives, with the trial's settings in the configurations.
        folder: for the run folders; those that are there are resumed.
        report: is given the fold, the number of epochs so far (of all folds) and the metrics so far; whether to prune.

    Raises Pruned, TrialFailed for a training that cannot go on or a metric that is missing, and Stopped after a signal.
    """
    finished: list[list[float]] = []
    before = 0  # epochs of the folds that are finished
    for number, (config, fold) in enumerate(folds):
        run_folder = folder / f"fold-{number}" if len(folds) > 1 else folder
        resume = (run_folder / "config.toml").exists()
        try:
            with open_run(config, inputs, fold, run_folder, resume, QUIET) as run:
                metrics: list[float] = []
                for epoch in _epoch_numbers(run):
                    metrics = _metrics(run, config, epoch)
                    means = _mean([*finished, metrics])
                    prune = report(number, before + epoch, means)
                    last = run.state.finished and epoch == run.state.epoch and number + 1 == len(folds)
                    if prune and not last:  # after the last there is nothing to save
                        raise Pruned
                before += run.state.epoch
                finished.append(metrics)
        except (RunFailed, InputError) as error:
            raise TrialFailed(str(error)) from error
    return _mean(finished), before


def _epoch_numbers(run: Run) -> Iterator[int]:
    """The numbers, from 1, of the epochs that a resumed run has had, and of those that it trains from now on."""
    yield from range(1, run.state.epoch + 1)
    for _ in epochs(run):
        yield run.state.epoch


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
