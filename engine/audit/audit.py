"""Run the checks of what is asked for, one after the other."""

from collections.abc import Iterator

from engine.audit.checks import COPIES, FEATURES, LABELS, POPULATION
from engine.audit.finding import Finding
from engine.audit.sample import CacheSample, sample_of
from loaders.panel import Panel


def audit_cache(panel: Panel) -> Iterator[Finding]:
    """What the checks of a cache say, each as it ends. Reads rows; the caller compares them with their checksums."""
    sample: CacheSample = sample_of(panel)
    for check in (*FEATURES, *LABELS, *POPULATION, *COPIES):
        yield check(sample)
