"""Whether scores that count as a test are of days that the model was trained, chosen or tuned on."""

import numpy as np

from engine.audit.finding import Advice, Finding, failed, passed, warned
from engine.audit.scores.scored import ScoredCache, mean_and_test

ADVICE = Advice(
    "in sample",
    "a model repeats what it has seen, and its figures on those days say nothing of others",
    "score days after the last validation day",
)
LEAST_PART = 0.1  # of the days on each side of a break, 60 at least
SHARE = 0.5  # of the RankIC that goes at a break
BREAKS = 20  # days of a break that are tried
LIMIT = 1.2 * 4.42  # of p = 2e-4 / BREAKS, and a fifth more for errors of few degrees of freedom


def in_sample(scored: ScoredCache) -> Finding:
    """Fails where scores reach back into days that their own record says the model has seen.

    Statistic: the days at or before `trained_until`, and `tuned_until`, of the run or the score file (engine/dates.py);
    exact. A file that does not say what it was trained on is searched for a break: the day, of 20 evenly spaced, after
    which the RankIC falls most (Andrews 1993, "Tests for parameter instability and structural change with unknown
    change point"). Null: the same mean on both sides; Welch's t of `mean_test`'s standard errors at 2e-4 / 20, and a
    fall of more than half. A fall can be a market that has changed: it is a warning.
    """
    source, dates = scored.source, scored.source.dates
    if source.trained_until is not None:
        seen = int((dates <= np.datetime64(source.trained_until)).sum())
        what = f"{seen:,} of {len(dates):,} days are at or before {source.trained_until}, the last validation day"
        if seen:
            return failed(ADVICE, what, [str(dates[0])])
    if not scored.horizons:
        return passed(ADVICE, f"scores from {dates[0]} on")
    h = scored.horizons[0]
    daily = scored.rank_ic(h)
    known = np.flatnonzero(np.isfinite(daily))
    least = max(int(LEAST_PART * len(known)), 60)
    said = "not said" if source.trained_until is None else source.trained_until
    clean = f"trained until: {said}; scores from {dates[0]} on"
    if len(known) < 2 * least:
        return passed(ADVICE, f"{clean}; too few days for a break")
    largest = 0.0
    where, figures = known[0], (0.0, 0.0)
    for place in np.linspace(least, len(known) - least, BREAKS).astype(int):
        (before, t, _), (after, u, _) = (mean_and_test(daily[part], h) for part in (known[:place], known[place:]))
        with np.errstate(divide="ignore", invalid="ignore"):
            z = (before - after) / np.hypot(before / t, after / u)
        if np.isfinite(z) and z > largest and after < (1 - SHARE) * before:
            largest, where, figures = float(z), known[place], (before, after)
    figure = f"{clean}; RankIC {figures[0]:.4f} before {scored.dates(np.array([where]))[0]}, {figures[1]:.4f} from then"
    if largest > LIMIT and source.trained_until is None:
        return warned(ADVICE, f"{figure} on (t = {largest:.1f})", scored.dates(np.array([where])))
    return passed(ADVICE, f"{clean}; no break")
