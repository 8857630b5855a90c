"""What a study leaves: best.toml, trials.parquet, and report.html with its plots."""

import base64
import io
import logging
import warnings
from html import escape
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from engine.config_file import to_toml
from hpo.claims import EPOCHS, REASON, SECONDS, SETTINGS
from hpo.config import StudyConfig
from hpo.progress import best_trials
from hpo.space import configured
from loaders.cache.atomic import write_atomically

BEST, TRIALS, REPORT = "best.toml", "trials.parquet", "report.html"
log = logging.getLogger(__name__)


def write_results(study: optuna.Study, config: StudyConfig, folder: Path) -> None:
    """Write a study's files. Raises InputError where the disk is full.

    best.toml is the configuration of the best trial, of several metrics that with the best first one: what
    `atft-engine train --config` takes.
    """
    write_atomically(folder / TRIALS, _parquet(study.get_trials(deepcopy=False), config))
    best = best_trial(study)
    if best is not None:
        write_atomically(folder / BEST, to_toml(configured(config, settings_of(best))).encode())
    try:
        html = _report(study, config)
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        log.warning("no %s: matplotlib is not installed (pip install 'atft-engine[report]')", REPORT)
        return
    write_atomically(folder / REPORT, html.encode())


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The best complete trial; of several metrics, the one of Pareto's front with the best first metric."""
    return max(best_trials(study), key=lambda trial: trial.values[0], default=None)


def settings_of(trial: FrozenTrial) -> dict[str, Any]:
    """The settings that a trial's parameters meant, `section.key` -> value; empty where it never began."""
    return dict(trial.user_attrs.get(SETTINGS, {}))


def summary(study: optuna.Study, most: int = 5) -> Table:
    """The best trials, best first, with what they were given."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    complete = sorted(complete, key=lambda trial: trial.values[0], reverse=True)[:most]
    table = Table(title=f"best of {len(study.get_trials(deepcopy=False))} trials", title_justify="left")
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
    """A row per trial: number, state, value (of several metrics one column each), settings, epochs, seconds, reason."""
    columns: dict[str, list[Any]] = {"number": [t.number for t in trials], "state": [t.state.name for t in trials]}
    for i, metric in enumerate(config.hpo.metrics):
        name = "value" if len(config.hpo.metrics) == 1 else f"value_{metric}"
        columns[name] = [t.values[i] if t.values else None for t in trials]
    for key in dict.fromkeys(key for trial in trials for key in settings_of(trial)):
        columns[key] = [settings_of(trial).get(key) for trial in trials]
    columns["epochs"] = [t.user_attrs.get(EPOCHS, 0) for t in trials]
    columns["seconds"] = [t.user_attrs.get(SECONDS) for t in trials]
    columns["reason"] = [t.user_attrs.get(REASON) for t in trials]
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def _report(study: optuna.Study, config: StudyConfig) -> str:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    sections = [f"<h1>{escape(study.study_name)}</h1>"]
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    for i, metric in enumerate(config.hpo.metrics):
        of: dict[str, Any] = {"target": lambda trial, i=i: trial.values[i], "target_name": metric}
        axes: dict[str, Any] = {"history": plots.plot_optimization_history(study, **of)}
        if len(complete) > 2:
            # It asks what makes a target low, and every metric is better high.
            of["target"] = lambda trial, i=i: -trial.values[i]
            evaluator = PedAnovaImportanceEvaluator()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "PedAnovaImportanceEvaluator computes", UserWarning)
                axes["importance of parameters"] = plots.plot_param_importances(study, evaluator=evaluator, **of)
        for heading, axis in axes.items():
            picture = io.BytesIO()
            axis.figure.savefig(picture, format="png", dpi=110, bbox_inches="tight")
            data = base64.b64encode(picture.getvalue()).decode()
            sections.append(f'<h2>{metric}: {heading}</h2><img src="data:image/png;base64,{data}">')
    pyplot.close("all")
    rows = "".join(
        f"<tr><td>{t.number}<td>{t.state.name}<td>{_figures(t)}<td>{t.user_attrs.get(EPOCHS, 0)}<td>"
        f"{escape(str(t.user_attrs.get(REASON, '')))}"
        for t in study.get_trials(deepcopy=False)
    )
    table = f"<table><tr><th>trial<th>state<th>value<th>epochs<th>reason{rows}</table>"
    return f'<!doctype html><meta charset="utf-8"><title>{escape(study.study_name)}</title>{"".join(sections)}{table}'


def _figures(trial: FrozenTrial) -> str:
    return ", ".join(f"{value:.4f}" for value in trial.values or [])
