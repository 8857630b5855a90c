"""Scores of a run on days of any cache that fits it, however little of the past it holds."""

from engine.inputs import check_agreement, check_made_alike
from engine.live.last_layer import live_last_layer
from engine.live.slopes import has_history, live_slopes
from engine.score.predict import TrainedRun, predict_days
from engine.score.rows import RowScores
from loaders.errors import InputError
from loaders.panel import Panel
from loaders.progress import Progress, quiet
from loaders.split import Days
from loaders.verify import verified


def score_days(
    run: TrainedRun,
    panel: Panel,
    days: Days,
    name: str,
    member: int | None = None,
    *,
    newest: bool = False,
    progress: Progress = quiet,
) -> tuple[RowScores, list[str]]:
    """Scores of some days, and what has to be said with them. The state of the regressions moves along.

    Args:
        name: of the days, `Asked.name`.
        member: of a run of several models, this one alone; the first is 0.
        newest: see `live_slopes`.

    Raises InputError where rows differ from their checksums, and where the cache was not made like the run's, or lacks
    the context or the returns that the scores need.
    """
    where = str(run.folder)
    check_agreement(run.state.features, run.state.horizons, panel, where)
    if panel.manifest.cache_id != run.state.cache_id:
        check_made_alike(run.state.made, panel, where)
    _check_context(run, panel, days)
    with verified(panel):
        found = live_slopes(run, panel, days, newest=newest)
        refitted, found = live_last_layer(run, panel, days, found)
        scores = predict_days(
            run, panel, days, name, member, found.slopes, None if member is not None else refitted, progress
        )
    return scores, found.notes + found.keep(run)


def _check_context(run: TrainedRun, panel: Panel, days: Days) -> None:
    """Raise InputError where the panel begins too late for the context of the first day."""
    context, calendar = run.config.data.context, panel.calendar
    if days.start >= context - 1 or has_history(run, panel):
        return
    what = f"{calendar[days.start]} needs {context} days up to it, {panel.folder} has {days.start + 1}"
    later = f"score days from {calendar[context - 1]} on" if len(calendar) >= context else ""
    raise InputError(str(run.folder), what, " or ".join(filter(None, ["Pass a cache with more days,", later])))
