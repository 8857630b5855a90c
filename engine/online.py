"""The online regression: what the last year's returns say, fitted anew for every day to what is known by then.

A network is as old as the end of its training part. Beside it stands a ridge regression whose slopes on day t are

    argmin_w  sum of 0.5^((t - h - u) / HALF_LIFE) (r - x'w)^2 over samples of days u <= t - h  +  C / EXPECTED^2 w'w,

r the rank of a return over h days within its day, of deviation 1, and x the C = 2F columns of `with_squares`: least
squares that forget (Haykin 2002, "Adaptive Filter Theory", chapter 9) from a normal prior on the slopes, so that a
market with few samples gets small ones. A return over h days from day u on is known at the close of day u + h: slopes
of day t hold nothing that was not known on it, on days of validation and test as on any other.

N rows, F features, H horizons
"""

from collections import deque

import numpy as np
import numpy.typing as npt
import torch

from engine.metrics import ranks_within_day
from engine.model.cross_section import standardised, with_squares
from engine.scores import present_rows
from loaders.cache.format import SCORED
from loaders.panel import Int, Panel
from loaders.split import Days

HALF_LIFE = 250.0  # days
EXPECTED = 0.06  # deviation of x'w by the prior, where returns deviate by 1: what is expected of a RankIC

Float32 = npt.NDArray[np.float32]


def online_slopes(panel: Panel, part: Days, without: list[int]) -> Float32:
    """Slopes of each day of a part, [D, 2F, H], in units of EXPECTED; what they learn from begins with the panel.

    Args:
        without: features that take no part, such as ids.
    """
    horizons, features = panel.manifest.horizons, len(panel.manifest.features)
    rows, day, _ = present_rows(panel, Days(0, part.stop))
    universe = panel.presence[rows] == SCORED
    rows, day = rows[universe], day[universe]
    ranks = _ranks(panel.targets[rows], day)
    borders = np.searchsorted(day, np.arange(part.stop + 1))
    columns = 2 * features
    squares, products = np.zeros((len(horizons), columns, columns)), np.zeros((len(horizons), columns))
    prior, fade = columns / EXPECTED**2 * np.eye(columns), 0.5 ** (1 / HALF_LIFE)
    # Of each horizon's last h days, whose returns are not known yet, the oldest first.
    none = np.zeros((columns, columns), np.float32), np.zeros(columns, np.float32)
    waiting = [deque([none] * h, h) for h in horizons]
    slopes = np.zeros((len(part), columns, len(horizons)), np.float32)
    for t in range(part.stop):
        here = slice(borders[t], borders[t + 1])
        x = _columns(panel, rows[here], without)
        for i, days in enumerate(waiting):
            square, product = days[0]
            squares[i] = fade * squares[i] + square
            products[i] = fade * products[i] + product
            if t >= part.start:
                slopes[t - part.start, :, i] = np.linalg.solve(squares[i] + prior, products[i]) / EXPECTED
            known = np.isfinite(ranks[here, i])
            of_known = x[known]
            days.append((of_known.T @ of_known, of_known.T @ ranks[here, i][known]))
    return slopes


def online_scores(panel: Panel, part: Days, slopes: Float32) -> Float32:
    """Scores [N, H] by slopes of the part's days, in the order of `present_rows`."""
    rows, day, _ = present_rows(panel, part)
    borders = np.searchsorted(day, np.arange(part.start, part.stop + 1))
    pieces = [slice(*borders[i : i + 2]) for i in range(len(part))]
    return np.concatenate([_columns(panel, rows[piece], []) @ slopes[i] for i, piece in enumerate(pieces)])


def _columns(panel: Panel, rows: Int, without: list[int]) -> Float32:
    """What returns are regressed on, [N, 2F] of one day's rows."""
    features = panel.features[rows].astype(np.float32)
    features[:, without] = 0
    x, scored = torch.from_numpy(features)[None], torch.from_numpy(panel.presence[rows] == SCORED).float()[None]
    return with_squares(standardised(x, scored), scored)[0].numpy()


def _ranks(targets: Float32, day: Int) -> Float32:
    """Ranks within the day of each horizon's targets [N, H], of deviation 1, NaN where there is none."""
    ranks = np.full(targets.shape, np.nan, np.float32)
    for i, column in enumerate(targets.T):
        known = np.isfinite(column)
        ranks[known, i] = ranks_within_day(column[known], day[known]) * np.sqrt(12)
    return ranks
