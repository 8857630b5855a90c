"""Closes that stand still: prices that were carried forward and not traded."""

import math

import numpy as np

from engine.audit.copies.every_code import every_code
from engine.audit.finding import Advice, Finding, failed, passed, skipped, warned
from engine.audit.sample import CacheSample

ADVICE = Advice(
    "stale prices",
    "A price that is carried forward gives labels of 0 that no one could have earned, and hides the move to come.",
    "Drop rows without a trade, and end a code at its last one.",
)
RUN = 5  # days without a change, at least
FALSE_ALARMS = 1e-4  # of a cache
MANY = 0.01  # of the labelled rows of the universe: then it fails


def stale_prices(sample: CacheSample) -> Finding:
    """Whether closes stand still longer than a code's own ticks explain.

    Of each code the longest run of rows with an unchanged close. Were days independent, and unchanged with the share p
    of the code's other days ((k + 1) / (n + 2) of k in n, Laplace's rule), a run of r days would begin on one of n days
    with a probability of at most n p^r. A run counts where that is below 1e-4 over the number of codes, and r >= 5.
    Rows in such runs that are in the universe are what it tells; fails where they are over 1% of the universe.
    """
    if "close" not in sample.bars:
        return skipped(ADVICE, "no closes: the cache keeps no bars")
    total, universe, ends, n = 0, 0, 0, len(sample.panel.manifest.codes)
    longest: list[tuple[int, str]] = []
    for part in every_code(sample):
        close, scored = part.bars["close"], part.scored
        universe += int(scored.sum())
        for s, name in enumerate(part.names):
            days = np.flatnonzero(np.isfinite(close[:, s]))
            start, stop = _longest_run(close[days, s])
            run, others = stop - start - 1, max(len(days) - (stop - start), 0)
            if run < RUN:
                continue
            same = int((np.diff(close[days, s]) == 0).sum()) - run
            chance = math.log(max(len(days), 1)) + run * math.log((same + 1) / (others + 2))
            if chance > math.log(FALSE_ALARMS / n):
                continue
            rows = int(scored[days[start + 1 : stop], s].sum())
            if rows:
                total += rows
                ends += int(stop == len(days))
                longest.append((run, name))
    told = f"{total:,} of {universe:,} rows of the universe, in runs of {len(longest):,} codes"
    if not longest:
        return passed(ADVICE, f"no run of {RUN} unchanged closes that the code's other days do not explain")
    longest.sort(reverse=True)
    told += f" (the longest {longest[0][0]:,} days; {ends:,} to the code's end)"
    names = [name for _, name in longest]
    return failed(ADVICE, told, names) if total > MANY * universe else warned(ADVICE, told, names)


def _longest_run(values: np.ndarray) -> tuple[int, int]:
    """First and last + 1 of the longest run of equal values; the first such run."""
    if not len(values):
        return 0, 0
    changes = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1], [True]]))
    lengths = np.diff(changes)
    i = int(np.argmax(lengths))
    return int(changes[i]), int(changes[i + 1])
