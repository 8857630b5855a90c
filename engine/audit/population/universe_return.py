"""The equal-weighted return of the universe, alone and against the rows outside."""

import numpy as np

from engine.audit.finding import Advice, Finding, failed, passed, skipped, warned
from engine.audit.sample import CacheSample
from engine.score.standard_error import degrees_of_freedom, half_width, mean_test

ADVICE = Advice(
    "universe return",
    "A universe that beats what was left out by this much was chosen by what came later.",
    "Choose each day's universe by what was known at its close, and keep codes that fell.",
)
FALSE_ALARMS = 1e-4
LEAD = 0.20  # a year, of the universe over the rest: more than any premium of size, price or momentum
LEVEL = 0.35  # a year, of the universe alone
MOST = 0.5  # of one code's label: bad ticks are another check's
MIN_CODES, MIN_DAYS = 10, 120  # on either side of a day; days


def universe_return(sample: CacheSample) -> Finding:
    """Whether the codes of the universe do better than those outside, or than any market.

    With the shortest label, clipped at +-50%, two daily series: the mean of the universe, and that less the mean of the
    rows that are outside it. Their means are tested with `mean_test` (Lazarus, Lewis, Stock and Watson 2018), which
    takes correlated days into account. The lead alarms where p < 1e-4, one-sided, and it is over 20% a year; the
    universe alone where the lower limit of its 99.9% interval is over 35% a year. Known premia of size, price and
    momentum are below 20% (Fama and French 1993; Jegadeesh and Titman 1993).
    """
    if not sample.horizons:
        return skipped(ADVICE, "no labels")
    h = sample.horizons[0]
    known = np.isfinite(sample.targets[h])
    returns = np.where(known, np.clip(sample.targets[h], -MOST, MOST), 0).astype(np.float64)
    a_year = (sample.panel.manifest.periods_per_year or 252.0) / h
    inside, outside = known & sample.scored, known & sample.present & ~sample.scored
    here, there = inside.sum(1), outside.sum(1)
    mean = (returns * inside).sum(1) / np.maximum(here, 1)
    universe = mean[here >= MIN_CODES]
    if len(universe) < MIN_DAYS or not degrees_of_freedom(len(universe), h):
        return skipped(ADVICE, f"{len(universe)} days with {MIN_CODES} labels in the universe, {MIN_DAYS} are needed")
    level = float(universe.mean()) * a_year
    width = half_width(float(mean_test(universe, h).se), len(universe), h, 0.999) * a_year
    told = f"the universe makes {level:+.0%} a year (limit {LEVEL:.0%})"
    odd = level - width > LEVEL

    lead = (mean - (returns * outside).sum(1) / np.maximum(there, 1))[(here >= MIN_CODES) & (there >= MIN_CODES)]
    if len(lead) >= MIN_DAYS and degrees_of_freedom(len(lead), h):
        test, excess = mean_test(lead, h), float(lead.mean()) * a_year
        told += f", {excess:+.0%} more than the rows outside (t {test.t:.1f}, limit {LEAD:.0%})"
        if excess > LEAD and test.p / 2 < FALSE_ALARMS:
            certain = excess > 3 * LEAD and test.p / 2 < FALSE_ALARMS**2
            return failed(ADVICE, told) if certain else warned(ADVICE, told)
    return warned(ADVICE, told) if odd else passed(ADVICE, told)
