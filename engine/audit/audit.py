"""Run the checks of what is asked for, one after the other."""

from collections.abc import Iterator
from pathlib import Path

from engine.audit.checks import COPIES, FEATURES, LABELS, POPULATION, RUN, SCORES
from engine.audit.finding import Finding
from engine.audit.run.trained import trained
from engine.audit.sample import CacheSample, sample_of
from engine.audit.scores.scored import scored_cache
from engine.dates import Asked
from engine.evaluation.sources import Scored, Source, read_source
from loaders.panel import Panel
from loaders.progress import Progress, quiet


def audit_cache(panel: Panel) -> Iterator[Finding]:
    """What the checks of a cache say, each as it ends. Reads rows; the caller compares them with their checksums."""
    sample: CacheSample = sample_of(panel)
    for check in (*FEATURES, *LABELS, *POPULATION, *COPIES):
        yield check(sample)


def audit_scores(panel: Panel, scores: Scored, progress: Progress = quiet) -> Iterator[Finding]:
    """What the checks of scores say of a score file, a table, the test of a run, or folds, each as it ends.

    Raises InputError where they cannot be read, or are not of the panel.
    """
    return _checked(panel, read_source(scores, panel, Asked("test", in_sample=True), None, progress))


def _checked(panel: Panel, source: Source) -> Iterator[Finding]:
    scored = scored_cache(panel, source)
    for check in SCORES:
        yield check(scored)


def audit_run(panel: Panel, run: Path, progress: Progress = quiet) -> Iterator[Finding]:
    """What the checks of runs say of a run folder, or a folder of folds, and those of scores of its test, each as it
    ends.

    Raises InputError where it holds no trained run, and where the panel does not fit it.
    """
    found = trained(panel, run)
    for check in RUN:
        yield check(found)
    yield from audit_scores(panel, run, progress)
