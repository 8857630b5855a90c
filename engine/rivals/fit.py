"""Rivals by name, and how one is fitted and scores. A new rival is a file and an entry of FITTED or UNFITTED.

N rows, H horizons
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from engine.model.neutral import Neutral
from engine.rivals.helped import helped_scores, neutral_of
from engine.rivals.options import Help, Options
from engine.rivals.refitted import refitted_scores
from engine.rivals.reversal import reversal
from engine.rivals.ridge import ridge
from engine.rivals.samples import Fitted, Float32, InPieces, Int, Problem
from engine.rivals.trees.catboost import catboost
from engine.rivals.trees.lightgbm import lightgbm
from engine.rivals.trees.xgboost import xgboost
from engine.score.online.features import choose_features, fit_online, online_scores
from loaders.errors import InputError
from loaders.panel import Panel
from loaders.progress import Progress, part_of, quiet
from loaders.split import Days, Split

Models = Sequence[Sequence[Fitted]]  # of each horizon, of each seed
PartScores = dict[str, npt.NDArray[np.float32]]  # "valid" and "test" -> [N, H], in the order of `present_rows`
# Of seeds, and of chosen models whose size or penalty a refit takes over; None: it is chosen on the validation part.
Fit = Callable[[Problem, range, Any], Sequence[Fitted]]
Score = Callable[[Panel, Days, Options], Float32]


FITTED: dict[str, Fit] = {"ridge": ridge, "lightgbm": lightgbm, "xgboost": xgboost, "catboost": catboost}
UNFITTED: dict[str, Score] = {"reversal": reversal}
ONLINE = "online"  # the online regression alone


@dataclass(frozen=True)
class Rival:
    """A fitted rival, with its help."""

    kind: str
    models: Models  # score the days after validation; none where nothing is fitted
    neutral: Neutral | None  # None where nothing is fitted
    used: Int | None  # places of the features that the online regression uses; None: it is not asked
    options: Options
    # First validation day, ISO, from which on pieces of trees are weighed anew; None: they are not.
    since: str | None = None
    chosen: Models | None = None  # score the days until `until`; None: `models` were not refitted and score those too
    until: str = ""  # last validation day, ISO

    @property
    def help(self) -> Help | None:
        """What it got; None for a rival that takes none."""
        if self.kind not in FITTED:
            return None
        given = replace(self.options.help, seeds=max(map(len, self.models)), refit=self.chosen is not None)
        return given if self.since is not None else replace(given, last_layer_weight=0.0)

    def slopes(self, panel: Panel, part: Days, progress: Progress = quiet) -> Float32 | None:
        """Of the online regression on the days of a part; None where it is not asked."""
        if self.used is None:
            return None
        return fit_online(panel, part, self.used, list(self.options.without), progress=progress).slopes

    def scores(self, panel: Panel, part: Days, slopes: Float32 | None = None) -> Float32:
        """Scores [N, H] of the present rows of a part.

        Args:
            slopes: of the part's days, where they are known already.
        """
        if self.kind in UNFITTED:
            return UNFITTED[self.kind](panel, part, self.options)
        slopes = self.slopes(panel, part) if slopes is None else slopes
        if self.neutral is None:
            assert slopes is not None
            return online_scores(panel, part, slopes, None)
        late = self.chosen is None or panel.calendar[part.stop - 1] > np.datetime64(self.until)
        models = self.models if late else cast(Models, self.chosen)
        scores = helped_scores(panel, part, models, self.neutral, slopes, self.options)
        if self.since is not None:
            begin = int(np.searchsorted(panel.calendar, np.datetime64(self.since)))
            # A refit's pieces are no regressors of validation days, which it was fitted to.
            sums = cast(Sequence[Sequence[InPieces]], self.chosen or self.models)
            weight = np.float32(self.options.help.last_layer_weight)
            scores = scores + weight * refitted_scores(panel, part, sums, self.neutral, begin)
        return scores


def fit_rival(panel: Panel, split: Split, kind: str, options: Options | None = None) -> Rival:
    """Fit a rival of that name to the training part, and choose what is chosen on the validation part; where it is
    refitted, fit what was chosen to both parts.

    Raises InputError for a name that there is not, a part without samples, and a package that is not installed.
    """
    options = options or Options()
    if kind not in (every := [*FITTED, *UNFITTED, ONLINE]):
        raise InputError("--kind", f"no rival {kind!r}", f"Use {', '.join(every)}")
    used = None
    if kind == ONLINE or (kind in FITTED and options.help.online_weight):
        used = choose_features(panel, split.valid.start, list(options.without), options.online_features)
    if kind not in FITTED:
        return Rival(kind, [], None, used, options)
    neutral = neutral_of(panel, split.train, options)
    count = len(panel.manifest.horizons)
    seeds = range(options.seed, options.seed + options.help.seeds)
    fits = count * (2 if options.help.refit else 1)
    parts = [replace(options, progress=part_of(options.progress, i / fits, (i + 1) / fits)) for i in range(fits)]
    models = [FITTED[kind](Problem(panel, split, i, parts[i]), seeds, None) for i in range(count)]
    weighs = options.help.last_layer_weight and hasattr(models[0][0], "pieces")
    first, until = (str(panel.calendar[day]) for day in (split.valid.start, split.valid.stop - 1))
    since = first if weighs else None
    if not options.help.refit:
        return Rival(kind, models, neutral, used, options, since)
    both = split.refit()
    refitted = [
        FITTED[kind](Problem(panel, both, i, parts[count + i]), seeds, chosen) for i, chosen in enumerate(models)
    ]
    return Rival(kind, refitted, neutral, used, options, since, models, until)


def run_baseline(panel: Panel, split: Split, kind: str, options: Options | None = None) -> PartScores:
    """Fit a rival and score the parts "valid" and "test". Raises what `fit_rival` raises, and InputError for a
    feature the cache lacks.
    """
    return part_scores(fit_rival(panel, split, kind, options), panel, split)


def part_scores(rival: Rival, panel: Panel, split: Split) -> PartScores:
    """Scores of the parts "valid" and "test"; the online regression is fitted once to the days of both."""
    start = split.valid.start
    progress = rival.options.progress if rival.kind == ONLINE else quiet
    slopes = rival.slopes(panel, Days(start, split.test.stop), progress)
    parts = {name: split.part(name) for name in ("valid", "test")}
    return {
        name: rival.scores(panel, part, None if slopes is None else slopes[part.start - start : part.stop - start])
        for name, part in parts.items()
    }
