"""Slopes of the online regression on given days: from a kept state, or from the history that a cache holds.

A state serves days from its own on. The cache must have that day and those before it whose returns were still unknown,
and every day since. With a run's whole history in the cache no state is needed.

F features, H horizons, D days
"""

from dataclasses import dataclass, field

import numpy as np

from engine.inputs import resolve_device
from engine.live.state import OnlineState, keep_state, kept_states, state_of
from engine.model.features import categorical_features
from engine.score.online.features import fit_online, slopes_of
from engine.score.online.sums import label_days
from engine.score.predict import TrainedRun, features_used
from engine.score.rows import Float32, present_rows
from loaders.cache.format import SCORED
from loaders.errors import InputError
from loaders.panel import Int, Panel
from loaders.split import Days


@dataclass(frozen=True)
class LiveSlopes:
    """What scores need of the online regression, and the state that it has reached."""

    slopes: Float32 | None = None  # [D, 2F, H]; None: the run has no online regression
    reached: OnlineState | None = None  # to be kept; None: what is kept is as new
    until: str | None = None  # day of the state that the last slopes are of
    notes: list[str] = field(default_factory=list)
    after: OnlineState | None = None  # kept before, from which the days were reached; None: from the history
    day: int | None = None  # calendar index of the state that was reached; None: there is none

    def keep(self, run: TrainedRun) -> list[str]:
        """Keep the state that was reached, if any, with the run; gives what is to be told."""
        told = None if self.reached is None else keep_state(run.folder, self.reached, run.state)
        return [] if told is None else [told]


def has_history(run: TrainedRun, panel: Panel) -> bool:
    """Whether a panel begins where the cache did that the run was trained on, or before."""
    return str(panel.calendar[0]) <= run.state.begun


def live_slopes(run: TrainedRun, panel: Panel, days: Days, *, newest: bool) -> LiveSlopes:
    """The slopes of some days of a panel.

    Args:
        newest: start from a kept state where one serves, though the panel may hold the history, which takes seconds.

    Raises InputError where no kept state serves and the panel lacks the run's history.
    """
    if not run.config.model.online_weight:
        return LiveSlopes()
    device = resolve_device(run.config.train.device)
    kept = kept_states(run.folder, run.state)
    history = has_history(run, panel) and bool(panel.manifest.horizons)
    serving, reason = (None, "") if history and not newest else _serving(kept, panel, days)
    after, counted = None, -1
    if serving is not None:
        used = np.array([panel.manifest.features.index(name) for name in serving.about.features])
        if not panel.manifest.horizons:
            return _still(serving, panel, days, used)
        counted = panel.manifest.calendar.index(serving.date)
        after = counted, serving.sums
    elif history:
        used = features_used(run)
    else:
        lacks = "has no returns" if has_history(run, panel) else f"begins with {panel.calendar[0]}"
        what = f"the online regression has no way to {panel.calendar[days.start]}: {reason}; {panel.folder} {lacks}"
        raise InputError(
            str(run.folder), what, f"Pass a cache without that gap, or with all days from {run.state.begun} on"
        )
    # The last day is compared with the one before, also when it is asked for again: so that one's state is kept.
    known, notes = _known(panel, counted, days.stop - 1)
    keep = min(known, max(days.start, days.stop - 2))
    fit = fit_online(
        panel, days, used, categorical_features(run.config, panel), device, after=after, keep=max(keep, counted, 0)
    )
    reached = None
    if keep > counted and (not kept or panel.manifest.calendar[keep] > kept[0].date):
        reached = state_of(run.state, panel, keep, used, fit.sums)
    day = None if reached is None else keep
    return LiveSlopes(fit.slopes, reached, str(panel.calendar[days.stop - 1]), notes, serving, day)


def _serving(kept: list[OnlineState], panel: Panel, days: Days) -> tuple[OnlineState | None, str]:
    """The newest kept state from which the days can be reached; or None, and why there is none."""
    first = panel.manifest.calendar[days.start]
    reasons = []
    for state in kept:
        reason = f"the kept state is of {state.date}, a later day" if state.date > first else _gap(state, panel, days)
        if reason is None:
            return state, ""
        reasons.append(reason)
    return None, reasons[0] if reasons else "the run keeps no state of it"


def _gap(state: OnlineState, panel: Panel, days: Days) -> str | None:
    """What is missing between a state and the days, in words."""
    if not panel.manifest.horizons:
        return None  # no return will be counted
    calendar, about = panel.manifest.calendar, state.about
    needed = about.recent[-1:] if calendar[days.stop - 1] == state.date else about.recent
    if calendar[0] > state.date:
        return f"the days after {state.date}, that of the kept state, and before {calendar[0]} are missing"
    if calendar[0] > needed[0]:
        what = f"the kept state is of {state.date}, when returns from {needed[0]} on were not known yet"
        return f"{what}; the days before {calendar[0]} are missing"
    place = int(np.searchsorted(panel.calendar, np.datetime64(state.date), "right"))
    found = calendar[max(place - len(needed), 0) : place]
    if found != needed:
        odd = max(set(found) ^ set(needed))
        return f"{odd} is a day of {'the cache' if odd in found else 'the kept state'} alone"
    return None


def _known(panel: Panel, counted: int, last: int) -> tuple[int, list[str]]:
    """The latest day, at most `last`, whose state will stay as it is, or -1; and which returns are still to come.

    A return over k days is known k days later, but a source may deliver it later still. A day that no code has a
    return of, nor a later day, is taken to be such: what is counted without it is not kept.
    """
    waits = label_days(panel)
    first = max(counted + 1 - max(waits), last + 1 - 3 * max(waits), 0)
    rows, day, _ = present_rows(panel, Days(first, last + 1))
    scored = panel.presence[rows] == SCORED
    targets = panel.targets[rows]
    keep, notes = last, []
    for h, wait, column in zip(panel.manifest.horizons, waits, targets.T, strict=True):
        due = last - wait
        known = day[scored & np.isfinite(column) & (day <= due)]
        if due <= counted - wait or due < 0 or (len(known) and known[-1] == due):
            continue
        reached = int(known[-1]) if len(known) else -1
        keep = min(keep, reached + wait if reached >= 0 else -1)
        missing = f"{panel.calendar[reached + 1 if reached >= 0 else first]}..{panel.calendar[due]}"
        notes.append(f"returns: none over {h} days is known of {missing}; the online regression waits for them")
    return keep, notes


def _still(state: OnlineState, panel: Panel, days: Days, used: Int) -> LiveSlopes:
    """The slopes of a state for all days of a panel without returns."""
    slopes = slopes_of(state.sums, used, len(panel.manifest.features))
    what = "online regression" if state.last_layer is None else "online regression and last layer"
    note = f"{what}: as of {state.date}, since {panel.folder} has no returns"
    notes = [note] if panel.manifest.calendar[days.stop - 1] > state.date else []
    return LiveSlopes(np.repeat(slopes, len(days), 0), None, state.date, notes, state)
