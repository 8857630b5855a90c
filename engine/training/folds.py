"""Walk-forward training: a run for each fold, and their out-of-sample scores joined to one long test.

    OUT/config.toml      the configuration of all folds
    OUT/fold-0, ...      the run folder of each, in order of time
    OUT/scores.parquet   the scores of every fold's test part, one after the other
    OUT/summary.json     `folds`: run_id, test_start, test_end and test rank_ic of each; `splits`: figures of the join

The folder of all begins with an empty fold-0, then config.toml: with a config.toml it can be resumed, before it the
same command begins it anew. The folders of folds are begun as those of runs are (run.py).

Test parts follow each other without gap or overlap, so each day is scored once, by a model that saw earlier days alone.
"""

import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from os import environ
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from engine.callbacks.protocol import Callback
from engine.config import Config
from engine.config_file import config_content, config_hash, load_config
from engine.dates import span_of, tuned_note
from engine.errors import Stopped
from engine.inputs import make_split, resolve
from engine.reporting.looks import count_at
from engine.reporting.report import report_training
from engine.score.files import SCORES, holds_folds, write_scores
from engine.score.part_metrics import part_metrics, part_samples
from engine.score.predict import load_run, predict_run
from engine.score.rows import RowScores, to_file
from engine.score.tables import SUMMARY, find_summary, read_summary, write_summary
from engine.training.loop import train
from engine.training.run import CONFIG
from loaders.cache.atomic import write_atomically
from loaders.disk.beginning import beginning
from loaders.disk.content import is_there
from loaders.disk.durable import make_folder
from loaders.disk.lock import alone_in
from loaders.errors import InputError
from loaders.panel import Panel, open_panel
from loaders.progress import Progress, part_of, quiet
from loaders.split import Days, Split
from loaders.verify import verified

BEGUN = ("fold-0", f".{CONFIG}.partial")  # what there is before config.toml


def fold_settings(folds: int | None, rolling: bool) -> list[str]:
    """The settings that --folds and --rolling stand for. Raises InputError for fewer than one fold, or rolling none."""
    if folds is None:
        if rolling:
            raise InputError("--rolling", "there are no folds to roll", "Give their number as --folds too")
        return []
    if folds < 1:
        raise InputError("--folds", f"{folds} is no number of folds", "Give 1 or more, or leave it out")
    return [f"split.folds={folds}", *(["split.rolling=true"] if rolling else [])]


def train_folds(
    config: Config,
    out: Path | None,
    resume: bool,
    console: Console,
    callbacks: Sequence[Callback] = (),
    progress: Progress = quiet,
) -> Path:
    """Train every fold of `split.folds` in order of time, join their test scores, and return the folder of all.

    Args:
        out: the folder to write (default runs/<date and number>); it must be empty unless `resume`.
        resume: keep the folds that are finished, and continue inside the one that is not.
        callbacks: told of every fold's training.
        progress: of all folds, each of which is taken to be as long as the others.

    Raises InputError for a bad cache, split or folder, and what `train` raises; nothing is trained where any fold
    would have an empty part.
    """
    if environ.get("WORLD_SIZE", "1") != "1":  # torchrun's way of telling
        what = "several processes cannot train folds together"
        raise InputError("--folds", what, "Leave torchrun out, or train one fold after the other with split.fold")
    panel = open_panel(config.data.arrow, config.data.store)
    config = resolve(config, panel)
    if config.split.fold:
        what = f"{config.split.fold} picks one fold, and --folds trains them all"
        raise InputError("split.fold", what, "Leave one of the two out")
    folds = [_fold(config, i) for i in range(config.split.folds)]
    splits = [make_split(fold, panel) for fold in folds]
    with ExitStack() as stack:
        if resume:
            out = _resumed(out, config)
            stack.enter_context(alone_in(out))
        else:
            out = Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}" if out is None else out
            stack.enter_context(beginning(out, CONFIG, BEGUN))
            make_folder(out / "fold-0")
            write_atomically(out / CONFIG, config_content(config))
        folders = [out / f"fold-{i}" for i in range(len(folds))]
        for i, (fold, folder) in enumerate(zip(folds, folders, strict=True)):
            name = f"fold {i + 1} of {len(folds)}"
            if _finished(folder, fold, panel):
                console.print(f"{name}: {folder} is finished")
                continue
            for file in (SCORES, SUMMARY):  # what a join before this fold says
                (out / file).unlink(missing_ok=True)
            console.print(f"{name}: {folder}")
            try:
                part = part_of(progress, i / len(folds), (i + 1) / len(folds))
                train(fold, folder, is_there(folder / CONFIG), console, callbacks, part)
            except Stopped as stop:
                raise Stopped(f"{out}: stopped in {name}. Resume with --resume --out {out}") from stop
        _join(out, folders, splits, panel, config.split.tuned_until, console)
    return out


def _fold(config: Config, fold: int) -> Config:
    return config.model_copy(update={"split": config.split.model_copy(update={"fold": fold})})


def _resumed(out: Path | None, config: Config) -> Path:
    """The folder to resume in, if its folds began with this resolved configuration."""
    if out is None or not holds_folds(out):
        raise InputError(str(out or "--resume"), "no folds to resume here", "Name the folder of all folds with --out")
    if config_hash(load_config(out / CONFIG, [])) != config_hash(config):
        what = "the configuration differs from the one these folds began with"
        raise InputError(str(out), what, "Leave --config, --set, --folds and --rolling out to resume, or begin anew")
    return out


def _finished(folder: Path, config: Config, panel: Panel) -> bool:
    """Whether a fold is trained and evaluated. Raises InputError where that was another fold, or on another cache."""
    summary = find_summary(folder)
    if summary is None:
        return False
    found, expected = (summary["config_hash"], summary["cache_id"]), (config_hash(config), panel.manifest.cache_id)
    if found != expected:
        what = f"trained with configuration {found[0]} on cache {found[1]}, not {expected[0]} on {expected[1]}"
        raise InputError(str(folder), what, "Resume on the cache the folds began on, or begin anew")
    return True


def _join(
    out: Path, folders: list[Path], splits: list[Split], panel: Panel, tuned_until: str | None, console: Console
) -> None:
    """Write the scores of all test parts as one file, and the metrics of each and of all."""
    with verified(panel):
        parts = [predict_run(load_run(folder), panel, "test") for folder in folders]
    values = {h: np.concatenate([part.values[h] for part in parts]) for h in panel.manifest.horizons}
    run_ids = " ".join(part.run_id for part in parts)
    rows = np.concatenate([part.rows for part in parts])
    joined = RowScores(rows, values, "test", run_ids, tuned_until=tuned_until)
    test = Days(splits[0].test.start, splits[-1].test.stop)
    dates = panel.calendar[test.start : test.stop]
    note = tuned_note(str(out), "test", dates, tuned_until)
    metrics = part_metrics(part_samples(panel, test), np.stack(list(values.values()), 1))
    lines = [_line(*fold, panel) for fold in zip(folders, splits, strict=True)]
    for i, line in enumerate(lines):
        shown = ", ".join(f"h={h} {'–' if value is None else f'{value:.4f}'}" for h, value in line["rank_ic"].items())
        console.print(f"fold {i + 1}: {line['test_start']}..{line['test_end']}, test RankIC {shown}")
    summary = {
        "folds": lines,
        "cache_id": panel.manifest.cache_id,
        "days": {"test": span_of(dates)},
        "notes": [] if note is None else [note],
        "splits": {"test": metrics},
        "periods_per_year": panel.manifest.periods_per_year,
    }
    write_scores(out / SCORES, to_file(panel, joined))
    write_summary(out, summary)
    count = count_at(panel.folder, str(dates[0]), str(dates[-1]))  # the folds have entered their looks
    report_training(out, panel, joined, [] if note is None else [note], count, console)


def _line(folder: Path, split: Split, panel: Panel) -> dict[str, Any]:
    summary = read_summary(folder)
    return {
        "run_id": summary["run_id"],
        "test_start": str(panel.calendar[split.test.start]),
        "test_end": str(panel.calendar[split.test.stop - 1]),
        "rank_ic": {h: metrics["rank_ic"] for h, metrics in summary["splits"]["test"].items()},
    }
