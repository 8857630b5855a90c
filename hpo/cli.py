"""The whole command line, `atft-engine`: the engine's commands and `hpo`."""

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.app import app, main
from engine.cli.options import ConfigFile, Settings, console
from loaders.errors import InputError

__all__ = ["main"]


@app.command("hpo")
def hpo_command(
    trials: Annotated[int, typer.Option(min=1, help="Trials to finish, complete or pruned.")],
    arrow: Annotated[str | None, typer.Option(help="Cache, a folder or URL (default: data.arrow, cache/).")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    study: Annotated[str, typer.Option(help="The study's name.")] = "study",
    out: Annotated[Path | None, typer.Option(help="The study's folder (default: hpo/<name>).")] = None,
    storage: Annotated[str | None, typer.Option(help="URL of an Optuna storage (default: a journal file).")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    batch: Annotated[
        str, typer.Option(help="Trials that a process trains at a time, as one batch (default: auto).")
    ] = "auto",
    evaluate_best: Annotated[
        bool, typer.Option("--evaluate-best", help="Then evaluate the best trial on test.")
    ] = False,
) -> None:
    """Tune settings on validation metrics; resumes an existing study. [hpo] holds the search space."""
    from engine.config_file import load
    from engine.dates import span_text
    from engine.evaluation import evaluate
    from engine.score.tables import metrics_table
    from hpo.config import StudyConfig

    try:
        from hpo.config import Work
        from hpo.results import best_trial, summary
        from hpo.study import batch_size, run_study, trial_folders
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise InputError("hpo", "optuna is not installed", "pip install 'atft-engine[hpo]'") from error

    folder = Path("hpo") / study if out is None else out
    read = load(StudyConfig, config, settings or [], arrow)
    work = Work(read, trials, folder, study, storage, batch_size(batch, read, trials))
    result = run_study(work, workers, console)
    console.line()  # a live table ends without a newline where the console is no terminal
    console.print(summary(result))
    best = best_trial(result)
    if best is None:
        console.print(f"study: {folder}; no trial is complete")
        return
    console.print(f"best: trial {best.number}, {folder / 'best.toml'}")
    if evaluate_best:
        for run in trial_folders(work, best):
            tested = evaluate([run], "test", None, arrow)
            title = f"{run} · test {span_text(tested['days']['test'])}"
            periods = tested["periods_per_year"]
            console.print(metrics_table(title, tested["splits"]["test"], periods, notes=tested["notes"]))
