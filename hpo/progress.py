"""A study under way, as a table: what is finished, what runs, the best so far, and how long the rest will take."""

import time
from datetime import timedelta

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from hpo.claims import EPOCHS, FINISHED, REASON, SECONDS, SURPLUS


def status(study: optuna.Study, wanted: int, begun: float) -> Table:
    """The table; `begun` is the time.monotonic() at which this process took the study up."""
    every = study.get_trials(deepcopy=False)
    finished = [trial for trial in every if trial.state in FINISHED]
    running = [trial for trial in every if trial.state == TrialState.RUNNING]
    pruned = sum(trial.state == TrialState.PRUNED for trial in every)
    failed = sum(trial.state == TrialState.FAIL and trial.user_attrs.get(REASON, SURPLUS) != SURPLUS for trial in every)
    table = Table(title=f"{len(finished)} of {wanted} trials", title_justify="left", show_header=False)
    table.add_row("best so far", "; ".join(_told(trial) for trial in best_trials(study)[:3]) or "–")
    table.add_row("running", "; ".join(_told(trial) for trial in running) or "–")
    table.add_row("pruned, failed", f"{pruned}, {failed}")
    table.add_row("time left", _left(finished, wanted, max(len(running), 1)))
    table.add_row("time spent", str(timedelta(seconds=round(time.monotonic() - begun))))
    return table


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The best complete trial, or of several metrics Pareto's front; none before the first."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return []
    return [study.best_trial] if len(study.directions) == 1 else study.best_trials


def _told(trial: FrozenTrial) -> str:
    steps = trial.intermediate_values
    values = trial.values or ([steps[max(steps)]] if steps else [])
    figures = ", ".join(f"{value:.4f}" for value in values) or "no epoch yet"
    return f"#{trial.number} {figures} ({trial.user_attrs.get(EPOCHS, 0)} epochs)"


def _left(finished: list[FrozenTrial], wanted: int, workers: int) -> str:
    if not finished:
        return "–"
    mean = sum(trial.user_attrs.get(SECONDS, 0.0) for trial in finished) / len(finished)
    return str(timedelta(seconds=round(mean * max(wanted - len(finished), 0) / workers)))
