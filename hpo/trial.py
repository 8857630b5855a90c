"""One trial: a training, in this process, whose validation is reported after every epoch.

The trial's run folder is an ordinary one, so a trial whose worker died goes on from its last checkpoint.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from engine.config import Config
from engine.evaluate import part_samples
from engine.inputs import Inputs
from engine.predict import make_split
from engine.run import RunFailed, Training, started
from engine.trainer import train_epoch, validate
from loaders.errors import InputError

QUIET = Console(quiet=True)


class TrialFailed(Exception):
    """A trial without a figure; the message says why."""


class Pruned(Exception):
    """A trial that is not worth its remaining epochs."""


def fold_inputs(config: Config, inputs: Inputs) -> list[tuple[Config, Inputs]]:
    """The configuration and inputs of every fold that counts, one where the split is as it is; all share the panel."""
    if not config.hpo.folds:
        return [(config, inputs)]
    found = []
    for fold in range(config.hpo.folds):
        split = config.split.model_copy(update={"folds": config.hpo.folds, "fold": fold})
        of_fold = config.model_copy(update={"split": split})
        parts = make_split(of_fold, inputs.panel)
        found.append((of_fold, replace(inputs, split=parts, valid=part_samples(inputs.panel, parts.valid))))
    return found


def run_trial(
    folds: Sequence[tuple[Config, Inputs]],
    folder: Path,
    report: Callable[[int, int, list[float]], bool],
) -> tuple[list[float], int]:
    """Train on every fold; gives the metrics of the best checkpoints (means over folds) and the epochs spent.

    Args:
        folds: what `fold_inputs` gives, with the trial's settings in the configurations.
        folder: for the run folders; those that are there are gone on with.
        report: told the fold, the number of epochs so far (of all folds) and the metrics so far; whether to prune.

    Raises Pruned, TrialFailed for a training that cannot go on or a metric that is missing, and Stopped after a signal.
    """
    finished: list[list[float]] = []
    epochs = 0
    for number, (config, inputs) in enumerate(folds):
        run = folder / f"fold-{number}" if len(folds) > 1 else folder
        try:
            with started(config, inputs, run, (run / "config.toml").exists(), QUIET) as t:
                told = 0
                while True:
                    for line in range(told, len(t.state.history)):
                        here = _metrics(t, config, line)
                        means = [sum(column) / len(column) for column in zip(*finished, here, strict=True)]
                        prune = report(number, epochs + line + 1, means)
                        last = t.state.finished and line + 1 == len(t.state.history) and number + 1 == len(folds)
                        if prune and not last:  # after the last there is nothing to save
                            raise Pruned
                    told = len(t.state.history)
                    if t.state.finished:
                        break
                    validate(t, train_epoch(t))
                epochs += t.state.epoch
                finished.append(_metrics(t, config, told - 1))
        except (RunFailed, InputError) as error:
            raise TrialFailed(str(error)) from error
    return [sum(column) / len(column) for column in zip(*finished, strict=True)], epochs


def _metrics(t: Training, config: Config, line: int) -> list[float]:
    """Of the best checkpoint after this line of the history, means over all horizons, whatever their weights."""
    best: dict[str, Any] = [one for one in t.state.history[: line + 1] if one["best"]][-1]
    found = []
    for metric in config.hpo.metrics:
        values = [figures[metric] for figures in best["valid"].values()]
        if any(value is None or not math.isfinite(value) for value in values):
            raise TrialFailed(f"{metric} of epoch {best['epoch']} is missing")
        found.append(sum(values) / len(values))
    return found
