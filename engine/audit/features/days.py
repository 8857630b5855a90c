"""Features as ranks on some days, spread evenly over the calendar.

D days, S codes of the sample, F features
"""

from collections.abc import Iterator

import numpy as np

from engine.audit.sample import Bool, CacheSample, Float32, ranks
from loaders.panel import Int

MOST_CELLS = 1_000_000  # D x S
LEAST = 20  # codes of a day that counts


def spread_days(sample: CacheSample, most_cells: int = MOST_CELLS) -> Int:
    """Places of the days [D] in the calendar: all, or as many as have `most_cells` cells, and no fewer than 60."""
    most = max(most_cells // max(len(sample.codes), 1), min(sample.days, 60))
    return np.unique(np.linspace(0, sample.days - 1, min(most, sample.days)).round().astype(np.int64))


def features_on(sample: CacheSample, days: Int) -> Iterator[tuple[Float32, Bool]]:
    """Of each day: features [S, F], mean 0 and deviation 1 over the codes of the universe, and which codes those are.

    Features that are not stored as ranks within the day are ranked. Codes outside the universe, and features that are
    constant on the day, are zero.
    """
    ranked = sample.panel.manifest.transform == "rank"
    for t, values in zip(days.tolist(), sample.on_days(days), strict=True):
        here = sample.scored[t]
        inside = values[here].astype(np.float32)
        if ranked:
            deviation = inside.std(0) if len(inside) else np.ones(values.shape[1], np.float32)
            inside = (
                (inside - inside.mean(0)) / np.where(deviation > 1e-6, deviation, np.inf) if len(inside) else inside
            )
        else:
            inside = np.nan_to_num(ranks(inside.T).T)
        found = np.zeros(values.shape, np.float32)
        found[here] = inside
        yield found, here
