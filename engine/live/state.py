"""What a run keeps of the online regression, so that a new day's scores need a few weeks of the cache and no history.

    runs/ID/online.safetensors        written when training ends: the state of the last day but one of its cache
    runs/ID/live/online.safetensors   the newest state that `predict` has reached; written whole or not at all

The state of a day holds the sums over all samples whose return was known on that day (engine/score/online.py). Later
days add theirs from whatever cache has them. The state of a day decides the scores of that day, so scoring it again
moves nothing.

H horizons, C = 2 x the features used
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from engine.checkpoint import State
from engine.score.online import HALF_LIFE, Sums, label_days
from loaders.cache.atomic import write_atomically
from loaders.disk.durable import make_folder
from loaders.disk.lock import LOCK, release, take
from loaders.errors import InputError
from loaders.panel import Int, Panel

ONLINE = "online.safetensors"
LIVE = "live"  # folder in a run's


@dataclass(frozen=True)
class About:
    """What a state belongs to. All dates are ISO."""

    run_id: str
    recent: list[str]  # the state's day and those before it whose returns were not all known, ascending
    features: list[str]  # used
    horizons: list[int]
    known_after: int
    half_life: float  # days
    checksum: str = ""  # of all of this and the sums


@dataclass(frozen=True)
class OnlineState:
    """The online regression on a day."""

    about: About
    sums: Sums

    @property
    def date(self) -> str:
        """The day, ISO: its slopes are those of the sums as they are."""
        return self.about.recent[-1]


def state_of(run: State, panel: Panel, day: int, used: Int, sums: Sums) -> OnlineState:
    """The state of a day of a panel.

    Args:
        day: calendar index.
        used: places of the features that the regression uses.
        sums: of the day, on any device.
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
    return OnlineState(about, sums)


def write_state(path: Path, state: OnlineState) -> None:
    """Write a state; readers see the old one or the new. Raises InputError where it cannot be written."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in vars(state.sums).items()}
    about = replace(state.about, checksum=_checksum(state.about, tensors))
    write_atomically(path, save(tensors, {"about": json.dumps(asdict(about))}))


def read_state(path: Path, run: State) -> OnlineState | None:
    """Read a state of a run; None where there is no file.

    Raises InputError for a file that is damaged or another run's, and one of another half-life.
    """
    if not path.exists():
        return None
    cure = "Remove the file; the state is then made anew from a cache with the run's history"
    try:
        with safe_open(path, "pt") as file:
            about = About(**json.loads(file.metadata()["about"]))
            tensors = {name: file.get_tensor(name) for name in ("squares", "products")}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(str(path), f"not a readable state ({type(error).__name__}: {error})", cure) from error
    if about.checksum != _checksum(about, tensors):
        raise InputError(str(path), "its checksum differs: the file is damaged", cure)
    if (about.run_id, about.horizons, about.half_life) != (run.run_id, run.horizons, HALF_LIFE):
        what = f"belongs to run {about.run_id}, horizons {about.horizons}, half-life {about.half_life:g}"
        raise InputError(str(path), f"{what}; this is {run.run_id}, {run.horizons}, {HALF_LIFE:g}", cure)
    return OnlineState(about, Sums(tensors["squares"], tensors["products"]))


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


def _checksum(about: About, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of all but the checksum itself, first 16 hex digits."""
    digest = hashlib.sha256(json.dumps(asdict(replace(about, checksum="")), sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()[:16]
