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
LONG = 0.9  # of the calendar's days


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
    """Means over the halves of each code's rows [2, S, F + H], those of labels as ranks; NaN of short lives."""
    codes = _codes(sample)
    n_features = len(sample.panel.manifest.features)
    found = np.full((2, len(codes), n_features + len(sample.horizons)), np.nan)
    for i, s in enumerate(codes.tolist()):
        features = sample.of_code(s)
        first = int(sample.panel.first[sample.codes[s]])
        span = slice(first, first + len(features))
        found[:, i, :n_features] = _means(features[sample.scored[span, s]].astype(np.float32))
        for j, h in enumerate(sample.horizons, n_features):
            label = sample.targets[h][span, s, None]
            found[:, i, j] = _means(label[np.isfinite(label[:, 0])])[:, 0]
    for j in range(n_features, found.shape[2]):  # one code's largest moves would decide the correlation
        both = np.isfinite(found[:, :, j]).all(0)
        found[:, both, j] = found[:, both, j].argsort(1).argsort(1)
    return found


def _codes(sample: CacheSample) -> npt.NDArray[np.int64]:
    """Places in the sample of codes that live nearly as long as the calendar, or of all where those are few.

    Halves of the same days: what is common to all codes on a day then cancels.
    """
    alive = sample.scored.sum(0)
    long = np.flatnonzero(alive >= LONG * sample.days)
    codes = long if len(long) >= LEAST_CODES else np.arange(len(sample.codes))
    return codes[np.unique(np.linspace(0, len(codes) - 1, min(MOST_CODES, len(codes))).astype(np.int64))]


def _means(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Means of both halves [2, columns] of rows; NaN of fewer than twice LEAST_ROWS."""
    if len(values) < 2 * LEAST_ROWS:
        return np.full((2, values.shape[1]), np.nan)
    middle = len(values) // 2
    return np.stack([values[:middle].mean(0, dtype=np.float64), values[middle:].mean(0, dtype=np.float64)])
