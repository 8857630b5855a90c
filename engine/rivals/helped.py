"""A rival's scores with the help that an ensemble of networks gets: seeds averaged, neutralised, and the online
regression added. See engine/model/ensemble.py and engine/score/predict.py, which do the same to networks.

N rows, H horizons
"""

from collections.abc import Sequence

import numpy as np
import torch

from engine.model.neutral import Neutral
from engine.rivals.options import Options
from engine.rivals.samples import Fitted, Float32, Int, predicted
from engine.score.online.features import online_scores
from engine.score.risk import moments_of, risk_directions
from engine.score.rows import PartRows, present_rows
from loaders.by_day import features_by_day
from loaders.cache.format import SCORED
from loaders.panel import Panel
from loaders.split import Days


def neutral_of(panel: Panel, train: Days, options: Options) -> Neutral:
    """What removes a share of the exposure to risk factors; the factors are those of the training part."""
    neutral = Neutral(len(panel.manifest.features), options.risk_factors, options.help.neutralize)
    if options.help.neutralize:
        found = risk_directions(moments_of(panel, train), options.risk_factors, list(options.without))
        neutral.directions.copy_(torch.from_numpy(found))
    return neutral


def helped_scores(
    panel: Panel,
    part: Days,
    models: Sequence[Sequence[Fitted]],
    neutral: Neutral,
    slopes: Float32 | None,
    options: Options,
) -> Float32:
    """Scores [N, H] of the present rows of a part.

    Args:
        models: of each horizon, of each seed.
        slopes: of the online regression on the part's days; None: it adds nothing.
    """
    present = present_rows(panel, part)
    scored = panel.presence[present.rows] == SCORED
    mixed = options.deviations or slopes is not None or any(len(of_seeds) > 1 for of_seeds in models)
    columns = []
    for of_seeds in models:
        every = [predicted(model, panel, present.rows, present.day) for model in of_seeds]
        if mixed:
            every = [_deviations(scores, present.day, scored) for scores in every]
        columns.append(np.mean(every, 0))
    scores = np.stack(columns, 1).astype(np.float32)
    if options.help.neutralize:
        scores = _neutralised(panel, part, present, scores, scored, neutral)
    if slopes is not None:
        scores = scores + options.help.online_weight * online_scores(panel, part, slopes, neutral)
    return scores


def _deviations(scores: Float32, day: Int, scored: np.ndarray) -> Float32:
    """Scores in deviations of their day; its scored rows alone make mean and deviation."""
    x = scores.astype(np.float64)
    days = day - day[:1].sum()
    count = np.bincount(days[scored], minlength=int(days.max(initial=0)) + 1).clip(1)
    mean = np.bincount(days[scored], x[scored], len(count)) / count
    deviation = np.sqrt(np.bincount(days[scored], (x - mean[days])[scored] ** 2, len(count)) / count)
    out = np.where(deviation[days] > 0, (x - mean[days]) / np.where(deviation > 0, deviation, 1)[days], 0)
    return out.astype(np.float32)


def _neutralised(
    panel: Panel, part: Days, present: PartRows, scores: Float32, scored: np.ndarray, neutral: Neutral
) -> Float32:
    borders = np.searchsorted(present.day, np.arange(part.start, part.stop + 1))
    found = []
    for i, features in enumerate(features_by_day(panel, present.rows, borders)):
        here = slice(borders[i], borders[i + 1])
        x, of_day = torch.from_numpy(features).float(), torch.from_numpy(scores[here])
        universe = torch.from_numpy(scored[here]).float()
        found.append(neutral(of_day[:, None], x[:, None], universe[:, None])[:, 0].numpy())
    return np.concatenate(found)
