"""A fitted rival in one file: its models' own formats as bytes beside the risk factors, checked whole when it is read.

See loaders/disk/tensors.py for the file. No model is a pickle.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import AfterValidator, BaseModel, ValidationError

from engine.config import iso_date
from engine.inputs import check_agreement
from engine.model.neutral import Neutral
from engine.rivals.fit import FITTED, Rival
from engine.rivals.options import Help, Options
from engine.rivals.ridge import Linear
from engine.rivals.samples import Fitted
from engine.rivals.trees import catboost, lightgbm, xgboost
from loaders.cache.atomic import write_atomically
from loaders.disk.content import is_there
from loaders.disk.tensors import find_tensors, tensors_content
from loaders.errors import InputError
from loaders.panel import Panel

SUFFIX = ".safetensors"
CURE = "Restore it, or fit the rival again"
DIRECTIONS, MODEL, CHOSEN = "directions", "model", "chosen"  # names of tensors
READ = {
    "ridge": lambda content: Linear.of(json.loads(content)),
    "lightgbm": lightgbm.Booster.of,
    "xgboost": xgboost.Booster.of,
    "catboost": catboost.Booster.of,
}


@dataclass(frozen=True)
class Origin:
    """Where a fitted rival comes from."""

    trained_until: str  # last day that its fit has seen, ISO
    tuned_until: str | None = None  # last day that the choice of its settings has seen
    settings: str = ""  # hash of them
    run: str = ""  # id of the run whose scores these are averaged with


class _About(BaseModel, extra="forbid", strict=True):
    kind: str
    features: list[str]
    horizons: list[int]
    seeds: int
    online_weight: float
    neutralize: float
    half_life: float
    online: list[int] | None  # places of the features that the online regression uses
    without: list[int]
    trained_until: str
    tuned_until: str | None
    settings: str
    models: list[int]  # of each horizon
    deviations: bool = False
    last_layer_weight: float = 0.0
    since: Annotated[str, AfterValidator(iso_date)] | None = None  # from which on pieces of trees are weighed anew
    run: str
    until: str = ""  # last day that models of `chosen` score, ISO; empty: there are none


def save_rival(path: Path, rival: Rival, panel: Panel, origin: Origin) -> None:
    """Write a fitted rival. Raises InputError for one that is not fitted, and where the file cannot be written."""
    check_name(path)
    if rival.neutral is None:
        raise InputError("--save", f"{rival.kind} has nothing to save", "Leave it out")
    given, options = rival.options.help, rival.options
    about = _About(
        kind=rival.kind, features=panel.manifest.features, horizons=panel.manifest.horizons, seeds=given.seeds,
        online_weight=given.online_weight, neutralize=given.neutralize, half_life=given.half_life,
        online=None if rival.used is None else rival.used.tolist(), without=list(options.without),
        **asdict(origin),
        models=[len(of_seeds) for of_seeds in rival.models], deviations=options.deviations,
        last_layer_weight=given.last_layer_weight, since=rival.since, until=rival.until,
    )  # fmt: skip
    tensors = {DIRECTIONS: rival.neutral.directions}
    for name, models in ((MODEL, rival.models), (CHOSEN, rival.chosen or ())):
        for i, of_seeds in enumerate(models):
            for k, model in enumerate(of_seeds):
                tensors[f"{name}.{i}.{k}"] = torch.from_numpy(np.frombuffer(model.content(), np.uint8).copy())
    write_atomically(path, tensors_content(path.stem, about.model_dump(), tensors))


def load_rival(path: Path, panel: Panel, options: Options) -> tuple[Rival, Origin]:
    """Read a fitted rival, and where it comes from.

    Args:
        options: whose progress it reports to; settings are those of the file.

    Raises InputError where the file is damaged or no rival, where its package is not installed, and for a panel with
    other features or horizons.
    """
    check_name(path)
    rival, about = _read(path, options)
    check_agreement(about.features, about.horizons, panel, str(path))
    return rival, Origin(about.trained_until, about.tuned_until, about.settings, about.run)


def load_rival_of(path: Path, run: str, features: list[str], horizons: list[int], options: Options) -> Rival:
    """Read the rival that a run's scores are averaged with.

    Raises InputError as `load_rival` does, and where it is that of another run.
    """
    if not is_there(path):
        raise InputError(str(path), "is missing: its training has not ended", "Resume it: trees are fitted at the end")
    rival, about = _read(path, options)
    if (about.run, about.features, about.horizons) != (run, features, horizons):
        raise InputError(str(path), "is of another run", "Restore it, or train the run again")
    return rival


def _read(path: Path, options: Options) -> tuple[Rival, _About]:
    found = find_tensors(path, CURE)
    if found is None:
        raise InputError(str(path), "no such file", "Name one that --save wrote")
    state, tensors = found
    try:
        about = _About.model_validate(state)
        if about.until:
            iso_date(about.until)
        kinds = (MODEL, CHOSEN) if about.until else (MODEL,)
        names = {f"{kind}.{i}.{k}" for kind in kinds for i, n in enumerate(about.models) for k in range(n)}
        if about.since is not None and about.kind == "ridge":
            raise ValueError("a ridge regression has no pieces")
        if about.kind not in FITTED or set(tensors) != {DIRECTIONS, *names}:
            raise ValueError("models are missing")
    except (ValidationError, ValueError) as error:
        raise InputError(str(path), "holds no rival, or one of another version", CURE) from error
    directions = tensors[DIRECTIONS]
    neutral = Neutral(len(about.features), directions.shape[1], about.neutralize)
    neutral.directions.copy_(directions)
    given = Help(
        about.seeds, about.half_life, about.online_weight, about.neutralize, about.last_layer_weight, bool(about.until)
    )
    known = replace(
        options, help=given, deviations=about.deviations, without=tuple(about.without), risk_factors=directions.shape[1]
    )
    models, *chosen = (
        [
            [_model(about.kind, tensors[f"{kind}.{i}.{k}"].numpy().tobytes(), path) for k in range(n)]
            for i, n in enumerate(about.models)
        ]
        for kind in kinds
    )
    used = None if about.online is None else np.array(about.online, np.int64)
    of_chosen = chosen[0] if chosen else None
    return Rival(about.kind, models, neutral, used, known, about.since, of_chosen, about.until), about


def check_name(path: Path) -> None:
    """Raise InputError for a name that is not of such a file."""
    if path.suffix != SUFFIX:
        raise InputError(str(path), f"a rival's file ends in {SUFFIX}", f"Name it {path.stem}{SUFFIX}")


def _model(kind: str, content: bytes, path: Path) -> Fitted:
    try:
        model: Any = READ[kind](content)
    except InputError:
        raise
    except Exception as error:  # each library has errors of its own for a model that it cannot read
        what = f"its {kind} model cannot be read ({' '.join(str(error).split())[:200]})"
        raise InputError(str(path), what, CURE) from error
    return model
