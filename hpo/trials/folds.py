"""The days of a study: the folds that its trials train and validate on, none of which reaches into the test."""

from typing import Any

import torch

from engine.config import SplitConfig, TreesBeside
from engine.dates import dates_of, span_of
from engine.training.fold import Fold, make_fold
from hpo.config import StudyConfig
from loaders.panel import Panel
from loaders.split import Split, gap_days, tuning_folds

CPU = torch.device("cpu")


def study_folds(config: StudyConfig, panel: Panel, device: torch.device = CPU) -> list[tuple[StudyConfig, Fold]]:
    """The configuration and split of every fold; one where the split is as it is.

    Trees beside a network and refits are left out: they come when a training ends, and a trial is judged before.

    Raises InputError where a fold has no day to train on.
    """
    train = config.train.model_copy(update={"refit": 0.0})
    config = config.model_copy(update={"trees": TreesBeside(), "train": train})
    base = make_fold(config, panel, device)
    if not config.hpo.folds:
        return [(config, base)]
    gap = gap_days(config.data.context, panel.manifest.horizons, panel.manifest.known_after)
    splits = tuning_folds(base.split, config.hpo.folds, gap, config.split.rolling)
    configs = [config.model_copy(update={"split": _by_dates(config.split, split, panel)}) for split in splits]
    return [(of_fold, make_fold(of_fold, panel, device)) for of_fold in configs]


def tuning_days(folds: list[tuple[StudyConfig, Fold]]) -> dict[str, Any]:
    """The {first, last, days} of all validation parts of a study."""
    valid = [fold.split.valid for _, fold in folds]
    return span_of(folds[0][1].panel.calendar[valid[0].start : valid[-1].stop])


def _by_dates(asked: SplitConfig, split: Split, panel: Panel) -> SplitConfig:
    """The settings that mean a split, so that the configuration of a fold's run says which days it has."""
    dates = dates_of(split, panel.calendar)
    by_dates = {f"{part}_{end}": dates[part][i] for part in ("valid", "test") for i, end in enumerate(("start", "end"))}
    by_dates |= {"train_start": dates["train"][0]}
    return asked.model_copy(update={**by_dates, "folds": 0, "fold": 0})
