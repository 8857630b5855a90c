"""What a study shows while it runs, and what it writes when it ends: best.toml and trials.parquet."""

import io
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from engine.config_file import to_toml
from engine.dates import span_text
from engine.inputs import with_absolute_source
from hpo.config import StudyConfig
from hpo.dispatch import failed_by_itself
from hpo.space import configured
from hpo.storage import DAYS, EPOCHS, FINISHED, REASON, SECONDS, SETTINGS
from loaders.cache.atomic import write_atomically

BEST, TRIALS = "best.toml", "trials.parquet"


def write_results(study: optuna.Study, config: StudyConfig, tuned_until: str, folder: Path) -> None:
    """Write best.toml, the best trial's configuration for `atft-engine train --config`, and trials.parquet.

    Args:
        tuned_until: the last day that the study has seen, ISO; best.toml carries it.

    Raises InputError where the disk is full.
    """
    write_atomically(folder / TRIALS, _parquet(study.get_trials(deepcopy=False), config))
    best = best_trial(study)
    if best is not None:
        found = with_absolute_source(configured(config, settings_of(best) | {"split.tuned_until": tuned_until}))
        write_atomically(folder / BEST, to_toml(found).encode())


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The best complete trial; with several metrics, the one of the Pareto front with the best first metric."""
    return max(best_trials(study), key=lambda trial: trial.values[0], default=None)


def settings_of(trial: FrozenTrial) -> dict[str, Any]:
    """The settings of a trial, `section.key` -> value; empty where it never began."""
    return dict(trial.user_attrs.get(SETTINGS, {}))


def summary(study: optuna.Study, most: int = 5) -> Table:
    """The best trials, best first, with their settings."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    complete = sorted(complete, key=lambda trial: trial.values[0], reverse=True)[:most]
    title = f"best of {len(study.get_trials(deepcopy=False))} trials, validation {span_text(study.user_attrs[DAYS])}"
    table = Table(title=title, title_justify="left")
    table.add_column("trial")
    for trial in complete:
        table.add_column(f"#{trial.number}", justify="right")
    table.add_row("value", *(", ".join(f"{value:.4f}" for value in trial.values) for trial in complete))
    table.add_row("epochs", *(str(trial.user_attrs.get(EPOCHS, "")) for trial in complete))
    for key in dict.fromkeys(key for trial in complete for key in settings_of(trial)):
        table.add_row(key, *(_short(settings_of(trial).get(key)) for trial in complete))
    return table


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
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


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
