"""Two caches of one panel, made at different times: what was restated in between."""

from engine.audit.finding import Advice, Finding, failed, passed, skipped
from engine.audit.truncation.compare import differences
from loaders.panel import Panel

ADVICE = Advice(
    "vintage",
    "Values that were restated were not known on their day, and a figure of them was not to be had.",
    "Keep the values of the earlier cache, or date each value by when it was published.",
)


def compare_vintages(panel: Panel, other: Panel) -> Finding:
    """Whether two caches agree on the days, codes, features and labels of both. No null: any difference is one.

    Which of the two is the earlier is told by the last day of its calendar. A code that the later one alone has is a
    history that was added: its rows count.
    """
    now, then = (panel, other) if panel.calendar[-1] >= other.calendar[-1] else (other, panel)
    found = differences(now, then)
    features = len(set(now.manifest.features) & set(then.manifest.features))
    if not found.compared:
        return skipped(ADVICE, "the two caches have no row of one code and date in common")
    told = f"{found.told()}, {features:,} features of both"
    return failed(ADVICE, told, found.concerned()) if found.any else passed(ADVICE, told)
