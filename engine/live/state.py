"""What a run keeps of its regressions, so that a new day's scores need a few weeks of the cache and no history.

    runs/ID/online.safetensors        written when training ends: the state of the last day but one of its cache
    runs/ID/live/online.safetensors   the newest state that `predict` has reached; written whole or not at all

The state of a day holds the sums over all samples whose return was known on that day (engine/score/online/sums.py).
Later days add theirs from whatever cache has them. The state of a day decides the scores of that day, so scoring it
again moves nothing.

H horizons, C = 2 x the features used, or the outputs of the last layers
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from engine.checkpoint import Count, Day, Horizons, Names, State, validated
from engine.score.online.features import HALF_LIFE
from engine.score.online.sums import Sums, label_days
from loaders.cache.atomic import write_atomically
from loaders.disk.durable import make_folder
from loaders.disk.lock import LOCK, release, take
from loaders.disk.tensors import find_tensors, tensors_content
from loaders.errors import InputError
from loaders.panel import Int, Panel

ONLINE = "online.safetensors"
LIVE = "live"  # folder in a run's
OF_LAST_LAYER = "last_layer."  # before the names of its tensors


@dataclass(frozen=True)
class About:
    """What a state belongs to. All dates are ISO."""

    run_id: str
    # The state's day and those before it whose returns were not all known, ascending.
    recent: Annotated[list[Day], Field(min_length=1)]
    features: Names  # used
    horizons: Horizons
    known_after: Count
    half_life: Annotated[float, Field(gt=0, allow_inf_nan=False)]  # days


@dataclass(frozen=True)
class OnlineState:
    """The online regression on a day, and the refitted last layer where the run has one."""

    about: About
    sums: Sums
    last_layer: Sums | None = None

    @property
    def date(self) -> str:
        """The day, ISO: its slopes are those of the sums as they are."""
        return self.about.recent[-1]


def state_of(run: State, panel: Panel, day: int, used: Int, sums: Sums, last_layer: Sums | None = None) -> OnlineState:
    """The state of a day of a panel.

    Args:
        day: calendar index.
        used: places of the features that the regression uses.
        sums, last_layer: of the day, on any device.
    """
    manifest, longest = panel.manifest, max(label_days(panel))
    about = About(
        run_id=run.run_id,
        recent=manifest.calendar[max(day + 1 - longest, 0) : day + 1],
        features=[manifest.features[i] for i in used],
        horizons=list(manifest.horizons),
        known_after=manifest.known_after,
        half_life=HALF_LIFE,
    )
    return OnlineState(about, sums, last_layer)


def write_state(path: Path, state: OnlineState) -> None:
    """Write a state; readers see the old one or the new. Raises InputError where it cannot be written."""
    tensors = vars(state.sums)
    if state.last_layer is not None:
        tensors = tensors | {f"{OF_LAST_LAYER}{name}": value for name, value in vars(state.last_layer).items()}
    write_atomically(path, tensors_content(path.stem, asdict(state.about), tensors))


def read_state(path: Path, run: State) -> OnlineState | None:
    """Read a state of a run; None where there is no file.

    Raises InputError for a file that is damaged or another run's, and one of another half-life.
    """
    cure = "Remove the file; the state is then made anew from a cache with the run's history"
    found = find_tensors(path, cure)
    if found is None:
        return None
    about, tensors = validated(About, found[0], path, cure), found[1]
    count = len(about.horizons)
    shapes: dict[str, tuple[int, ...]] = {}
    outputs = tensors[f"{OF_LAST_LAYER}products"].numel() // count if f"{OF_LAST_LAYER}products" in tensors else None
    for of, inputs in (("", 2 * len(about.features)), (OF_LAST_LAYER, outputs)):
        if inputs is not None:
            shapes |= {f"{of}squares": (count, inputs, inputs), f"{of}products": (count, inputs)}
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != shapes:
        raise InputError(str(path), "holds other sums than those of its features and horizons", cure)
    if any(tensor.dtype != torch.float64 or not tensor.isfinite().all() for tensor in tensors.values()):
        raise InputError(str(path), "holds sums that are not finite, or not float64", cure)
    if (about.run_id, about.horizons, about.half_life) != (run.run_id, run.horizons, HALF_LIFE):
        what = f"belongs to run {about.run_id}, horizons {about.horizons}, half-life {about.half_life:g}"
        raise InputError(str(path), f"{what}; this is {run.run_id}, {run.horizons}, {HALF_LIFE:g}", cure)
    read = [Sums(tensors[f"{of}squares"], tensors[f"{of}products"]) for of in ("", OF_LAST_LAYER)[: len(tensors) // 2]]
    return OnlineState(about, *read)


def kept_states(folder: Path, run: State) -> list[OnlineState]:
    """The states that a run folder holds, the newest first. Raises as `read_state`."""
    found = [read_state(path, run) for path in (folder / LIVE / ONLINE, folder / ONLINE)]
    return sorted((state for state in found if state is not None), key=lambda state: state.date, reverse=True)


def keep_state(folder: Path, state: OnlineState, run: State) -> str | None:
    """Make a state a run folder's newest; gives what is to be told where the folder cannot be written.

    Of several predictions at once the state of the latest day stays.
    """
    live = folder / LIVE
    try:
        make_folder(live)
        lock = take(live / LOCK, wait=True)
        try:
            if not any(kept.date > state.date for kept in kept_states(folder, run)):
                write_state(live / ONLINE, state)
        finally:
            release(live / LOCK, lock)
    except (OSError, InputError) as error:
        reason = error.what if isinstance(error, InputError) else error.strerror
        return f"state: {live} cannot be written ({reason}), so the next days start from an older state"
    return None
