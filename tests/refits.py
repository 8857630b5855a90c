"""What regressions that are refitted every day should give: least squares over all known samples, day by day."""

import numpy as np
from scipy import stats

from loaders.cache.format import SCORED

EXPECTED = 0.12  # deviation of a score by the prior


def scores_by_lstsq(panel, outputs, day, i, begin):
    """Scores [N] of a day's rows for horizon number i, by lstsq on all known samples, stacked with the prior.

    Args:
        outputs: {day: its rows, and the regressors [N, C] of them in float64}.
        begin: the first day whose samples count.
    """
    h, stacked, aims = panel.manifest.horizons[i], [], []

    def standardised(t):
        rows, every = outputs[t]
        scored = panel.presence[rows] == SCORED
        deviation = every[scored].std(0)
        return (every - every[scored].mean(0)) / np.where(deviation > 1e-5, deviation, np.inf), scored, rows

    for u in range(begin, day - h + 1):
        z, scored, rows = standardised(u)
        target = panel.targets[rows, i]
        known = scored & np.isfinite(target)
        stacked.append(z[known])
        aims.append(((stats.rankdata(target[known]) - 0.5) / known.sum() - 0.5) * np.sqrt(12))
    width = stacked[0].shape[1]
    stacked.append(np.sqrt(width) / EXPECTED * np.eye(width))
    slopes = np.linalg.lstsq(np.vstack(stacked), np.concatenate([*aims, np.zeros(width)]), rcond=None)[0]
    return standardised(day)[0] @ slopes / EXPECTED
