"""Codes that leave the panel, a year, against what markets show."""

import math

import numpy as np

from engine.audit.finding import Advice, Finding, failed, passed, skipped, warned
from engine.audit.sample import CacheSample

ADVICE = Advice(
    "exits",
    "A panel of survivors has no losses of codes that were delisted, so any figure of it is too good.",
    "Add the codes that were delisted, with their rows to the end and their delisting returns.",
)
RATE = 0.02  # exits a year: fewer than of any large market
LOW_RATE = 0.01
LATE_DAYS = 20  # at the end of the calendar: a code without rows there can be late and not gone
FALSE_ALARMS = 1e-3


def exits(sample: CacheSample) -> Finding:
    """Whether fewer codes leave than of any large market.

    The statistic is the number of codes that are in the universe at some time and have no row in the last 20 days.
    Where codes leave at a rate r, it is Poisson's with mean r x years of all these codes together. The null is r >= 2%
    a year: US exchanges lose 7% to 9% of their listings a year, others about 4% to 5% (Doidge, Karolyi and Stulz 2017,
    "The U.S. listing gap", Journal of Financial Economics 123), Tokyo about 2%. At r = 2% one panel in a thousand is
    blamed, at 4% none in a million. Fails where even 1% a year is out of the question (1e-6).
    """
    panel, days = sample.panel, sample.days
    if days <= LATE_DAYS:
        return skipped(ADVICE, f"{days} days are too few to see a code leave")
    years_a_row = float((panel.calendar[-1] - panel.calendar[0]).astype(int)) / 365.25 / (days - 1)
    in_universe = panel.codes_with(panel.samples, 0, days)
    codes = in_universe if len(in_universe) else np.arange(len(panel.manifest.codes))
    first, stop = panel.first[codes], panel.first[codes] + panel.days[codes]
    seen = first < days - LATE_DAYS
    gone = int((seen & (stop <= days - LATE_DAYS)).sum())
    years = float(np.clip(np.minimum(stop, days - LATE_DAYS) - first, 0, None).sum()) * years_a_row
    told = f"{gone:,} of {int(seen.sum()):,} codes left in {years:,.0f} years of codes"
    if math.exp(-RATE * years) > FALSE_ALARMS:
        return skipped(ADVICE, f"{told}: too few years to tell survivors from luck")
    told += f", {gone / years:.2%} a year (limit: {RATE:.0%} less luck)"
    if poisson_at_most(gone, LOW_RATE * years) < 1e-6:
        return failed(ADVICE, told)
    if poisson_at_most(gone, RATE * years) < FALSE_ALARMS:
        return warned(ADVICE, told)
    return passed(ADVICE, told)


def poisson_at_most(count: int, mean: float) -> float:
    """P(N <= count) of Poisson's distribution of a positive mean, by its terms."""
    k = np.arange(count + 1)
    logs = k * math.log(mean) - mean - np.array([math.lgamma(n + 1) for n in k.tolist()])
    return min(float(np.exp(logs).sum()), 1.0)
