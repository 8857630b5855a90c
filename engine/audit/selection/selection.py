"""Run the checks of a choice: of what the ledger says of a cache, of a study, of several runs or score files."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from engine.audit.finding import Advice, Finding, finding_of, skipped, worst
from engine.audit.selection import deflated_rank_ic as rank_ic
from engine.audit.selection import deflated_sharpe as sharpe
from engine.audit.selection import overfitting, reality_check
from engine.audit.selection.best_of_study import best_of_study
from engine.audit.selection.looks import looks, most_looked
from engine.audit.selection.statistics.largest_t import best_test
from engine.audit.selection.trials import MOST_SCORED, trial_runs, trial_sources, tried_of
from engine.audit.selection.variants import Variants, variants_of
from engine.evaluation.sources import Source
from engine.reporting.looks import Look, read_looks
from engine.reporting.sections.study import read_study
from loaders.panel import Panel
from loaders.progress import Progress, quiet

Check = Callable[[Variants], Finding]

OF_ONE: list[tuple[Check, Advice]] = [
    (rank_ic.deflated_rank_ic, rank_ic.ADVICE),
    (sharpe.deflated_sharpe_ratio, sharpe.ADVICE),
]
OF_SEVERAL: list[tuple[Check, Advice]] = [
    *OF_ONE,
    (reality_check.reality_check, reality_check.ADVICE),
    (overfitting.backtest_overfitting, overfitting.ADVICE),
]


def audit_looks(panel: Panel, source: Source | None = None, lost: tuple[Look, str] | None = None) -> Iterator[Finding]:
    """What the ledger beside a cache says, and what that makes of the figures of a run or score file.

    Args:
        source: the run or score file, on the days that are audited; None: none is, and only the ledger is read.
        lost: this look and why the ledger does not have it; it counts all the same.
    """
    ledger, unread = read_looks(panel.folder)
    if lost is not None:
        ledger, unread = [*ledger, lost[0]], "; ".join(filter(None, [lost[1], unread]))
    if source is None:
        yield looks(most_looked(ledger), unread=unread)
        return
    seen = most_looked(ledger, str(source.dates[0]), str(source.dates[-1]))
    if seen is not None and (source.run_id or source.name) not in {each.model for each in ledger}:
        seen = replace(seen, models=seen.models + 1)
    found = list(variants_of(panel, [source], 1 if seen is None else seen.models))
    alone = [best_test(each.rank_ic, each.horizon).p_alone for each in found]
    yield looks(seen, max((p for p in alone if p == p), default=None), unread)
    yield from _each(OF_ONE, found)


def audit_variants(variants: Iterable[Variants]) -> Iterator[Finding]:
    """The checks of several models among which one was chosen, each over all horizons.

    Args:
        variants: of each horizon, see `variants_of`.
    """
    yield from _each(OF_SEVERAL, list(variants))


def audit_sources(panel: Panel, sources: Sequence[Source]) -> Iterator[Finding]:
    """The same of several runs or score files: the best of them, on the days that all score."""
    yield from audit_variants(variants_of(panel, sources))


def audit_study(panel: Panel, folder: Path, progress: Progress = quiet) -> Iterator[Finding]:
    """The checks of a study: from the values of its trials, and from their scores of validation where runs are there.

    Raises InputError for a folder that holds no study, and for a run of a trial that cannot be read, or is of another
    cache.
    """
    study = read_study(folder)
    yield finding_of(best_of_study, study)
    runs = trial_runs(study)
    if 0 < len(runs) <= MOST_SCORED:
        yield from audit_variants(variants_of(panel, trial_sources(panel, runs, progress), tried_of(study)))
        return
    reason = f"no run of a complete trial is in {folder / 'trials'}, and values alone have no days"
    if runs:
        reason = f"{len(runs):,} trials take too long to score, more than {MOST_SCORED}: audit the best of them as runs"
    yield from (skipped(advice, reason) for _, advice in OF_SEVERAL)


def _each(checks: list[tuple[Check, Advice]], variants: list[Variants]) -> Iterator[Finding]:
    """What each check says of the horizon of which it says the worst."""
    for check, advice in checks:
        found = [_named(finding_of(check, each), each.horizon, len(variants)) for each in variants]
        yield worst(found, advice, "no day has enough samples and scores that differ")


def _named(finding: Finding, horizon: int, horizons: int) -> Finding:
    return finding if horizons == 1 else replace(finding, figure=f"h={horizon}: {finding.figure}")
