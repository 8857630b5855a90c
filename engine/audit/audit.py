"""Run the checks of what is asked for, one after the other.

a cache                   features, labels, population, copies; built again as of earlier days; the ledger of looks
with a run or folds       splits, tuning, its own code path; its scores; luck, by the looks at its test
with a score file         its scores; luck
with a study              luck, by its trials
"""

from collections.abc import Iterator
from pathlib import Path

from engine.audit.checks import COPIES, FEATURES, LABELS, POPULATION, RUN, SCORES
from engine.audit.finding import Finding, finding_of, skipped
from engine.audit.run.trained import trained
from engine.audit.sample import sample_of
from engine.audit.scores.scored import scored_cache
from engine.audit.selection.selection import audit_looks, audit_study
from engine.audit.truncation.compare import REBUILT
from engine.audit.truncation.vintage import compare_vintages
from engine.dates import Asked
from engine.evaluation.evaluate import look_of_sources
from engine.evaluation.opened import Opened
from engine.evaluation.sources import Scored, Source, read_source
from engine.reporting.looks import record
from engine.reporting.sections.study import holds_study
from loaders.errors import InputError
from loaders.panel import Panel, open_panel
from loaders.progress import Progress, quiet
from loaders.verify import Verification, verified, verifying


def audit_cache(panel: Panel) -> Iterator[Finding]:
    """What the checks of a cache say, each as it ends. Reads rows; the caller compares them with their checksums."""
    sample = sample_of(panel)
    for check in (*FEATURES, *LABELS, *POPULATION, *COPIES):
        yield finding_of(check, sample)


def audit(
    cache: str | Path,
    subject: Path | None = None,
    vintage: Path | None = None,
    truncation: bool = False,
    rebuild: str | None = None,
    progress: Progress = quiet,
) -> list[Finding]:
    """All checks of a cache, and of what is named beside it.

    Args:
        subject: a run, folds, a score file or a study.
        vintage: the cache as it was on an earlier day.
        truncation: whether the cache is built again as of earlier days, which takes as long as some builds.
        rebuild: the user's command for that, see `rebuilt`.
        progress: in checks.

    Raises InputError for what cannot be read, for scores of another cache, and for a command that fails.
    """
    panel = open_panel(cache)
    findings: list[Finding] = []
    with verifying(panel) as verification:
        for finding in _all(panel, subject, vintage, truncation, rebuild, verification):
            findings.append(finding)
            progress(len(findings), len(findings) + 1, finding.advice.check)
        verification.wait()
        panel.check_unchanged()
    return findings


def _all(
    panel: Panel, subject: Path | None, vintage: Path | None, truncation: bool, rebuild: str | None,
    verification: Verification,
) -> Iterator[Finding]:  # fmt: skip
    if subject is not None and not subject.exists():
        raise InputError(str(subject), "no such file or folder", "Name a run, folds, a score file or a study")
    yield from audit_cache(panel)
    yield _rebuilt(panel, rebuild) if truncation else skipped(REBUILT, "pass --truncation")
    if vintage is not None:
        yield _compared(panel, open_panel(vintage))
    if subject is None:
        yield from audit_looks(panel)
    elif holds_study(subject):
        yield from audit_study(panel, subject)
    else:
        if subject.is_dir():
            yield from audit_run(panel, subject)
        source = _test_of(panel, subject)
        opened = Opened(panel, [source], None)
        figures = opened.figures()
        verification.wait()  # no look is written down of rows that are damaged
        look = look_of_sources(opened, "audit", figures)  # its findings tell of the test's figures
        count = None if look is None else record(panel.folder, look)
        yield from audit_source(panel, source)
        lost = None if look is None or count is None or count.unwritten is None else (look, count.unwritten)
        yield from audit_looks(panel, source, lost)


def _compared(panel: Panel, vintage: Panel) -> Finding:
    with verified(vintage):
        return finding_of(lambda other: compare_vintages(panel, other), vintage)


def _rebuilt(panel: Panel, command: str | None) -> Finding:
    from engine.audit.truncation.rebuild import rebuilt

    return finding_of(lambda asked: rebuilt(panel, asked), command)


def audit_run(panel: Panel, run: Path) -> Iterator[Finding]:
    """What the checks of runs say of a run folder, or a folder of folds, each as it ends.

    Raises InputError where it holds no trained run, and where the panel does not fit it.
    """
    found = trained(panel, run)
    for check in RUN:
        yield finding_of(check, found)


def audit_source(panel: Panel, source: Source) -> Iterator[Finding]:
    """What the checks of scores say, each as it ends."""
    scored = scored_cache(panel, source)
    for check in SCORES:
        yield finding_of(check, scored)


def audit_scores(panel: Panel, scores: Scored, progress: Progress = quiet) -> Iterator[Finding]:
    """The same of a score file, a table, the test of a run, or folds.

    Raises InputError where they cannot be read, or are not of the panel.
    """
    yield from audit_source(panel, _test_of(panel, scores, progress))


def _test_of(panel: Panel, scores: Scored, progress: Progress = quiet) -> Source:
    return read_source(scores, panel, Asked("test", in_sample=True), None, progress)
