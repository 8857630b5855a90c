"""Whether a RankIC is more than that of the same scores given to other codes."""

import numpy as np

from engine.audit.finding import Advice, Finding, passed, skipped, warned
from engine.audit.scores.scored import ScoredCache, mean_and_test, over_horizons
from engine.score.standard_error import two_sided_p

ADVICE = Advice(
    "scores of other codes",
    "scores that hardly change bet on the same codes every day: each code is one observation, and not one a day",
    "quote the t of this table, or test on more codes",
)
SIGNIFICANT = 0.05
LEAST_RATIO = 1.15  # of both standard errors; below it they agree
MOST_CODES = 4000


def codes(scored: ScoredCache) -> Finding:
    """Warns where a RankIC is significant by its days and not by its codes.

    Statistic: RankIC = sum over codes i of g_ii, where g_ij is what the score path of code i earns on the returns of
    code j: the sum over days of the product of normalised ranks, over samples and days. Null: a random permutation p of
    codes, which keeps every score path and every return path whole. Then sum g_i,p(i) has mean sum g_ij / S and
    variance sum d_ij^2 / (S - 1), d the doubly centred g, and is nearly normal (Hoeffding 1951, "A combinatorial
    central limit theorem"). Codes that do not live on the same days share fewer cells than a code has with itself; the
    variance is scaled up by that. Static scores deviate by more than their days say; others do not.
    """
    return over_horizons(scored, ADVICE, _of_horizon)


def _of_horizon(scored: ScoredCache, h: int) -> Finding:
    x, y = scored.ranks(h)
    product = x * y
    count = np.isfinite(product).sum(1)
    days = count > 1
    if days.sum() < 2:
        return skipped(ADVICE, f"h={h}: fewer than 2 days have 20 samples")
    x, y, count = x[days], y[days], count[days]
    used = np.flatnonzero(np.isfinite(x).any(0))
    if len(used) > MOST_CODES:
        used = used[np.linspace(0, len(used) - 1, MOST_CODES).round().astype(np.int64)]
    x, y = x[:, used], y[:, used]
    daily = np.nansum(x * y, 1, dtype=np.float64) / count
    mean, t, p = mean_and_test(daily, h)
    if not np.isfinite(p):
        return skipped(ADVICE, f"h={h}: {int(days.sum())} days are too few for a t")
    spread = _spread(x, y, count)
    by_code = mean / spread if spread > 0 else np.nan
    of_normal = float(two_sided_p(by_code, 10_000))
    figure = f"h={h}: RankIC {mean:.4f}, t by days {t:.1f}, by codes {by_code:.1f}"
    if p < SIGNIFICANT <= of_normal and spread > LEAST_RATIO * mean / t:
        return warned(ADVICE, f"{figure}: significant needs 2")
    return passed(ADVICE, figure)


def _spread(x: np.ndarray, y: np.ndarray, count: np.ndarray) -> float:
    """Deviation of the mean daily rank correlation when score paths are given to other codes."""
    here = np.isfinite(x)
    weight = (1 / (count * len(count)))[:, None]
    scores, returns = np.nan_to_num(x * weight).astype(np.float32), np.nan_to_num(y)
    earned = (scores.T @ returns).astype(np.float64)
    cells = here.astype(np.float32).T @ here.astype(np.float32)
    n = len(earned)
    centred = earned - earned.mean(0) - earned.mean(1, keepdims=True) + earned.mean()
    np.fill_diagonal(centred, 0)  # what the scores themselves earn is no part of the null
    shared = (cells.sum(dtype=np.float64) - np.trace(cells)) / (n * (n - 1)) / (np.trace(cells) / n) if n > 1 else 1.0
    return float(np.sqrt((centred**2).sum() / max(n - 1, 1) / max(shared, 1e-3)))
