"""The whole command line, `atft-engine`: the engine's commands and `hpo`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import engine.cli.config
from engine.cli.app import EXAMPLES, app, examples, main
from engine.cli.options import ConfigFile, Settings, console, usable
from engine.screen.progress import showing
from loaders.errors import InputError

if TYPE_CHECKING:
    from hpo.config import StudyConfig

__all__ = ["main"]


def of_study() -> "type[StudyConfig]":
    """All settings: those of a training, and [hpo]."""
    from hpo.config import StudyConfig

    return StudyConfig


engine.cli.config.settings_class = of_study


EXAMPLES["hpo"] = (
    "hpo --trials 20 --arrow cache/ --out hpo/first",
    "hpo --trials 20 --config search.toml --workers 2",
    "train --config hpo/first/best.toml",
)


@app.command("hpo", epilog=examples("hpo"))
def hpo_command(
    trials: Annotated[int, typer.Option(min=1, max=1_000_000, help="Trials to finish, complete or pruned.")],
    arrow: Annotated[str | None, typer.Option(help="Cache, a folder or URL (default: data.arrow, cache/).")] = None,
    kind: Annotated[
        str | None, typer.Option(help="A rival to tune in place of the network: ridge, lightgbm, xgboost, catboost.")
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    study: Annotated[str, typer.Option(help="The study's name.")] = "study",
    out: Annotated[Path | None, typer.Option(callback=usable, help="The study's folder (default: hpo/<name>).")] = None,
    storage: Annotated[str | None, typer.Option(help="URL of an Optuna storage (default: a journal file).")] = None,
    workers: Annotated[int, typer.Option(min=1, max=1024, help="Processes on this machine.")] = 1,
    batch: Annotated[str, typer.Option(help="Trials that a process trains at a time, as one batch.")] = "auto",
    evaluate_best: Annotated[
        bool, typer.Option("--evaluate-best", help="Then evaluate the best trial on test.")
    ] = False,
) -> None:
    """Tune settings on validation metrics; resumes an existing study. [hpo] holds the search space."""
    from dataclasses import asdict

    from engine.config_file import load
    from engine.dates import span_text
    from engine.evaluation.evaluate import evaluate
    from engine.rivals.baseline import Asked as Rival
    from engine.rivals.baseline import baseline
    from engine.rivals.options import RivalConfig
    from engine.score.tables import metrics_table
    from hpo.config import NETWORK, StudyConfig
    from loaders.panel import open_panel

    try:
        from hpo.config import Work
        from hpo.results import BEST, best_trial, summary
        from hpo.space import fitting
        from hpo.study import batch_size, run_study, trial_folders
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise InputError("hpo", "optuna is not installed", "pip install 'atft-engine[hpo]'") from error

    folder = Path("hpo") / study if out is None else out
    of_kind = [] if kind is None else [f"hpo.kind={kind}"]
    read = fitting(load(StudyConfig, config, [*(settings or []), *of_kind], arrow))
    with showing(console) as progress:  # of copying a remote cache; the study has a display of its own
        open_panel(read.data.arrow, read.data.store, progress)
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
        if read.hpo.kind == NETWORK:
            tested = {str(run): evaluate([run], "test", None, arrow) for run in trial_folders(work, best)}
        else:
            best_rival = load(RivalConfig, folder / BEST, [], arrow)
            tested = {read.hpo.kind: asdict(baseline(best_rival, Rival(read.hpo.kind)))}
        for name, found in tested.items():
            title = f"{name} · test {span_text(found['days']['test'])}"
            periods = found["periods_per_year"]
            console.print(metrics_table(title, found["splits"]["test"], periods, notes=found["notes"]))
