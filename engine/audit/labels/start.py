"""A label that begins late or early, held against the panel's own closes.

    l(d) = mean over days of Spearman's correlation of the label with the return from close t + d to close t + d + h

for d = -2..2, and with the return from the next open to close t + h. Right is the start that the manifest states, or,
where it states none, any that neither the features know nor is known later than the manifest says: close t + d with
d from 0 to `known_after`, and the next open. A label need not be a return of closes: a residual return is less like
each of them, and still likest to the right one. The null is that no wrong start is likelier than the right ones; t test
of the daily difference (`mean_test`) by SIZE, and a difference of at least l / (3h), since starts a day apart share
(h - 1) / h of their days.

Codes apart: a code of whose labels 90% are exactly the return of a wrong start, and fewer than half of a right one.

D days, S codes
"""

import numpy as np

from engine.audit.finding import Advice, Finding, failed, passed, skipped, warned
from engine.audit.labels.windows import (
    NEXT_OPEN,
    Float,
    Start,
    beats,
    exactly,
    likeness,
    stated_start,
    window_days,
    window_return,
)
from engine.audit.sample import CacheSample, Float32

ADVICE = Advice(
    "labels: start",
    "A label that begins before its features end is known in part; one that begins later is known later than stated.",
    "Compute the label from the entry that the manifest states, in the code's own time zone and calendar.",
)
STARTS: tuple[Start, ...] = (0, NEXT_OPEN, 1, -1, 2, -2)
SIZE = 1e-6
LEAST_LIKENESS = 0.5  # below, the label is no return
LEAST_ROWS = 30  # of a code
MANY = 0.05  # of the codes


def start(sample: CacheSample) -> Finding:
    """Where labels begin, and where they should."""
    if not sample.horizons or "close" not in sample.bars:
        return skipped(ADVICE, "the cache has no labels, or does not keep its closes")
    days = window_days(sample)
    lines, whole, asked = [], [], False
    some: dict[int, str] = {}
    for i, h in enumerate(sample.horizons):
        label = sample.targets[h][days]
        windows = {d: w for d in STARTS if (w := window_return(sample, days, d, h)) is not None}
        like = {d: likeness(label, window) for d, window in windows.items()}
        means = {d: float(np.nanmean(each)) for d, each in like.items() if np.isfinite(each).sum() >= 20}
        if not means:
            continue
        asked = True
        best = max(means, key=lambda d: means[d])
        right = [d for d in windows if d in means and _is_right(sample, d, stated_start(sample, i))]
        lines.append(f"h={h}: likest to a return from {_words(best)} ({means[best]:.3f})")
        if means[best] < LEAST_LIKENESS or not right:
            continue
        honest = max(right, key=lambda d: means[d])
        if best not in right and beats(like[best], like[honest], h, means[best] / (3 * h), SIZE):
            whole.append(
                f"h={h} begins at {_words(best)} ({means[best]:.2f}; from {_words(honest)} {means[honest]:.2f})"
            )
        else:
            for s, wrong in _odd_codes(label, windows, right):
                some.setdefault(s, f"{sample.names[s]} ({_words(wrong)})")
    if not asked:
        return skipped(ADVICE, "too few days on which codes have both labels and closes")
    figure = "; ".join(lines)
    if whole:
        return failed(ADVICE, figure, whole)
    if some:
        end = failed if len(some) > MANY * len(sample.codes) else warned
        return end(ADVICE, f"{figure}; {len(some)} codes begin elsewhere", list(some.values()))
    return passed(ADVICE, figure)


def _is_right(sample: CacheSample, begin: Start, stated: Start | None) -> bool:
    if stated is not None:
        return begin == stated
    return isinstance(begin, str) or 0 <= begin <= sample.panel.manifest.known_after


def _odd_codes(label: Float32, windows: dict[Start, Float32], right: list[Start]) -> list[tuple[int, Start]]:
    """Codes whose labels are exactly the returns of a wrong start, and which."""
    shares: dict[Start, Float] = {}
    for d, window in windows.items():
        both, equal = exactly(label, window)
        count = both.sum(0)
        shares[d] = np.where(count >= LEAST_ROWS, equal.sum(0) / np.maximum(count, 1), 0)
    honest = np.max([shares[d] for d in right], 0)
    wrong = [d for d in windows if d not in right]
    if not wrong:
        return []
    table = np.stack([shares[d] for d in wrong])
    odd = np.flatnonzero((table.max(0) > 0.9) & (honest < 0.5))
    return [(int(s), wrong[int(table[:, s].argmax())]) for s in odd]


def _words(begin: Start) -> str:
    if isinstance(begin, str):
        return f"the {begin}"
    return "the close" if begin == 0 else f"the close {abs(begin)} days {'later' if begin > 0 else 'before'}"
