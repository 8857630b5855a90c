"""Whether scores of a run change with what was not known when they were made."""

import numpy as np
import numpy.typing as npt

from engine.audit.finding import Advice, Finding, failed, passed, skipped
from engine.audit.run.trained import Trained, evenly
from engine.audit.run.window import window_of
from engine.inputs import check_agreement
from engine.model.causality import check_own
from engine.score.predict import TrainedRun, predict_days
from loaders.errors import InputError
from loaders.panel import Panel
from loaders.split import Days

ADVICE = Advice(
    "future of scores",
    "a score that changes with a later row was computed from it, and no one can have it on its day",
    "mend the network's forward (engine.check_causal tries it alone), and train again",
)
DATES = 10
BEFORE, AFTER = 5, 5  # days that are scored beside each date
HISTORY = 30  # days of returns that the online regression is fitted to
MOST_VALUES = 1 << 23  # of the features of a window


def future(trained: Trained) -> Finding:
    """Fails where a score of a date, or of four days before it, moves by a bit when all later rows are changed.

    Statistic: the number of scores that differ. For each of ten dates of the test, evenly spaced, the days around
    it are copied into memory, and the run's own code (`predict_days`: context, network, trees, regressions,
    neutralisation) scores the days from four before the date to five after it. Then features, presence and universe
    of later days change, and every label that ends later; the same code scores the same days again. A network of
    the user's own also has to pass `check_own` again. Null: none; scores up to the date are the same to the bit,
    since all arrays have the same shapes. No false alarms. A dependence on a day beyond the five is not seen.
    """
    places, tried = [], 0
    for run in trained.runs:
        if run.config.model.is_own:
            try:
                check_own(run.config)
            except InputError as error:
                return failed(ADVICE, error.what, [run.config.model.name])
        test = trained.days(run, "test")
        if not len(test):
            continue
        try:
            check_agreement(run.state.features, run.state.horizons, trained.panel, str(run.folder))
        except InputError as error:
            return skipped(ADVICE, error.what)
        for date in evenly(test, max(DATES // len(trained.runs), 1)).tolist():
            count, moved = _moved(trained.panel, run, date, test)
            tried += count
            if moved:
                places.append((moved, count, date))
    if not tried:
        return skipped(ADVICE, "the cache has no day of the test with a later one")
    if places:
        moved, count, date = max(places)
        figure = f"{moved:,} of {count:,} scores until {trained.panel.calendar[date]} change with later rows"
        return failed(ADVICE, figure, [str(trained.panel.calendar[date]) for _, _, date in sorted(places)[::-1]])
    return passed(ADVICE, f"none of {tried:,} scores on {DATES} dates changes with later rows")


def _moved(panel: Panel, run: TrainedRun, date: int, test: Days) -> tuple[int, int]:
    """How many scores up to a date were compared, and how many are not the same."""
    scored = Days(max(test.start, date - BEFORE + 1), min(date + AFTER + 1, len(panel.calendar)))
    if scored.stop <= date + 1:
        return 0, 0
    start = max(scored.start - run.config.data.context + 1 - HISTORY, 0)
    window = window_of(panel, start, scored.stop, MOST_VALUES)
    if int((window.first + window.days).max()) < scored.stop - start:
        return 0, 0
    days = Days(scored.start - start, scored.stop - start)
    changed = window.unknown_changed(date, np.random.default_rng(date))
    before, after = (_until(run, each.in_memory(), days, date - start) for each in (window, changed))
    return before.size, int((before.view(np.int32) != after.view(np.int32)).sum())


def _until(run: TrainedRun, panel: Panel, days: Days, date: int) -> npt.NDArray[np.float32]:
    """Scores [N, H] of some days up to a date."""
    scores = predict_days(run, panel, days, "test")
    code = panel.code_of(scores.rows)
    until = scores.rows - panel.offset[code] + panel.first[code] <= date
    return np.stack([values[until] for values in scores.values.values()], 1)
