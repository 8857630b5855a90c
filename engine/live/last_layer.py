"""The refitted last layer on given days, from the state that the online regression was continued from."""

from dataclasses import replace

import numpy as np

from engine.inputs import open_loader, resolve_device
from engine.live.slopes import LiveSlopes, has_history
from engine.score.online.last_layer import columns_of, refit_last_layer
from engine.score.online.sums import label_days
from engine.score.predict import TrainedRun, first_validated
from engine.score.rows import Float32
from loaders.errors import InputError
from loaders.panel import Panel
from loaders.progress import Progress, quiet
from loaders.split import Days


def live_last_layer(
    run: TrainedRun, panel: Panel, days: Days, found: LiveSlopes, progress: Progress = quiet
) -> tuple[Float32 | None, LiveSlopes]:
    """Scores [N, H] of the refitted last layer on some days, None where the run has none; and what the online
    regression found, its state with the sums of the last layer.

    Raises InputError where the kept state has none, and where the panel lacks the context of its last days.
    """
    if not run.config.model.last_layer_weight:
        return None, found
    device, after = resolve_device(run.config.train.device), None
    if found.after is not None:
        if found.after.last_layer is None:
            what = f"its kept state of {found.after.date} is of a run whose last layer is not refitted"
            raise InputError(str(run.folder), what, "Remove the file; the state is then made anew from a longer cache")
        counted = int(np.searchsorted(panel.calendar, np.datetime64(found.after.date), "right")) - 1
        if days.stop - 1 > counted:
            _check_context(run, panel, counted)
        after = counted, found.after.last_layer
        if after[1].products.shape[1] != columns_of(run.model):
            what = f"its kept state of {found.after.date} is of a network of other layers"
            raise InputError(str(run.folder), what, "Remove the file; the state is then made anew from a longer cache")
    with open_loader(run.config, panel, device) as source:
        refitted = refit_last_layer(
            run.best.to(device), source, days, run.config, first_validated(run.state, panel), after=after,
            keep=found.day, progress=progress,
        )  # fmt: skip
    if found.reached is not None:
        found = replace(found, reached=replace(found.reached, last_layer=refitted.sums))
    return refitted.scores, found


def _check_context(run: TrainedRun, panel: Panel, counted: int) -> None:
    """Raise InputError where the days whose returns a state waits for cannot be seen as the network saw them."""
    waits, context = label_days(panel), run.config.data.context
    first = max(counted + 1 - max(waits, default=0), 0)
    if waits and first < context - 1 and not has_history(run, panel):
        what = f"the last layer is refitted to {panel.calendar[first]}, which needs {context} days up to it"
        raise InputError(str(run.folder), f"{what}; {panel.folder} has {first + 1}", "Pass a cache with more days")
