"""Days that repeat the day before."""

import numpy as np

from engine.audit.finding import Advice, Finding, failed, passed, skipped, warned
from engine.audit.sample import Bool, CacheSample

ADVICE = Advice(
    "repeated days",
    "A day that repeats the one before has returns of 0, and the next day has the return of two.",
    "Leave the date out, or read its bars again from the source.",
)
MIN_CODES = 20  # with a bar on both days
SHARE = 0.05  # of the codes of a day that repeat price and volume
UNCHANGED = 0.5  # of the codes of a day that repeat the price
TIMES = 5  # the usual share
MANY = 0.01  # of all days: then it fails


def repeated_days(sample: CacheSample) -> Finding:
    """Whether many codes have the bar of the day before.

    Two shares of each day's codes: those whose close and volume (not 0) are both as the day before, and those whose
    close is. A single code repeats both by chance with a probability of about the cent over its daily move, times that
    of its volume. Were codes independent with the usual share q of all days (the median), 20 codes and more would pass
    5% and 5q on one of 10,000 days with a chance below 1e-4 (binomial) wherever q < 0.2%; for closes alone the limit
    is half of the codes and 5 times the usual share. Days above a limit are named. Without bars, labels of exactly 0
    are counted instead.
    """
    returns = sample.returns
    if returns is None:
        return skipped(ADVICE, "no closes and no 1-day label")
    here = np.isfinite(returns)
    enough = here.sum(1) >= MIN_CODES
    if not enough.any():
        return skipped(ADVICE, f"no day with {MIN_CODES} codes")
    same = here & (returns == 0)
    share, usual = _shares(same, here, enough)
    odd = enough & (share > max(UNCHANGED, min(TIMES * usual, 0.9)))
    told = f"unchanged closes: at most {share[enough].max():.1%} of a day's codes (usually {usual:.2%})"
    volume = sample.bars.get("volume")
    if volume is not None and sample.close_returns is not None:
        copied = np.zeros_like(same)
        copied[1:] = same[1:] & (volume[1:] == volume[:-1]) & (volume[1:] > 0)
        share, usual = _shares(copied, here, enough)
        odd |= enough & (share > max(SHARE, TIMES * usual)) & (copied.sum(1) >= 3)
        told += f"; unchanged closes and volumes: at most {share[enough].max():.1%} (limit {SHARE:.0%})"
    days = np.flatnonzero(odd)
    if not len(days):
        return passed(ADVICE, told)
    dates = [str(sample.panel.calendar[t]) for t in days[np.argsort(-share[days], kind="stable")]]
    told = f"{len(days):,} days repeat the one before. {told[0].upper()}{told[1:]}"
    return failed(ADVICE, told, dates) if len(days) > MANY * sample.days else warned(ADVICE, told, dates)


def _shares(which: Bool, here: Bool, enough: Bool) -> tuple[np.ndarray, float]:
    """[T] the share of each day's codes, and its median over the days with enough codes."""
    share = which.sum(1) / np.maximum(here.sum(1), 1)
    return share, float(np.median(share[enough]))
