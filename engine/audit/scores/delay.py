"""RankIC by days of delay: whether what scores know is gone as soon as their label has ended."""

import numpy as np

from engine.audit.finding import Advice, Finding, passed, skipped, warned
from engine.audit.sample import ranks
from engine.audit.scores.scored import RARE, ScoredCache, daily_correlation, mean_and_test, over_horizons

ADVICE = Advice(
    "delay of entry",
    "scores that stay and whose RankIC ends with the label know the label, or an error of the price it starts at",
    "rebuild the scores as of a past date, and look for what they take from the label's days",
)
LEAST_KEPT = 0.3  # rank correlation of scores with those at the label's end
SHARE = 0.5  # of the RankIC that the kept part of the scores should have later


def delay(scored: ScoredCache) -> Finding:
    """Warns where scores stay nearly the same from a label's start to its end, and their RankIC does not.

    Statistic: the RankIC with the 1-day return of each of the label's k days, and of the k days after it. Where the
    share r of a score is still there k days later (its rank correlation with itself), its RankIC should be r times that
    of before, where persistent and passing parts of it earn alike. Null: the later RankIC is at least r / 2 times the
    earlier; the daily difference is tested by `mean_test`, one-sided at 1e-4. Scores of r < 0.3 are new each time and
    can be right.
    """
    return over_horizons(scored, ADVICE, _of_horizon)


def _of_horizon(scored: ScoredCache, h: int) -> Finding:
    if scored.sample.returns is None:
        return skipped(ADVICE, "the cache has neither closes nor 1-day labels")
    s = scored.scores(h)
    k = h + scored.panel.manifest.known_after
    if len(s) <= 2 * k:
        return skipped(ADVICE, f"h={h}: fewer than {2 * k + 1} days")
    own = ranks(s)
    returns = ranks(scored.sample.returns[scored.start : scored.stop + 2 * k])
    returns = np.vstack([returns, np.full((len(s) + 2 * k - len(returns), s.shape[1]), np.nan, np.float32)])
    profile = np.stack([daily_correlation(own, returns[j : j + len(s)]) for j in range(1, 2 * k + 1)])
    kept = mean_and_test(daily_correlation(own[:-k], own[k:]), h)[0]
    before, after = profile[:k].mean(0), profile[k:].mean(0)
    usable = np.isfinite(before) & np.isfinite(after)
    mean, t, p = mean_and_test(before[usable], h)
    if not (np.isfinite(p) and np.isfinite(kept)):
        return skipped(ADVICE, f"h={h}: too few days")
    later = float(after[usable].mean())
    _, difference_t, difference_p = mean_and_test((after - SHARE * kept * before)[usable], h)
    figure = (
        f"h={h}: RankIC with a day's return {mean:.4f} within the label, {later:.4f} in the {k} days after it; "
        f"scores keep {kept:.2f}"
    )
    if t > 0 and p < RARE and difference_t < 0 and difference_p < RARE and kept >= LEAST_KEPT:
        return warned(ADVICE, f"{figure}: at least {SHARE * kept * mean:.4f} is expected")
    return passed(ADVICE, figure)
