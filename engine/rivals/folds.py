"""A rival for each fold, and their out-of-sample scores joined to one long test: what training/folds.py does for runs.

H horizons
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.rivals.fit import Rival, fit_rival
from engine.rivals.options import Options
from engine.rivals.samples import Float32
from loaders.panel import Panel
from loaders.split import Days, Split


@dataclass(frozen=True)
class Joined:
    """Scores of the test parts of all folds."""

    rivals: list[Rival]
    part: Days  # all of them
    scores: Float32  # [N, H] in the order of `present_rows`


def fit_folds(
    panel: Panel, splits: list[Split], kind: str, options: Callable[[int], Options], tell: Callable[[str], None]
) -> Joined:
    """Fit a rival for each fold, in order of time. Raises what `fit_rival` raises.

    Args:
        splits: whose test parts follow one another without gap.
        options: of a fold, by its number.
        tell: receives a line for each fold.
    """
    rivals, scores = [], []
    for i, split in enumerate(splits):
        rival = fit_rival(panel, split, kind, options(i))
        rivals.append(rival)
        scores.append(rival.scores(panel, split.test))
        dates = panel.calendar[[split.test.start, split.test.stop - 1]]
        tell(f"fold {i + 1} of {len(splits)}: {dates[0]}..{dates[1]}")
    part = Days(splits[0].test.start, splits[-1].test.stop)
    return Joined(rivals, part, np.concatenate(scores))
