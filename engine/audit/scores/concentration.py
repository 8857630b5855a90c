"""Whether figures of scores come from few days, from one code, or from the codes that hardly trade."""

import numpy as np

from engine.audit.finding import Advice, Finding, passed, skipped, warned
from engine.audit.sample import Float32, shifted
from engine.audit.scores.scored import (
    RARE,
    Float64,
    ScoredCache,
    daily_rank_ic,
    mean_and_test,
    over_horizons,
)
from engine.score.cross_section import MIN_SAMPLES

ADVICE = Advice(
    "concentration",
    "a figure that a day, a code or the codes that hardly trade have made will not come again",
    "look at these rows for bad prices, and give the figures without them too",
)
HALF = 0.5  # of a figure
TRIMMED = 0.02  # of the days, at each end
LEAST_T = 2.0  # below it nothing is claimed
RECENT = 20  # days whose dollar volume is a code's liquidity


def concentration(scored: ScoredCache) -> Finding:
    """Warns where more than half of a figure rests on one day, one code, few days, or the least liquid fifth.

    Statistics, each of a figure whose t over days is above 2: the share of the summed return of the top tenth of the
    scores over the bottom tenth that the best day has, and the best code; the share of the mean RankIC that goes when
    2% of the days are trimmed at either end (Tukey's trimmed mean, which for symmetric daily values has the same
    expectation as the mean, and differs by 0.14 standard errors, so by 7% of a figure of t = 2); and the RankIC within
    the four fifths of the codes that have the larger dollar volume of 20 days, compared with half of that of all by
    `mean_test` at 1e-4. Null: none of them is above a half. A normal return of t = 2 has 12% on its best of 750 days.
    """
    return over_horizons(scored, ADVICE, _of_horizon)


def _of_horizon(scored: ScoredCache, h: int) -> Finding:
    s, y = scored.scores(h), scored.labels(h)
    daily = daily_rank_ic(s, y)
    mean, t, _ = mean_and_test(daily, h)
    if not np.isfinite(t):
        return skipped(ADVICE, f"h={h}: too few days")
    earned = _earned(s, y)
    of_day, of_code = np.nansum(earned, 1), np.nansum(earned, 0)
    traded = np.isfinite(earned).any(1)
    spread, spread_t, _ = mean_and_test(of_day[traded], h)
    total = float(of_day.sum())
    faults, concerned, shares = [], [], []
    if spread_t > LEAST_T:
        best, first = int(of_day.argmax()), int(of_code.argmax())
        shares = [f"best day {of_day[best] / total:.0%}", f"best code {of_code[first] / total:.0%} of the decile return"]
        if of_day[best] > HALF * total:
            faults.append(f"{of_day[best] / total:.0%} of the decile return is of one day")
            concerned += scored.dates(np.array([best]))
        if of_code[first] > HALF * total:
            faults.append(f"{of_code[first] / total:.0%} of the decile return is of one code")
            concerned.append(scored.sample.names[first])
    if t > LEAST_T:
        known = np.flatnonzero(np.isfinite(daily))
        order = known[np.argsort(daily[known])]
        cut = int(np.ceil(TRIMMED * len(known)))
        trimmed = float(daily[order[cut:-cut]].mean()) if len(known) > 2 * cut else np.nan
        shares.append(f"RankIC {mean:.4f}, trimmed {trimmed:.4f}")
        if mean - trimmed > HALF * mean:
            faults.append(f"RankIC {mean:.4f} is {trimmed:.4f} without the {cut} best and worst days")
            concerned += scored.dates(order[::-1][:cut])
        liquid = _liquid(scored)
        if liquid is not None:
            of_liquid = daily_rank_ic(np.where(liquid, s, np.nan), y)
            here, less = mean_and_test(of_liquid, h)[0], of_liquid - HALF * daily
            shares.append(f"{here:.4f} without the least liquid fifth")
            _, less_t, less_p = mean_and_test(less, h)
            if less_t < 0 and less_p < RARE:
                faults.append(f"RankIC {mean:.4f} is {here:.4f} without the least liquid fifth")
    figure = f"h={h}: " + ("; ".join(faults or shares) or f"nothing is claimed, t = {t:.1f}")
    return warned(ADVICE, figure, concerned) if faults else passed(ADVICE, figure)


def _earned(s: Float32, y: Float32) -> Float64:
    """What each cell adds to its day's return of the top tenth over the bottom tenth [T, S], NaN elsewhere."""
    here = np.isfinite(s) & np.isfinite(y)
    count = here.sum(1)
    order = np.argsort(np.argsort(np.where(here, s, np.inf), 1, kind="stable"), 1)
    tenth = np.maximum(count // 10, 1)[:, None]
    side = (order >= count[:, None] - tenth).astype(np.float64) - (order < tenth)
    found = np.where(here & (side != 0) & (count >= MIN_SAMPLES)[:, None], side / tenth * y, np.nan)
    return np.asarray(found, np.float64)


def _liquid(scored: ScoredCache) -> np.ndarray | None:
    """Whether each cell [T, S] is not of its day's least liquid fifth, by what was known then; None without volumes."""
    if not {"close", "volume"} <= set(scored.sample.bars):
        return None
    dollars = np.nan_to_num(scored.sample.bars["close"] * scored.sample.bars["volume"]).astype(np.float64)
    total = np.cumsum(dollars, 0)
    recent = scored.of(total - np.nan_to_num(shifted(total, RECENT)))
    recent = np.where(np.isfinite(scored.scores(scored.horizons[0])), recent, np.nan)
    some = np.isfinite(recent).any(1)
    limit = np.full(len(recent), np.inf)
    limit[some] = np.nanquantile(recent[some], 0.2, axis=1)
    return np.asarray(recent > limit[:, None])
