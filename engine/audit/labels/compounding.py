"""Labels of two horizons that contradict each other: y_h against those of b days, the shortest, compounded.

    days    p(j) = Spearman's correlation within the day of y_h(t) with y_b(t + j b): about sqrt(b / h) for
            j = 0..h/b - 1, and about 0 before and after. A p(j) outside that is above half the mean of those
            inside, or one inside that is below half of it, says that y_h covers other days. It holds of returns of
            any kind: residual, from the open, in logarithms.
    values  where most y_h are exactly the product (or the sum: logarithms) of y_b, all should be; labels at the
            largest or the smallest of their horizon aside, which clipping may have moved there.

A target that is no return fails nothing: where y_h is like no y_b, no more than a warning is given. The limit of p(j)
is a half, twenty standard errors and more from both ends on any panel with 10,000 labels; fewer are not asked.

D days, S codes
"""

import numpy as np
import numpy.typing as npt

from engine.audit.finding import Advice, Finding, failed, passed, skipped, warned
from engine.audit.labels.windows import exactly, window_days
from engine.audit.sample import CacheSample, Float32, ranks, shifted

ADVICE = Advice(
    "labels: compounding",
    "Horizons that contradict each other cannot both be the returns that they are called.",
    "Compute all labels from the same prices, from the same start.",
)
LEAST_CELLS = 10_000
OUTSIDE = 2  # steps before and after
ODD = 0.002  # share of labels that do not compound, where most do
LEAST_ODD = 10


def compounding(sample: CacheSample) -> Finding:
    """Whether labels of longer horizons are those of the shortest, compounded."""
    if not sample.horizons:
        return skipped(ADVICE, "the cache has no labels")
    b = min(sample.horizons)
    longer = [h for h in sample.horizons if h > b and h % b == 0]
    lines, wrong, odd = [], [], []
    for h in longer:
        profile = _profile(sample, b, h)
        if profile is None:
            continue
        inside = profile[OUTSIDE:-OUTSIDE]
        mean = float(inside.mean())
        lines.append(f"h={h}: correlation {mean:.2f} with each of its days")
        if mean < 0.3 * np.sqrt(b / h):
            odd.append(f"h={h} is not made of h={b}")
            continue
        outside = np.concatenate([profile[:OUTSIDE], profile[-OUTSIDE:]])
        if outside.max() > mean / 2 or inside.min() < mean / 2:
            wrong.append(f"h={h} covers other days than h={b} says ({_span(profile, b, mean)})")
            continue
        share, codes = _not_exact(sample, b, h)
        if codes:
            lines[-1] += f", {share:.2%} do not compound"
            wrong.append(f"h={h}: {', '.join(codes[:3])}")
    if not lines:
        return skipped(ADVICE, "no two horizons of which one is a multiple of the other, or too few labels")
    if wrong or odd:
        return (failed if wrong else warned)(ADVICE, "; ".join(lines), wrong + odd)
    return passed(ADVICE, "; ".join(lines))


def _profile(sample: CacheSample, b: int, h: int) -> npt.NDArray[np.float64] | None:
    """p(j) for j from OUTSIDE before the label to OUTSIDE after it."""
    days = window_days(sample)
    label, step = ranks(sample.targets[h][days]), sample.targets[b]
    found = []
    for j in range(-OUTSIDE, h // b + OUTSIDE):
        later = ranks(shifted(step, -j * b)[days])
        both = np.isfinite(label) & np.isfinite(later)
        if both.sum() < LEAST_CELLS:
            return None
        found.append(float((label * later)[both].mean(dtype=np.float64)))
    return np.array(found)


def _span(profile: npt.NDArray[np.float64], b: int, mean: float) -> str:
    covered = np.flatnonzero(profile > mean / 2) - OUTSIDE
    return f"days {covered.min() * b + 1} to {(covered.max() + 1) * b}"


def _not_exact(sample: CacheSample, b: int, h: int) -> tuple[float, list[str]]:
    """Share of labels that do not compound, and the codes that have them, the worst first; none where few compound."""
    label, step = _within_extremes(sample.targets[h]), _within_extremes(sample.targets[b])
    best: tuple[float, npt.NDArray[np.int64]] = (1.0, np.zeros(len(sample.codes), np.int64))
    product, total = np.ones(label.shape), np.zeros(label.shape)
    for j in range(h // b):
        later = shifted(step, -j * b)
        product *= 1 + later
        total += later
    for made in (product - 1, total):
        both, equal = exactly(label, made.astype(np.float32))
        missed = (both & ~equal).sum(0)
        if both.sum():
            best = min(best, (float(missed.sum() / both.sum()), missed), key=lambda each: each[0])
    share, missed = best
    if not ODD < share < 0.5 or missed.sum() < LEAST_ODD:
        return share, []
    worst = np.argsort(-missed, kind="stable")
    return share, [f"{sample.names[s]} ({missed[s]:,} labels)" for s in worst.tolist() if missed[s]]


def _within_extremes(label: Float32) -> Float32:
    known = label[np.isfinite(label)]
    if not len(known):
        return label
    return np.where((label < known.max()) & (label > known.min()), label, np.nan).astype(np.float32)
