"""A label over more days than stated, or fewer.

With closes: Spearman's correlation within the day of the label with returns of H days from the label's start, for H
about h and for those that are common (a week, a month, a quarter). No H may be likelier than h: t test of the daily
difference (`mean_test`) by SIZE, and by at least l / (4h), where l is the largest.

Without closes, or where the label is like no return of them: the label's own rank autocorrelation. Two returns over H
days that begin k days apart share H - k of them, so that a(k) = 1 - k / H, and 0 from H on (Hansen and Hodrick 1980).
The H of the best fit has to be h, within half a day and a tenth of h. A target of another kind, such as a volatility,
does not fit: then nothing is said. Honest autocorrelation of returns, a tenth or so, moves H by as much.

D days, S codes
"""

import numpy as np

from engine.audit.finding import Advice, Finding, failed, passed, skipped, warned
from engine.audit.labels.start import STARTS
from engine.audit.labels.windows import Float, beats, likeness, window_days, window_return
from engine.audit.sample import CacheSample, ranks, shifted

ADVICE = Advice(
    "labels: horizon",
    "Purging, errors and the online regression take labels as known after the stated days; longer ones are not.",
    "State the horizon that the label has (--horizons), or compute the label over the stated days.",
)
COMMON = (1, 2, 3, 5, 10, 20, 21, 22, 42, 60, 63)
LEAST_LIKENESS = 0.5
SIZE = 1e-6
FIT = 0.08  # largest root mean square of a fit that is believed
LAGS = 40


def horizon(sample: CacheSample) -> Finding:
    """Over how many days labels seem to be, and over how many they should."""
    lines, certain, likely = [], [], []
    for h in sample.horizons:
        by_closes = _by_closes(sample, h)
        if by_closes is not None:
            found, like, own = by_closes
            lines.append(f"h={h}: {found} days by closes")
            if found != h:
                certain.append(f"h={h} is over {found} days ({like:.3f}; over {h} {own:.3f})")
            continue
        fit = _by_autocorrelation(sample, h)
        if fit is None:
            continue
        lines.append(f"h={h}: {fit:g} days by its autocorrelation")
        if abs(fit - h) > max(0.5, 0.1 * h):
            likely.append(f"h={h} looks like {fit:g} days")
    if not lines:
        return skipped(ADVICE, "no label that looks like a return, or too few of them")
    if certain or likely:
        return (failed if certain else warned)(ADVICE, "; ".join(lines), certain + likely)
    return passed(ADVICE, "; ".join(lines))


def _by_closes(sample: CacheSample, h: int) -> tuple[int, float, float] | None:
    """Days of the likest return, its correlation, and that of h days. None where the label is like none."""
    days = window_days(sample)
    label = sample.targets[h][days]
    lengths = sorted({h, *range(max(h - 3, 1), h + 4), *COMMON, 2 * h, 7 * h // 5})
    lengths = [each for each in lengths if each <= max(3 * h, 5) and each < sample.days]
    best: tuple[float, dict[int, Float], dict[int, float]] | None = None
    for begin in STARTS:
        like = {n: likeness(label, w) for n in lengths if (w := window_return(sample, days, begin, n)) is not None}
        means = {n: float(np.nanmean(each)) for n, each in like.items() if np.isfinite(each).sum() >= 20}
        if means and (best is None or max(means.values()) > best[0]):
            best = max(means.values()), like, means
        if best is not None and best[0] > 0.999:
            break
    if best is None or best[0] < LEAST_LIKENESS or h not in best[2]:
        return None
    top, like, means = best
    likest = max(means, key=lambda n: means[n])
    if likest != h and not beats(like[likest], like[h], max(h, likest), top / (4 * h), SIZE):
        likest = h
    return likest, means[likest], means[h]


def _by_autocorrelation(sample: CacheSample, h: int) -> float | None:
    """The H whose triangle fits the label's rank autocorrelation best. None where none does."""
    days = window_days(sample)
    order = ranks(sample.targets[h])
    lags = np.arange(1, min(max(2 * h, 4), LAGS, sample.days - 1) + 1)
    if not len(lags) or lags[-1] < h:
        return None
    found = np.full(len(lags), np.nan)
    for i, k in enumerate(lags.tolist()):
        later = shifted(order, -k)[days]
        both = np.isfinite(later) & np.isfinite(order[days])
        if both.sum() >= 1000:
            spearman = float((order[days] * later)[both].mean(dtype=np.float64))
            found[i] = 2 * np.sin(np.pi / 6 * spearman)  # Pearson's of normal labels
    if np.isnan(found).any():
        return None
    grid = np.arange(0.5, 2 * lags[-1], 0.25)
    errors = np.sqrt(((np.maximum(1 - lags / grid[:, None], 0) - found) ** 2).mean(1))
    best = int(np.argmin(errors))
    # Every H up to 1 leaves no autocorrelation.
    return max(float(grid[best]), 1.0) if errors[best] < FIT else None
