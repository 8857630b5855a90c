"""Boosted trees beside a network: fitted with it, kept with its run, and averaged with its scores.

N rows, H horizons
"""

from pathlib import Path

import numpy as np

from engine.config import Config
from engine.rivals.fit import Rival, fit_rival
from engine.rivals.options import Help, Options
from engine.rivals.saved import load_rival_of
from engine.rivals.trees import catboost, lightgbm, xgboost
from engine.score.rows import present_rows
from loaders.cache.format import SCORED
from loaders.errors import InputError
from loaders.panel import Panel
from loaders.progress import Progress, quiet
from loaders.split import Split

TREES = "trees.safetensors"  # in the run's folder
LIBRARIES = {"lightgbm": lightgbm.library, "xgboost": xgboost.library, "catboost": catboost.library}


def check_library(kind: str, where: str) -> None:
    """Raise InputError where the package of a kind of trees is not installed.

    Args:
        kind: what is no library needs none.
        where: what asked for it, for the message.
    """
    try:
        if kind in LIBRARIES:
            LIBRARIES[kind]()
    except InputError as error:
        raise InputError(where, error.what, error.cure) from error


def check_trees(config: Config, panel: Panel, split: Split) -> None:
    """Raise InputError for trees that cannot be fitted when the training has ended."""
    trees = config.trees
    check_library(trees.kind, f"trees.kind={trees.kind}")
    if trees.kind == "lightgbm" and trees.objective == "lambdarank":
        for part in (split.train, split.valid):
            present = present_rows(panel, part)
            scored = present.day[panel.presence[present.rows] == SCORED]
            lightgbm.check_days(np.bincount(scored - part.start, minlength=1), "trees.objective")


def fit_trees(
    config: Config, panel: Panel, split: Split, without: list[int], progress: Progress = quiet
) -> Rival | None:
    """The trees that a configuration asks for; None where it asks for none.

    Args:
        without: features that are ids, which risk factors leave out.

    Raises what `fit_rival` raises.
    """
    trees = config.trees
    if trees.kind == "off":
        return None
    return fit_rival(panel, split, trees.kind, _options(config, without, progress))


def load_trees(config: Config, folder: Path, run: str, features: list[str], horizons: list[int]) -> Rival | None:
    """Those that were fitted for a run; None where it has none.

    Raises InputError where their file is missing, damaged or of another run.
    """
    if config.trees.kind == "off":
        return None
    return load_rival_of(folder / TREES, run, features, horizons, _options(config, [], quiet))


def _options(config: Config, without: list[int], progress: Progress) -> Options:
    """Those of members of the network's ensemble: the online regression is added to the average."""
    train, model = config.train, config.model
    given = Help(train.seeds, train.half_life, 0.0, model.neutralize, refit=train.refit > 0)
    return Options(
        seed=train.seed, help=given, trees={config.trees.kind: config.trees}, risk_factors=model.risk_factors,
        deviations=True, without=tuple(without), progress=progress,
    )  # fmt: skip
