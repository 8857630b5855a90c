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
RANK_IC_DAYS, RETURN_DAYS = 5.0, 20.0  # robust deviations
RETURN = "decile return"
LEAST_T = 2.0  # below it nothing is claimed
RECENT = 20  # days whose dollar volume is a code's liquidity


def concentration(scored: ScoredCache) -> Finding:
    """Warns where more than half of a figure rests on few days, one code, or the least liquid fifth.

    Figures: RankIC, and the return of the top tenth of the scores over the bottom tenth, summed over days. Statistics:
    the share of either that comes from days of more than 5 (RankIC), or 20 (return), robust deviations 1.4826 median
    |x - median| above the median (Hampel 1974, "The influence curve and its role in robust estimation"); where its t
    over days is above 2, the share of the return that the best day has, and the best code; where that of RankIC is, the
    RankIC within the four fifths of the codes that have the larger dollar volume of 20 days, compared with half of that
    of all by `mean_test`, one-sided at 1e-4. Null: none of the shares is above a half. Normal days reach 5 deviations
    once in 10^6, and a normal return of t = 2 has 12% on the best of 750 days.
    """
    return over_horizons(scored, ADVICE, _of_horizon)


def _of_horizon(scored: ScoredCache, h: int) -> Finding:
    s, y = scored.scores(h), scored.labels(h)
    daily = scored.rank_ic(h)
    mean, t, _ = mean_and_test(daily, h)
    if not np.isfinite(mean):
        return skipped(ADVICE, f"h={h}: no day has 20 samples and scores that differ")
    earned = _earned(s, y)
    of_code = np.nansum(earned, 0)
    of_day = np.where(np.isfinite(earned).any(1), np.nansum(earned, 1), np.nan)
    total = float(np.nansum(of_day))
    best, first = int(np.nanargmax(of_day)), int(of_code.argmax())
    faults, concerned, shares = [], [], [f"h={h}: RankIC {mean:.4f}"]
    for name, values, deviations in (("RankIC", daily, RANK_IC_DAYS), (RETURN, of_day, RETURN_DAYS)):
        odd = np.flatnonzero(values > np.nanmedian(values) + deviations * _robust_deviation(values))
        share = values[odd].sum() / max(np.nansum(values), 1e-12)
        if share > HALF:
            faults.append(f"{share:.0%} of the {name} is of {len(odd)} days")
            concerned += scored.dates(odd[np.argsort(-values[odd])])
    if mean_and_test(of_day, h)[1] > LEAST_T:
        shares.append(
            f"of the {RETURN} {of_day[best] / total:.0%} on one day, {of_code[first] / total:.0%} by one code"
        )
        if of_day[best] > HALF * total and not concerned:
            faults.append(f"{of_day[best] / total:.0%} of the {RETURN} is of one day")
            concerned += scored.dates(np.array([best]))
        if of_code[first] > HALF * total:
            faults.append(f"{of_code[first] / total:.0%} of the {RETURN} is of one code")
            concerned.append(scored.sample.names[first])
    liquid = _liquid(scored) if t > LEAST_T else None
    if liquid is not None:
        of_liquid = daily_rank_ic(np.where(liquid, s, np.nan), y)
        here = mean_and_test(of_liquid, h)[0]
        _, less_t, less_p = mean_and_test(of_liquid - HALF * daily, h)
        shares.append(f"{here:.4f} without the least liquid fifth")
        if less_t < 0 and less_p < RARE:
            faults.append(f"RankIC {mean:.4f} is {here:.4f} without the least liquid fifth")
    return warned(ADVICE, f"h={h}: " + "; ".join(faults), concerned) if faults else passed(ADVICE, "; ".join(shares))


def _robust_deviation(values: Float64) -> float:
    return float(1.4826 * np.nanmedian(np.abs(values - np.nanmedian(values))))


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
