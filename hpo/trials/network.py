"""One trial: a training, in this process, whose validation is reported after every epoch.

The trial's run folder is an ordinary one, so a trial whose worker died resumes from its last checkpoint.
"""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from optuna import TrialPruned

from engine.errors import RunFailed
from engine.inputs import Inputs
from engine.screen.console import QUIET
from engine.training.fold import Fold
from engine.training.loop import EpochResult
from engine.training.run import CONFIG, Run, open_run
from engine.training.step.learner import Slots
from hpo.config import StudyConfig
from hpo.trials.trial import Epoch, TrialFailed, mean, of_the_machine, values_of
from loaders.errors import InputError

# Gives a run that is ready for its next epoch, and is sent what came of it.
Training = Generator[Run, EpochResult | RunFailed, list[float]]


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
                    prune = report(Epoch(before + epoch, number, ends_fold, metrics, mean([*finished, metrics])))
                    is_last = ends_fold and number + 1 == len(folds)  # when pruning would save nothing
                    if prune and not is_last:
                        raise TrialPruned
                before += run.state.epoch
                finished.append(metrics)
        except (RunFailed, InputError) as error:
            if of_the_machine(error):
                raise  # the trial is not at fault
            raise TrialFailed(str(error)) from error
    return mean(finished)


def _metrics(run: Run, config: StudyConfig, epoch: int) -> list[float]:
    """Of the best checkpoint after this epoch."""
    best: dict[str, Any] = [line for line in run.state.history[:epoch] if line["best"]][-1]
    return values_of(config, best["valid"], f"epoch {best['epoch']}")
