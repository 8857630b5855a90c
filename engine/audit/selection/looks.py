"""How many models were looked at on the same days.

statistic   N different models in the ledger of looks, on the day that most of them were looked at
null        none of them has skill, and they are independent: the smallest of N p-values is below p with
            probability 1 - (1 - p)^N (Sidak 1967)
limit       of an audited run, that probability for its own t, below 0.01; of a cache alone, fewer models than make
            a t test at 5% find one more often than not (14)
"""

import math
from dataclasses import dataclass

from engine.audit.finding import Advice, Finding, passed, skipped, warned
from engine.audit.selection.limits import LEVEL, by_luck, shown
from engine.audit.selection.statistics.largest_t import p_of_many, t_needed
from engine.reporting.looks import Look
from engine.score.standard_error import degrees_of_freedom

ADVICE = Advice(
    "looks at a test",
    "The best of many models on one test looks better than it is, and the ledger knows how many there were.",
    "Publish the number of looks with the figure, and test the chosen model once on days that none has seen.",
)
USUAL = 0.05  # level of the t test that most publish
MANY = math.ceil(math.log(0.5) / math.log(1 - USUAL))  # 14: half of the time the best of so many passes it


@dataclass(frozen=True)
class Looked:
    """How often the same days were looked at."""

    looks: int
    models: int  # different ones
    first: str  # ISO, of the days that most models share
    last: str
    days: int  # of the longest look at them
    horizon: int  # the shortest of the looks


def looks(looked: Looked | None, p: float | None = None, unread: str | None = None) -> Finding:
    """Whether so many models were looked at that the best could be luck, or nobody can tell how many there were.

    Args:
        looked: None where there is no ledger, or no look at these days.
        p: one-sided, of the t of the model that is audited; None: no model is.
        unread: what of the ledger is not counted.
    """
    found = _counted(looked, p)
    if unread is None or found.verdict in ("warned", "failed"):
        return found
    return warned(ADVICE, f"{found.figure}; {unread}", found.concerned)


def _counted(looked: Looked | None, p: float | None) -> Finding:
    if looked is None:
        return skipped(ADVICE, "no look at these days is in the ledger beside the cache")
    degrees = degrees_of_freedom(looked.days, looked.horizon)
    needs = f", the best at {LEVEL:.0%} needs t > {t_needed(LEVEL, looked.models, degrees):.1f}" if degrees else ""
    models = "one model" if looked.models == 1 else f"{looked.models:,} models"
    times = f"{looked.looks:,} look{'s' * (looked.looks != 1)}"
    figure = f"{times} at {models} on {looked.first}..{looked.last}{needs}"
    concerned = [f"{looked.first}..{looked.last}"]
    if p is not None and math.isfinite(p):
        among = p_of_many(p, looked.models)
        return by_luck(
            ADVICE, among, f"{figure}; this one has {shown(p)} alone and {shown(among)} among so many", concerned
        )
    if looked.models >= MANY:
        return warned(
            ADVICE, f"{figure}; from {MANY} on luck passes a test at {USUAL:.0%} more often than not", concerned
        )
    return passed(ADVICE, figure)


def most_looked(looks: list[Look], first: str | None = None, last: str | None = None) -> Looked | None:
    """The looks at the day that most models were looked at, within the span where one is given."""
    inside = [each for each in looks if (last is None or each.first <= last) and (first is None or first <= each.last)]
    days = {max(each.first, first or "") for each in inside}
    at = [[look for look in inside if look.first <= day <= look.last] for day in days]
    if not at:
        return None
    here = max(at, key=lambda some: (len({look.model for look in some}), len(some), some[0].first))
    horizons = [int(h) for look in here for h in look.rank_ic if h.isdecimal()]
    return Looked(
        len(here), len({look.model for look in here}), max(look.first for look in here),
        min(look.last for look in here), max(look.days for look in here), max(min(horizons, default=1), 1),
    )  # fmt: skip
