"""What codes do after they enter or leave the panel and its universe."""

import math

import numpy as np

from engine.audit.finding import Advice, Finding, failed, passed, skipped, warned
from engine.audit.sample import Bool, CacheSample, Float32
from engine.score.standard_error import MeanTest, mean_test, two_sided_p

ADVICE = Advice(
    "moves after entries and exits",
    "Codes that enter before they rise, or leave before they fall, were chosen by what came later.",
    "Decide at each close who enters and who leaves; give codes no history from before they were followed.",
)
FALSE_ALARMS = 1e-4  # two-sided, of each of five statistics that look to one side
AFTER = (10, 20)  # days after a change of the universe
A_DAY = 0.002  # mean move over the others on these days: what no honest rule is known to reach
FIRST = 20  # days of the panel: codes of these have been there before
EARLY = 120  # first days of a code
RISE = 0.20  # of a code over the others in its first days
LARGEST = 10  # days after an event that codes are named by
MIN_EVENTS, MIN_DAYS, MIN_CODES = 20, 60, 10


def moves(sample: CacheSample) -> Finding:
    """Whether codes move with what is done to them, after it is done.

    All returns are less their day's mean. After an exit from the universe (a row outside it after one inside), and
    after an entry, the codes of the last 10 or 20 days form a portfolio of each day (a calendar-time portfolio: Fama
    1998, "Market efficiency, long-term returns, and behavioral finance"), each event with the same weight. The mean of
    its days is tested with `mean_test`. It alarms where p < 1e-4 and the mean is below -0.2% a day after exits, or
    above +0.2% after entries.

    Codes that the panel has from a later day than its first 20 on should not rise in their first 120 days: the sum of
    these log returns, one a code, against its standard error over codes follows Student's t. It alarms where p < 1e-4
    and the mean is above +20%: backfill bias, the history that a source adds when it begins to follow a code that rose.
    """
    returns = sample.returns
    if returns is None:
        return skipped(ADVICE, "no closes and no 1-day label")
    apart = _apart(returns)
    told, odd, certain, concerned = [], False, False, []
    for name, sign, events in (("exits", -1, _changes(sample, False)), ("entries", 1, _changes(sample, True))):
        tests = [] if events.sum() < MIN_EVENTS else [_after(apart, events, days) for days in AFTER]
        known = [(test.p, size, days) for days, (test, size) in zip(AFTER, tests, strict=False) if np.isfinite(test.p)]
        if not known:
            continue
        p, size, days = min(known)
        told.append(
            f"{size:+.2%} a day in {days} days after {int(events.sum()):,} {name} "
            f"(p {p:.0e}, limits {FALSE_ALARMS:.0e} and {sign * A_DAY:+.2%})"
        )
        if any(p < FALSE_ALARMS and sign * size > A_DAY for p, size, _ in known):
            odd = True
            certain |= sign * size > 3 * A_DAY
            concerned += _worst(sample, apart, events, sign)
    rises = _first_days(sample, apart)
    if len(rises) >= MIN_CODES:
        mean, error = float(rises.mean()), float(rises.std(ddof=1)) / math.sqrt(len(rises))
        told.append(f"{mean:+.0%} in the first {EARLY} days of {len(rises):,} codes (limit {RISE:+.0%})")
        odd |= mean > RISE and error > 0 and two_sided_p(mean / error, len(rises) - 1) < FALSE_ALARMS
    if not told:
        return skipped(ADVICE, "too few codes enter, leave, or come later")
    figure = "; ".join(told)
    if odd:
        return failed(ADVICE, figure, concerned) if certain else warned(ADVICE, figure, concerned)
    return passed(ADVICE, figure)


def _apart(returns: Float32) -> Float32:
    """[T, S] log returns less their day's mean, clipped at a third and at three times; NaN where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log1p(np.clip(returns, -2 / 3, 2))
    here = np.isfinite(logs)
    mean = np.where(here, logs, 0).sum(1) / np.maximum(here.sum(1), 1)
    return np.asarray(logs - mean[:, None], np.float32)


def _changes(sample: CacheSample, enters: bool) -> Bool:
    """[T, S] rows outside the universe after one inside, or the other way round; both rows are there."""
    scored, present = sample.scored, sample.present
    found = np.zeros_like(scored)
    found[1:] = present[1:] & present[:-1] & (scored[1:] == enters) & (scored[:-1] != enters)
    return found


def _after(apart: Float32, events: Bool, days: int) -> tuple[MeanTest, float]:
    """The mean daily move of codes with an event in the days before, and its test over days that have any."""
    recent = np.cumsum(np.vstack([np.zeros((1, events.shape[1]), np.int32), events]), 0, dtype=np.int32)
    day = np.arange(len(events))
    held = (recent[day] > recent[np.maximum(day - days, 0)]) & np.isfinite(apart)
    count = held.sum(1)
    some = count > 0
    if some.sum() < MIN_DAYS:
        return MeanTest(np.nan, np.nan, np.nan), 0.0
    series = np.where(held, apart, 0).sum(1, dtype=np.float64)[some] / count[some].mean()
    return mean_test(series, 1), float(series.mean())


def _worst(sample: CacheSample, apart: Float32, events: Bool, sign: int) -> list[str]:
    """Codes with the largest mean move after an event, the largest first."""
    day, code = np.nonzero(events)
    sums = np.vstack([np.zeros((1, apart.shape[1])), np.nancumsum(apart, 0, dtype=np.float64)])
    after = sums[np.minimum(day + 1 + LARGEST, len(apart)), code] - sums[day + 1, code]
    order = np.argsort(-sign * after)[:50]
    return list(dict.fromkeys(sample.names[s] for s in code[order]))


def _first_days(sample: CacheSample, apart: Float32) -> np.ndarray:
    """Sums of the first EARLY moves of codes that come after the first FIRST days and have as many."""
    first = sample.panel.first[sample.codes]
    whole = (first > FIRST) & (first + EARLY < sample.days)
    sums = [np.nansum(apart[first[s] + 1 : first[s] + 1 + EARLY, s], dtype=np.float64) for s in np.flatnonzero(whole)]
    return np.array(sums)
