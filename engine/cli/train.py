"""`atft-engine train`."""

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import ConfigFile, Settings, console, usable
from engine.screen.progress import showing


def train_command(
    arrow: Annotated[str | None, typer.Option(help="Cache, a folder or URL (default: data.arrow, cache/).")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    preset: Annotated[str | None, typer.Option(help="fast: without a refit, in half of the time.")] = None,
    out: Annotated[Path | None, typer.Option(callback=usable, help="Run folder (default: runs/<run id>).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the run's last checkpoint.")] = False,
    seeds: Annotated[int | None, typer.Option(help="Train this many models together, average their scores.")] = None,
    folds: Annotated[int | None, typer.Option(help="Walk forward: train this many folds, join their tests.")] = None,
    rolling: Annotated[bool, typer.Option("--rolling", help="Folds train on as many days as the first.")] = False,
    model: Annotated[
        str | None, typer.Option(help="A network of your own, package.module:factory (model.name).")
    ] = None,
    with_trees: Annotated[
        bool, typer.Option("--with-trees", help="Fit LightGBM too and average its scores with the network's (trees).")
    ] = False,
    callback: Annotated[
        list[str] | None, typer.Option(help="mlflow, wandb, or package.module:object; may be repeated.")
    ] = None,
    short: Annotated[bool, typer.Option("--dry-run", help="Two short epochs and a checklist.")] = False,
) -> None:
    """Train a model, evaluate it, write a run folder."""
    from engine.callbacks.protocol import named_callbacks
    from engine.config_file import load_config
    from engine.dates import span_text
    from engine.distributed import is_first
    from engine.errors import RunFailed
    from engine.presets import preset_settings
    from engine.score.files import holds_folds
    from engine.score.tables import read_summary, splits_table
    from engine.training.dry_run import checklist, dry_run
    from engine.training.folds import fold_settings, train_folds
    from engine.training.loop import train
    from engine.training.run import resumed_config

    settings = [*preset_settings(preset), *(settings or [])]
    settings = [*settings, *([] if seeds is None else [f"train.seeds={seeds}"]), *fold_settings(folds, rolling)]
    settings += [] if model is None else [f"model.name={model}"]
    if resume and config is None:
        resolved = resumed_config(out, settings, arrow)
    else:
        resolved = load_config(config, settings, arrow)
    if with_trees and resolved.trees.kind == "off":  # a kind that is named stays
        trees = resolved.trees.model_copy(update={"kind": "lightgbm"})
        resolved = resolved.model_copy(update={"trees": trees})
    if short:
        with showing(console, is_first()) as progress:
            items = dry_run(resolved, console, progress)
        if is_first():
            console.print(checklist(items))
        failed = [item.name for item in items if item.ok is False]
        if failed:
            raise RunFailed(f"the dry run: {', '.join(failed)}")
        return
    walk = folds is not None or (resume and out is not None and holds_folds(out))
    callbacks = named_callbacks(callback or []) if is_first() else []
    with showing(console, is_first()) as progress:
        run = (train_folds if walk else train)(resolved, out, resume, console, callbacks, progress)
    if not is_first():
        return
    summary = read_summary(run)
    days = {name: span_text(span) for name, span in summary["days"].items()}
    console.print(splits_table(str(run), summary["splits"], days, summary["periods_per_year"], notes=summary["notes"]))
