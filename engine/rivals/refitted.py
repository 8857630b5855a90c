"""What a network's refitted last layer is to trees: pieces of their sum, weighed anew each day.

The regressors are the sums of PIECES runs of trees of each seed and horizon; see engine/score/online/refit.py.

N rows, C pieces of all models, H horizons
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from engine.model.neutral import Neutral
from engine.rivals.samples import Float32, InPieces, chunks, features_of
from engine.score.online.refit import Day, Span, refit
from engine.score.rows import present_rows
from loaders.cache.format import SCORED
from loaders.panel import Panel
from loaders.split import Days

PIECES = 32  # of a model


def refitted_scores(
    panel: Panel, part: Days, models: Sequence[Sequence[InPieces]], neutral: Neutral, begin: int
) -> Float32:
    """Scores [N, H] of the present rows of a part, neutralised.

    Args:
        models: of each horizon, of each seed.
        begin: calendar index of the first day whose samples count.
    """
    every = [model for of_seeds in models for model in of_seeds]
    nothing = np.zeros((1, len(panel.manifest.features)), np.float32)
    columns = sum(model.pieces(nothing, PIECES).shape[1] for model in every)
    span = Span(part, begin, begin - 1, part.stop - 1)
    return refit(_by_day(panel, span.days(panel), every), panel, span, columns, len(models), neutral).scores


def _by_day(panel: Panel, part: Days, models: Sequence[InPieces]) -> Iterator[Day]:
    """Every day of a part, also one without rows."""
    rows, day, _ = present_rows(panel, part)
    following = part.start
    for chunk in chunks(day):
        x, of_rows = features_of(panel, rows[chunk]), rows[chunk]
        outputs = np.concatenate([model.pieces(x, PIECES) for model in models], 1).astype(np.float32)
        stop = int(day[chunk][-1]) + 1
        borders = np.searchsorted(day[chunk], np.arange(following, stop + 1))
        for i, number in enumerate(range(following, stop)):
            here = slice(borders[i], borders[i + 1])
            yield _day(panel, number, outputs[here], x[here], of_rows[here])
        following = stop
    for number in range(following, part.stop):
        yield _day(panel, number, outputs[:0], x[:0], rows[:0])


def _day(panel: Panel, number: int, outputs: Float32, x: Float32, rows: np.ndarray) -> Day:
    scored = torch.from_numpy(panel.presence[rows] == SCORED).float()
    return Day(number, torch.from_numpy(outputs), torch.from_numpy(x), scored, panel.targets[rows])
