"""What a report is about: scores on the rows of a panel, their figures, and the run that made them where there is one.

Everything here is computed once and shared by the sections.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.config import Config
from engine.config_file import load_config
from engine.evaluation.opened import Opened, Samples
from engine.reporting.looks import Count
from engine.score.files import holds_folds
from engine.score.metrics import Daily
from engine.score.predict import TrainedRun, load_run
from engine.score.tables import find_summary
from loaders.disk.content import is_there
from loaders.panel import Panel
from loaders.split import Days

Dates = npt.NDArray[np.datetime64]

BRIEF_DAYS = 120  # of a brief report's decay and exposure, evenly spaced


@dataclass(frozen=True, eq=False)
class Subject:
    """Scores that are reported."""

    paths: list[Path]
    against: Path | None
    opened: Opened
    result: dict[str, Any]  # of `Opened.figures`
    count: Count | None  # where this look stands
    brief: bool  # whether parts that take more than a few seconds are left out or sampled

    @property
    def panel(self) -> Panel:
        return self.opened.panel

    @property
    def cost_bps(self) -> float:
        return self.opened.cost_bps

    @property
    def split(self) -> str:
        return self.opened.split

    @property
    def horizons(self) -> list[int]:
        return self.opened.horizons

    @property
    def metrics(self) -> dict[str, Any]:
        """By horizon, those that `evaluate --json` prints."""
        return self.result["splits"][self.split]

    @property
    def period(self) -> str:
        """What a date of the calendar is: day, week, month or era."""
        return self.panel.manifest.period

    @property
    def folder(self) -> Path | None:
        """Of the one run or folds that are reported; None for score files and averages."""
        only = self.paths[0] if len(self.paths) == 1 else None
        return only if only is not None and is_there(only / "config.toml") else None

    @property
    def has_folds(self) -> bool:
        return self.folder is not None and holds_folds(self.folder)

    @cached_property
    def config(self) -> Config | None:
        return None if self.folder is None else load_config(self.folder / "config.toml", [])

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """summary.json of the run or folds; None where there is none yet."""
        return None if self.folder is None else find_summary(self.folder)

    @cached_property
    def run(self) -> TrainedRun | None:
        """The trained model, where one run is reported."""
        return None if self.folder is None or self.has_folds else load_run(self.folder)

    @property
    def no_run(self) -> str:
        """Why there is no model to look into."""
        if self.has_folds:
            return f"each fold has a model of its own: `atft-engine report {self.folder}/fold-0` shows the first"
        if len(self.paths) > 1:
            return "several sources are averaged: report one run by itself"
        return "a score file does not say which model made it: report its run"

    @cached_property
    def days(self) -> Days:
        """From the first to the last day of the scores, as numbers of the calendar."""
        first, last = (
            int(np.searchsorted(self.panel.calendar, np.datetime64(self.result["days"][self.split][end])))
            for end in ("first", "last")
        )
        return Days(first, last + 1)

    def samples(self, horizon: int) -> Samples:
        """The samples of a horizon and their scores."""
        return self.opened.samples(horizon)

    def daily(self, horizon: int) -> tuple[Dates, Daily] | None:
        """The dates that count and their daily values; None where no day counts."""
        found = self.opened.daily(horizon)
        return None if found is None else (self.panel.calendar[found[0]], found[1])

    def sampled(self, day: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which rows of these days count: all, or in a brief report those of BRIEF_DAYS days."""
        days = np.unique(day)
        if not self.brief or len(days) <= BRIEF_DAYS:
            return np.ones(len(day), bool)
        return np.isin(day, days[np.linspace(0, len(days) - 1, BRIEF_DAYS).astype(np.int64)])

    @property
    def sampling(self) -> str:
        """What a sentence says of `sampled`; empty where all days count."""
        return f" On {BRIEF_DAYS} evenly spaced {self.period}s." if self.brief and len(self.days) > BRIEF_DAYS else ""
