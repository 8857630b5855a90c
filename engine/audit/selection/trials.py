"""The trials of a study as variants: their best checkpoints, scored anew on the days that the study has seen."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.dates import Asked
from engine.evaluation.sources import Source, read_source, source_of
from engine.reporting.sections.study import Study
from engine.score.rows import RowScores
from loaders.disk.content import is_there
from loaders.panel import Panel
from loaders.progress import Progress, part_of, quiet

MOST_SCORED = 50  # trials; some seconds each


def tried_of(study: Study) -> int:
    """Trials that were held against each other: complete and pruned ones."""
    return sum(state in ("COMPLETE", "PRUNED") for state in study.state)


def trial_runs(study: Study) -> dict[int, list[Path]]:
    """Run folders of each complete trial that has them, one for each fold."""
    folders = {int(n): study.folder / "trials" / f"{n:04d}" for n in study.number[study.complete]}
    return {n: runs for n, folder in folders.items() if (runs := _runs(folder))}


def trial_sources(panel: Panel, trials: dict[int, list[Path]], progress: Progress = quiet) -> list[Source]:
    """The validation scores of trials, the folds of one joined.

    Raises what `read_source` raises of a run.
    """
    sources = []
    for i, (number, runs) in enumerate(trials.items()):
        part = part_of(progress, i / len(trials), (i + 1) / len(trials))
        sources.append(
            joined(f"trial {number}", [read_source(r, panel, Asked("valid"), None, part) for r in runs], panel)
        )
    return sources


def _runs(folder: Path) -> list[Path]:
    """The runs of a trial, one for each fold; none where a checkpoint is missing."""
    runs: list[Path] = []
    while is_there(folder / f"fold-{len(runs)}" / "config.toml"):
        runs.append(folder / f"fold-{len(runs)}")
    runs = runs or [folder]
    return runs if all(is_there(run / "checkpoints" / "best.safetensors") for run in runs) else []


def joined(name: str, parts: list[Source], panel: Panel) -> Source:
    """Sources of different days as one."""
    if len(parts) == 1:
        return replace(parts[0], name=name)
    horizons = [h for h in parts[0].values if all(h in each.values for each in parts)]
    rows = np.concatenate([each.rows for each in parts])
    values = {h: np.concatenate([each.values[h] for each in parts]) for h in horizons}
    return source_of(name, RowScores(rows, values, "valid"), [], panel)
