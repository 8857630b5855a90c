"""What the checks of runs see: a run, or each fold of a walk, beside the cache that it scores."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from engine.config_file import load_config
from engine.score.files import fold_folders, holds_folds
from engine.score.predict import TrainedRun, load_run
from loaders.panel import Int, Panel
from loaders.split import Days, find_days

CONFIG = "config.toml"


@dataclass(frozen=True, eq=False)
class Trained:
    """The runs of a folder, in order of time, beside a panel."""

    panel: Panel
    folder: Path
    runs: list[TrainedRun]  # one, or one for each fold

    def days(self, run: TrainedRun, part: str) -> Days:
        """The days of a part that the panel has, by the dates that the run has stored; may be empty."""
        found = find_days(self.panel.calendar, *run.state.split[part])
        return Days(found.start, max(found.stop, found.start))

    @cached_property
    def tuned_until(self) -> str | None:
        """Last day that the choice of the settings has seen; None where it is not known."""
        own = [run.config.split.tuned_until for run in self.runs]
        if holds_folds(self.folder):
            own.append(load_config(self.folder / CONFIG, []).split.tuned_until)
        return max((day for day in own if day is not None), default=None)


def trained(panel: Panel, folder: Path) -> Trained:
    """A run folder, or a folder of folds. Raises InputError where it holds no trained run."""
    folders = fold_folders(folder) if holds_folds(folder) else [folder]
    return Trained(panel, folder, [load_run(each) for each in folders])


def evenly(days: Days, most: int) -> Int:
    """At most so many of some days, evenly, the first and the last among them."""
    return np.unique(np.linspace(days.start, days.stop - 1, min(most, len(days))).round().astype(np.int64))
