"""Returns cut off at a largest and a smallest value.

Winsorised labels are fine for training. Figures are wrong where they are returns: Sharpe, spread and drawdown of a
book that cannot lose more than the cut. The largest of a continuous label is attained once; here LEAST labels or
more share it, and as many the smallest (a total loss, -1, aside). Labels of few distinct values (classes), and those
whose largest value is there on every day (ranks, scores within the day), are no returns and are left alone.

Null: two equal extremes of a continuous label have probability 0; rounded prices give a few.
"""

import numpy as np

from engine.audit.finding import Advice, Finding, passed, skipped, warned
from engine.audit.sample import CacheSample

ADVICE = Advice(
    "labels: clipping",
    "Sharpe and spread from clipped returns leave out the losses that were cut off.",
    "Train on clipped labels if you like; evaluate on returns as they were.",
)
LEAST = 20
LEAST_SHARE = 2e-5
DISTINCT = 0.2  # share of labels: fewer are classes or ranks
EVERY_DAY = 0.98


def clipping(sample: CacheSample) -> Finding:
    """Labels of which many are exactly the largest or the smallest."""
    lines, blamed = [], []
    for h in sample.horizons:
        label = np.where(sample.scored, sample.targets[h], np.nan)
        known = np.isfinite(label)
        values = label[known]
        if len(values) < 1000:
            continue
        days = int(known.any(1).sum())
        counts = []
        for extreme in (values.max(), values.min()):
            at = label == extreme
            everywhere = at.any(1).sum() > EVERY_DAY * days and at.sum() < 1.1 * days
            counts.append(0 if everywhere or extreme == -1 else int(at.sum()))
        lines.append(f"h={h}: {counts[0]:,} at the largest, {counts[1]:,} at the smallest")
        if max(counts) >= max(LEAST, LEAST_SHARE * len(values)) and _distinct(values) > DISTINCT:
            blamed.append(
                f"h={h} ({sum(counts) / len(values):.2%} of the labels, {values.min():.3g} to {values.max():.3g})"
            )
    if not lines:
        return skipped(ADVICE, "the cache has no labels, or fewer than 1,000")
    return warned(ADVICE, "; ".join(lines), blamed) if blamed else passed(ADVICE, "; ".join(lines))


def _distinct(values: np.ndarray) -> float:
    some = values[:: max(len(values) // 100_000, 1)]
    return len(np.unique(some)) / len(some)
