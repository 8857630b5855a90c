"""Rivals by name, and how one is fitted and scores. A new rival is a file and an entry of FITTED or UNFITTED.

N rows, H horizons
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from engine.model.neutral import Neutral
from engine.rivals.helped import helped_scores, neutral_of
from engine.rivals.options import Help, Options
from engine.rivals.reversal import reversal
from engine.rivals.ridge import ridge
from engine.rivals.samples import Fitted, Float32, Problem
from engine.rivals.trees.catboost import catboost
from engine.rivals.trees.lightgbm import lightgbm
from engine.rivals.trees.xgboost import xgboost
from engine.score.online import online_scores, online_slopes
from loaders.errors import InputError
from loaders.panel import Panel
from loaders.progress import Progress, part_of, quiet
from loaders.split import Days, Split

PartScores = dict[str, npt.NDArray[np.float32]]  # "valid" and "test" -> [N, H], in the order of `present_rows`
Fit = Callable[[Problem, range], Sequence[Fitted]]  # seeds
Score = Callable[[Panel, Days, Options], Float32]  # whose progress is that of the scoring


def _online(panel: Panel, part: Days, options: Options) -> Float32:
    slopes = online_slopes(panel, part, list(options.without), options.online_features, progress=options.progress)
    return online_scores(panel, part, slopes, None)


FITTED: dict[str, Fit] = {"ridge": ridge, "lightgbm": lightgbm, "xgboost": xgboost, "catboost": catboost}
UNFITTED: dict[str, Score] = {"reversal": reversal, "online": _online}


@dataclass(frozen=True)
class Rival:
    """A fitted rival, with its help."""

    kind: str
    models: Sequence[Sequence[Fitted]]  # of each horizon, of each seed; none where nothing is fitted
    neutral: Neutral | None  # None where nothing is fitted
    options: Options

    @property
    def help(self) -> Help | None:
        """What it got; None for a rival that takes none."""
        return None if self.kind in UNFITTED else replace(self.options.help, seeds=max(map(len, self.models)))

    def scores(self, panel: Panel, part: Days, progress: Progress = quiet) -> Float32:
        """Scores [N, H] of the present rows of a part.

        Args:
            progress: of the scoring, where nothing is fitted before it.
        """
        if self.kind in UNFITTED:
            return UNFITTED[self.kind](panel, part, replace(self.options, progress=progress))
        assert self.neutral is not None
        return helped_scores(panel, part, self.models, self.neutral, self.options)


def fit_rival(panel: Panel, split: Split, kind: str, options: Options | None = None) -> Rival:
    """Fit a rival of that name to the training part, and choose what is chosen on the validation part.

    Raises InputError for a name that there is not, a part without samples, and a package that is not installed.
    """
    options = options or Options()
    if kind not in (every := [*FITTED, *UNFITTED]):
        raise InputError("--kind", f"no rival {kind!r}", f"Use {', '.join(every)}")
    if kind in UNFITTED:
        return Rival(kind, [], None, options)
    neutral = neutral_of(panel, split.train, options)
    count = len(panel.manifest.horizons)
    seeds = range(options.seed, options.seed + options.help.seeds)
    parts = [replace(options, progress=part_of(options.progress, i / count, (i + 1) / count)) for i in range(count)]
    models = [FITTED[kind](Problem(panel, split, i, part), seeds) for i, part in enumerate(parts)]
    return Rival(kind, models, neutral, options)


def run_baseline(panel: Panel, split: Split, kind: str, options: Options | None = None) -> PartScores:
    """Fit a rival and score the parts "valid" and "test". Raises what `fit_rival` raises, and InputError for a
    feature the cache lacks.
    """
    return part_scores(fit_rival(panel, split, kind, options), panel, split)


def part_scores(rival: Rival, panel: Panel, split: Split) -> PartScores:
    """Scores of the parts "valid" and "test"."""
    first, second = (part_of(rival.options.progress, i / 2, (i + 1) / 2) for i in range(2))
    return {
        "valid": rival.scores(panel, split.valid, first),
        "test": rival.scores(panel, split.test, second),
    }
