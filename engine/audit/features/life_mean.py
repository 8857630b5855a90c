"""Values less the code's mean over its whole life: what the first half has above it, the second has below.

    r = correlation over codes of the mean of the first half of a code's rows with that of the second half

Whole-life z-scores have r = -1, with and without the division, and most of it remains in ranks within the day. What
codes really are like gives r > 0, and noise r = 0. The lowest r of anything honest is -1/2, of a change x(t) - x(t - 1)
of what has no memory: the halves share the value between them with opposite signs. Labels are asked as features are: a
return less the code's own mean knows its future.

Null: r = -1/2; Fisher's z of S codes (1921), one-sided by SIZE over features and labels. Floor: r < LIMIT.

S codes, F features, H horizons
"""

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from engine.audit.finding import Advice, Finding, failed, passed, skipped
from engine.audit.sample import CacheSample

ADVICE = Advice(
    "features: mean over whole lives",
    "A value less the mean of its code's whole life tells every day what the days to come are like.",
    "Standardise by rows up to the day: a trailing window, or all rows so far; or within the day.",
)
SIZE = 1e-4
HONEST = -0.5
LIMIT = -0.75
LEAST_ROWS = 60  # of each half
LEAST_CODES = 30
MOST_CODES = 500


def life_mean(sample: CacheSample) -> Finding:
    """Features and labels whose means over the halves of a code's life cancel."""
    halves = _halves(sample)  # [2, S, F + H]
    manifest = sample.panel.manifest
    names = [*manifest.features, *(f"label h={h}" for h in sample.horizons)]
    asked = (np.isfinite(halves).all(0)).sum(0) >= LEAST_CODES
    if not asked.any():
        return skipped(ADVICE, f"fewer than {LEAST_CODES} codes with {2 * LEAST_ROWS} rows in the universe")
    limit = NormalDist().inv_cdf(1 - SIZE / int(asked.sum()))
    found, lowest = [], (1.0, "none")
    for i in np.flatnonzero(asked).tolist():
        both = np.isfinite(halves[:, :, i]).all(0)
        first, second = halves[:, both, i]
        if min(np.ptp(first), np.ptp(second)) < 1e-7:
            continue
        r = float(np.clip(np.corrcoef(first, second)[0, 1], -1 + 1e-9, 1 - 1e-9))
        lowest = min(lowest, (r, f"{names[i]} {r:+.2f}"))
        z = (math.atanh(HONEST) - math.atanh(r)) * math.sqrt(both.sum() - 3)
        if r < LIMIT and z > limit:
            found.append((r, f"{names[i]} ({r:+.2f})"))
    figure = f"lowest correlation of a code's halves: {lowest[1]}; limit {LIMIT}, of anything honest {HONEST}"
    if not found:
        return passed(ADVICE, figure)
    return failed(ADVICE, figure, [line for _, line in sorted(found)])


def _halves(sample: CacheSample) -> npt.NDArray[np.float64]:
    """Means over the first and the second half of each code's rows of the universe [2, S, F + H]; NaN of short lives."""
    codes = np.unique(np.linspace(0, len(sample.codes) - 1, min(MOST_CODES, len(sample.codes))).astype(np.int64))
    width = len(sample.panel.manifest.features) + len(sample.horizons)
    found = np.full((2, len(codes), width), np.nan)
    for i, s in enumerate(codes.tolist()):
        features = sample.of_code(s)
        first = int(sample.panel.first[sample.codes[s]])
        span = slice(first, first + len(features))
        labels = [sample.targets[h][span, s, None] for h in sample.horizons]
        inside = sample.scored[span, s]
        if inside.sum() < 2 * LEAST_ROWS:
            continue
        values = np.concatenate([features.astype(np.float32), *labels], 1)[inside]
        for h in range(width - len(sample.horizons), width):
            known = np.isfinite(values[:, h])
            if known.sum() >= 2 * LEAST_ROWS:
                column = np.clip(values[known, h], *np.quantile(values[known, h], [0.01, 0.99]))
                found[:, i, h] = _means(column[:, None])[:, 0]
        found[:, i, : width - len(sample.horizons)] = _means(values[:, : width - len(sample.horizons)])
    return found


def _means(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    middle = len(values) // 2
    return np.stack([values[:middle].mean(0, dtype=np.float64), values[middle:].mean(0, dtype=np.float64)])
