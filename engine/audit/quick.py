"""The checks that a training runs: on ten million rows they take under a second together."""

from collections.abc import Callable

from engine.audit.finding import Finding, finding_of
from engine.audit.labels.clipping import clipping
from engine.audit.population.exits import exits
from engine.audit.sample import CacheSample, sample_of
from loaders.panel import Panel

QUICK: list[Callable[[CacheSample], Finding]] = [exits, clipping]


def quick_findings(panel: Panel) -> list[Finding]:
    """What the quickest checks have against a cache."""
    sample = sample_of(panel)
    return [each for check in QUICK if (each := finding_of(check, sample)).verdict in ("warned", "failed")]
