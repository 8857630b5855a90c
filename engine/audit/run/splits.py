"""Whether the parts of a run lie apart, as far as labels and contexts reach."""

from itertools import pairwise

from engine.audit.finding import Advice, Finding, failed, passed, warned
from engine.audit.run.trained import Trained
from engine.dates import dates_of
from engine.inputs import make_split
from engine.score.tables import find_summary
from loaders.errors import InputError
from loaders.split import gap_days

ADVICE = Advice(
    "splits",
    "days that two parts share, or a label that reaches from one into the next, put the answers into the training",
    "train the run again with the split of its configuration",
)
PARTS = ("train", "valid", "test")


def splits(trained: Trained) -> Finding:
    """Fails where two parts of a run overlap, or lie nearer than the longest label or the context.

    Statistic: days of the calendar between the parts by the dates that the run's checkpoint has stored, against the
    larger of the context less 1 and the longest label, `gap_days` (purging and embargo: Lopez de Prado 2018, "Advances
    in Financial Machine Learning", chapter 7). Exact. Warns where these dates are not those that the configuration
    means on this cache, or that the summary tells, and where the test parts of folds overlap. Null: none.
    """
    panel = trained.panel
    faults: list[str] = []
    odd: list[str] = []
    for run in trained.runs:
        where = run.folder.name
        gap = gap_days(run.config.data.context, run.state.horizons, panel.manifest.known_after)
        longest = max(run.state.horizons) + panel.manifest.known_after
        for one, other in pairwise(PARTS):
            last, first = run.state.split[one][1], run.state.split[other][0]
            between = trained.days(run, other).start - trained.days(run, one).stop
            if first <= last:
                faults.append(f"{where}: {one} ends {last}, {other} begins {first}")
            elif between < gap and trained.days(run, one).stop > 0 and len(trained.days(run, other)):
                needs = "the longest label" if between < longest else "the context"
                faults.append(f"{where}: {between} days between {one} and {other}, {needs} needs {gap}")
        if run.state.cache_id == panel.manifest.cache_id:
            try:
                meant = dates_of(make_split(run.config, panel), panel.calendar)
            except InputError as error:
                meant = run.state.split
                faults.append(f"{where}: {error.what}")
            odd += [f"{where}: {part} by its settings" for part in PARTS if meant[part] != run.state.split[part]]
        told = (find_summary(run.folder) or {}).get("days", {})
        for part in PARTS:
            if part in told and [told[part].get("first"), told[part].get("last")] != run.state.split[part]:
                odd.append(f"{where}: {part} by its summary")
    for before, after in pairwise(trained.runs):
        if after.state.split["test"][0] <= before.state.split["test"][1]:
            faults.append(f"{before.folder.name} and {after.folder.name} share test days")
    if faults:
        return failed(ADVICE, "parts overlap, or are too near to each other", faults)
    if odd:
        return warned(ADVICE, "stored dates of parts are other ones than", odd)
    run = trained.runs[0]
    gaps = [trained.days(run, b).start - trained.days(run, a).stop for a, b in pairwise(PARTS)]
    needed = gap_days(run.config.data.context, run.state.horizons, panel.manifest.known_after)
    return passed(ADVICE, f"{gaps[0]} and {gaps[1]} days between the parts, {needed} needed")
