"""One trial: a rival, fitted to every fold in this process, whose validation is reported after each.

A fit is not saved: a trial whose worker died is fitted again.
"""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from optuna import TrialPruned

from engine.errors import Stopped
from engine.inputs import Inputs
from engine.rivals.fit import fit_rival
from engine.rivals.options import options_of
from engine.score.part_metrics import part_metrics
from engine.training.fold import Fold
from hpo.config import StudyConfig
from hpo.trials.trial import Epoch, mean, values_of


def run_rival(
    folds: Sequence[tuple[StudyConfig, Fold]],
    inputs: Inputs,
    folder: Path,
    report: Callable[[Epoch], bool],
    stop: list[int],
) -> list[float]:
    """Fit on every fold; returns the metrics of the validation parts, means over folds.

    Args:
        folds: what `study_folds` gives, with the trial's settings in the configurations.
        folder: of the study, for messages.
        report: called after every fold, returns whether to prune the trial.
        stop: receives the number of a signal, which ends the fit; that of CatBoost once its present seed is done.

    Raises TrialPruned, TrialFailed for a metric that is missing, Stopped after a signal, and what `fit_rival` raises.
    """

    def raise_if_stopped(done: float = 0, total: float = 0, what: str = "") -> None:
        if stop:
            name = signal.Signals(stop[0]).name
            raise Stopped(f"{folder}: stopped by {name} in a fit. The same command resumes it")

    finished: list[list[float]] = []
    for number, (config, fold) in enumerate(folds):
        options = options_of(config, "ret_1", tuple(fold.categorical), raise_if_stopped)
        # Values of damaged rows may be anything, of which the comparison tells; numpy does not beside it.
        with np.errstate(invalid="ignore", over="ignore"):
            rival = fit_rival(inputs.panel, fold.split, config.hpo.kind, options)
            raise_if_stopped()
            slopes = None if rival.used is None else fold.online(config.model.online_features)[1]
            scores = rival.scores(inputs.panel, fold.split.valid, slopes)
        metrics = values_of(config, part_metrics(fold.valid, scores), f"fold {number}")
        finished.append(metrics)
        prune = report(Epoch(number + 1, number, True, metrics, mean(finished)))
        if prune and number + 1 < len(folds):
            raise TrialPruned
    return mean(finished)
