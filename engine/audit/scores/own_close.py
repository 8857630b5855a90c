"""Whether scores earn by an error of the close that they are made of and that their label starts at."""

import numpy as np

from engine.audit.finding import Advice, Finding, passed, skipped, warned
from engine.audit.sample import shifted
from engine.audit.scores.scored import RARE, ScoredCache, daily_rank_ic, mean_and_test, over_horizons

ADVICE = Advice(
    "own close",
    "no one trades at the close that a score is computed from; what is gone by the next open cannot be earned",
    "build the labels with --entry open, or give the RankIC of a later entry",
)
LEAST = 0.003  # of RankIC
SHARE = 0.1  # of the RankIC


def own_close(scored: ScoredCache) -> Finding:
    """Warns where a tenth of the RankIC comes through the day's own close and is gone at the next open.

    A close on the bid or the ask, or a bad one, moves the return that ends at it up and the return that begins at it
    down (Roll 1984, "A simple implicit measure of the effective bid-ask spread in an efficient market"). Statistic: the
    daily product of two numbers. The first is the rank correlation of the scores with the return r that ends on their
    day; the second is how much larger the rank correlation of r with the return from this close to the next one is than
    that with the return from the next open to the next close. Their mean is what the linear dependence on r adds to
    RankIC between close and open. Null: it is at most 0; `mean_test`, one-sided at 1e-4, and a floor of a tenth of the
    RankIC and 0.003.
    """
    if scored.sample.source is None or not {"open", "close"} <= set(scored.sample.bars):
        return skipped(ADVICE, "the cache keeps no opens and closes")
    manifest = scored.panel.manifest
    if manifest.known_after or manifest.recipe.get("entry", "close") != "close":
        return passed(ADVICE, "labels begin after the close")
    return over_horizons(scored, ADVICE, _of_horizon)


def _of_horizon(scored: ScoredCache, h: int) -> Finding:
    s = scored.scores(h)
    mean, t, _ = mean_and_test(scored.rank_ic(h), h)
    before, close, following = (scored.of(shifted(scored.bar["close"], lag)) for lag in (1, 0, -1))
    opened = scored.of(shifted(scored.bar["open"], -1))
    here = np.where(np.isfinite(s), close / before - 1, np.nan)
    dependence = daily_rank_ic(s, here)
    whole = daily_rank_ic(here, following / close - 1)
    from_open = daily_rank_ic(here, following / opened - 1)
    gained, gained_t, p = mean_and_test(dependence * (whole - from_open), 1)
    if not (np.isfinite(p) and np.isfinite(t)):
        return skipped(ADVICE, f"h={h}: too few days")
    figure = (
        f"h={h}: {gained:.4f} of the RankIC {mean:.4f} is earned through the own close before the next open "
        f"(rank correlation of the scores with the day's return {np.nanmean(dependence):.3f})"
    )
    if gained_t > 0 and p < RARE and gained > max(LEAST, SHARE * abs(mean)):
        return warned(ADVICE, figure)
    return passed(ADVICE, figure)
