"""What a study shows while it runs, and what it writes when it ends: best.toml and trials.parquet."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
from optuna.trial import FrozenTrial, TrialState
from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table

from engine.config_file import config_content
from engine.dates import span_text
from engine.inputs import with_absolute_source
from engine.score.tables import plain_table
from hpo.config import StudyConfig
from hpo.dispatch import failed_by_itself
from hpo.space import configured
from hpo.storage import DAYS, EPOCHS, FINISHED, REASON, SECONDS, SETTINGS
from loaders.cache.atomic import write_atomically
from loaders.disk.parquet import table_content

BEST, TRIALS = "best.toml", "trials.parquet"


def write_results(study: optuna.Study, config: StudyConfig, tuned_until: str, folder: Path) -> None:
    """Write best.toml, the best trial's configuration for `train --config` or `baseline --config`, and trials.parquet.

    Args:
        tuned_until: the last day that the study has seen, ISO; best.toml carries it.

    Raises InputError where the disk is full.
    """
    write_atomically(folder / TRIALS, _parquet(study.get_trials(deepcopy=False), config))
    best = best_trial(study)
    if best is not None:
        found = with_absolute_source(configured(config, settings_of(best) | {"split.tuned_until": tuned_until}))
        write_atomically(folder / BEST, config_content(found, config.hpo.sections))


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The best complete trial; with several metrics, the one of the Pareto front with the best first metric."""
    return max(best_trials(study), key=lambda trial: trial.values[0], default=None)


def settings_of(trial: FrozenTrial) -> dict[str, Any]:
    """The settings of a trial, `section.key` -> value; empty where it never began."""
    return dict(trial.user_attrs.get(SETTINGS, {}))


def summary(study: optuna.Study, most: int = 3) -> Group:
    """The best trials, best first, with their settings."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    complete = sorted(complete, key=lambda trial: trial.values[0], reverse=True)[:most]
    title = f"best of {len(study.get_trials(deepcopy=False))} trials, validation {span_text(study.user_attrs[DAYS])}"
    table = plain_table()
    table.add_column("trial")
    for trial in complete:
        table.add_column(f"#{trial.number}", justify="right", overflow="fold")
    table.add_row("value", *(", ".join(f"{value:.4f}" for value in trial.values) for trial in complete))
    table.add_row("epochs", *(str(trial.user_attrs.get(EPOCHS, "")) for trial in complete))
    for key in dict.fromkeys(key for trial in complete for key in settings_of(trial)):
        table.add_row(key, *(_short(settings_of(trial).get(key)) for trial in complete))
    return Group(title, table)


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "/".join(map(_short, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _parquet(trials: list[FrozenTrial], config: StudyConfig) -> bytes:
    """A row per trial: number, state, value (a column per metric where there are several), settings, epochs, seconds,
    and the reason of those that failed or were pruned."""
    columns: dict[str, list[Any]] = {"number": [t.number for t in trials], "state": [t.state.name for t in trials]}
    for i, metric in enumerate(config.hpo.metrics):
        name = "value" if len(config.hpo.metrics) == 1 else f"value_{metric}"
        columns[name] = [t.values[i] if t.values else None for t in trials]
    for key in dict.fromkeys(key for trial in trials for key in settings_of(trial)):
        columns[key] = [settings_of(trial).get(key) for trial in trials]
    columns["epochs"] = [t.user_attrs.get(EPOCHS, 0) for t in trials]
    columns["seconds"] = [t.user_attrs.get(SECONDS) for t in trials]
    columns["reason"] = ["pruned" if t.state == TrialState.PRUNED else t.user_attrs.get(REASON) for t in trials]
    return table_content(pa.table(columns))


def status(study: optuna.Study, wanted: int, epochs: int, started: float, bar: bool) -> Group:
    """How far the study is.

    Args:
        wanted: trials.
        epochs: that a trial has at most.
        started: the time.monotonic() at which this process opened the study.
        bar: whether to draw one.
    """
    trials = study.get_trials(deepcopy=False)
    finished = [trial for trial in trials if trial.state in FINISHED]
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
    failed = sum(map(failed_by_itself, trials))
    left = _time_left(finished, running, wanted, epochs)
    under_way = sum(min(trial.user_attrs.get(EPOCHS, 0) / epochs, 1) for trial in running)
    heading = Table.grid(padding=(0, 2))
    drawn = [ProgressBar(wanted, len(finished) + under_way, width=30)] if bar else []
    heading.add_row(f"{len(finished)} of {wanted} trials", *drawn, "" if not left else f"{_time(left)} left")
    table = Table.grid(padding=(0, 2))
    table.add_row("validation", span_text(study.user_attrs[DAYS]))
    table.add_row("best so far", "; ".join(_describe(trial) for trial in best_trials(study)[:3]) or "–")
    table.add_row("running", "; ".join(_describe(trial) for trial in running) or "–")
    table.add_row("pruned, failed", f"{pruned}, {failed}")
    table.add_row("time spent", _time(time.monotonic() - started))
    return Group(heading, table)


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The best complete trial, or with several metrics the Pareto front; empty before the first is complete."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return []
    return [study.best_trial] if len(study.directions) == 1 else study.best_trials


def _describe(trial: FrozenTrial) -> str:
    steps = trial.intermediate_values
    values = trial.values or ([steps[max(steps)]] if steps else [])
    epochs = trial.user_attrs.get(EPOCHS, 0)
    if not values:
        return f"#{trial.number} no epoch yet"
    metrics = ", ".join(f"{value:.4f}" for value in values)
    return f"#{trial.number} {metrics} ({epochs} epoch{'s' * (epochs != 1)})"


def _time_left(finished: list[FrozenTrial], running: list[FrozenTrial], wanted: int, epochs: int) -> float | None:
    """Seconds, by what trials took so far; None before the first epoch."""
    of = finished or [trial for trial in running if trial.user_attrs.get(EPOCHS)]
    if not of:
        return None
    mean = sum(trial.user_attrs.get(SECONDS, 0.0) for trial in of) / len(of)
    if not finished:
        mean *= epochs * len(of) / sum(trial.user_attrs[EPOCHS] for trial in of)
    spent = sum(trial.user_attrs.get(SECONDS, 0.0) for trial in running)
    return max(mean * max(wanted - len(finished), 0) - spent, 0.0) / max(len(running), 1)


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
