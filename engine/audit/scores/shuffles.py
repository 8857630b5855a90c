"""Whether a RankIC is more than that of shuffled scores."""

import numpy as np

from engine.audit.finding import Advice, Finding, passed, skipped, warned
from engine.audit.scores.scored import ScoredCache, over_horizons
from engine.score.standard_error import mean_test

ADVICE = Advice(
    "shuffled scores",
    "a RankIC that scores reach when they are shuffled within the day says nothing of the model",
    "test on more days or codes, or give no figure",
)
LEAST_Z = 3.0
HIGHEST_T = 2.0  # what is published as significant


def shuffles(scored: ScoredCache) -> Finding:
    """Warns where a RankIC is called significant, and scores shuffled within each day often reach it.

    Statistic: z = sum of the days' rank correlations / sqrt(sum over days of 1 / (n - 1)), n samples of the day. Null:
    the scores of a day in random order, for which the mean of a rank correlation is 0 and its variance exactly
    1 / (n - 1), whatever the returns and their ties (Pitman 1937, "Significance tests which may be applied to samples
    from any populations II"); the sum over days is normal. Days are independent under it and not in the market, so it
    is necessary and not sufficient: a t over days above 2 where |z| < 3 is chance, and is warned of.
    """
    return over_horizons(scored, ADVICE, _of_horizon)


def _of_horizon(scored: ScoredCache, h: int) -> Finding:
    x, y = scored.ranks(h)
    count = np.isfinite(x * y).sum(1)
    days = count > 1
    if not days.any():
        return skipped(ADVICE, f"h={h}: no day has 20 samples and scores that differ")
    daily = scored.rank_ic(h)[days]
    spread = float(np.sqrt((1 / (count[days] - 1)).sum()) / days.sum())
    z, t = float(daily.mean()) / spread, float(mean_test(daily, h).t)
    figure = f"h={h}: RankIC {daily.mean():.4f}, of shuffled scores 0 ± {spread:.4f} (z = {z:.1f}), t over days {t:.1f}"
    if abs(t) > HIGHEST_T and abs(z) < LEAST_Z:
        return warned(ADVICE, f"{figure}; significant needs |z| >= {LEAST_Z:g}")
    return passed(ADVICE, figure)
