"""A running study as a table: finished and running trials, the best so far, the time left."""

import time
from datetime import timedelta

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from engine.dates import span_text
from hpo.dispatch import failed_by_itself
from hpo.storage import DAYS, EPOCHS, FINISHED, SECONDS


def status(study: optuna.Study, wanted: int, started: float) -> Table:
    """The table; `started` is the time.monotonic() at which this process opened the study."""
    trials = study.get_trials(deepcopy=False)
    finished = [trial for trial in trials if trial.state in FINISHED]
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
    failed = sum(map(failed_by_itself, trials))
    table = Table(title=f"{len(finished)} of {wanted} trials", title_justify="left", show_header=False)
    table.add_row("validation", span_text(study.user_attrs[DAYS]))
    table.add_row("best so far", "; ".join(_describe(trial) for trial in best_trials(study)[:3]) or "–")
    table.add_row("running", "; ".join(_describe(trial) for trial in running) or "–")
    table.add_row("pruned, failed", f"{pruned}, {failed}")
    table.add_row("time left", _time_left(finished, wanted, max(len(running), 1)))
    table.add_row("time spent", str(timedelta(seconds=round(time.monotonic() - started))))
    return table


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The best complete trial, or with several metrics the Pareto front; empty before the first is complete."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return []
    return [study.best_trial] if len(study.directions) == 1 else study.best_trials


def _describe(trial: FrozenTrial) -> str:
    steps = trial.intermediate_values
    values = trial.values or ([steps[max(steps)]] if steps else [])
    metrics = ", ".join(f"{value:.4f}" for value in values) or "no epoch yet"
    return f"#{trial.number} {metrics} ({trial.user_attrs.get(EPOCHS, 0)} epochs)"


def _time_left(finished: list[FrozenTrial], wanted: int, workers: int) -> str:
    if not finished:
        return "–"
    mean = sum(trial.user_attrs.get(SECONDS, 0.0) for trial in finished) / len(finished)
    return str(timedelta(seconds=round(mean * max(wanted - len(finished), 0) / workers)))
