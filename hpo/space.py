"""The settings of a trial, drawn from a search space, and back.

A dimension has the name of its setting, `section.key`; a simplex over several settings has that of their section.
"""

import math
from typing import Any

import optuna
from optuna import Trial
from pydantic import ValidationError, create_model

from engine.config import OF_ATFT, Config, OwnTerm
from hpo.config import NETWORK, SPACES, Choices, Dimension, Range, Simplex, Space, StudyConfig
from loaders.errors import InputError

Settings = dict[str, Any]  # "section.key" -> value
TABLES = ("model.options", "objective.own")  # whose entries are settings too
OF_BLOCKS = ("context", "block_days", "block_codes", "scoring_days")  # of [data], which trials may differ in
LAST_LAYER, REFIT = "model.last_layer_weight", "train.refit"
HELP = (
    "train.seeds", "train.half_life", "model.online_weight", "model.online_features", "model.neutralize",
    "model.risk_factors", LAST_LAYER,
)  # fmt: skip
DRAWN = 32  # settings that are tried before the first trial
SMALLEST = 1e-6  # lower end of the parameters of a simplex, whose logarithm is taken
OUT = 0.5  # a setting of a simplex is left out where its parameter is above


def check_space(config: StudyConfig) -> None:
    """Raise InputError for an empty space, a setting that does not exist, one that does nothing to what is tuned, and
    one of two dimensions."""
    kind, space = config.hpo.kind, config.hpo.space
    if not space:
        raise InputError("hpo.space", "nothing to search: the space is empty", "Name at least one setting")
    decided: set[str] = set()
    for name, dimension in space.items():
        for key in _keys(name, dimension):
            section, _, field = key.partition(".")
            known = StudyConfig.model_fields.get(section) if section != "hpo" else None
            fields = getattr(known.annotation, "model_fields", {}) if known else {}
            table, _, inner = field.partition(".")
            if field not in fields and not (inner and f"{section}.{table}" in TABLES):
                where = f"settings of [{section}] are {', '.join(fields)}" if fields else "write section.key"
                raise InputError("hpo.space", f"no setting {key!r}", where[0].upper() + where[1:])
            if not _is_of(kind, key):
                what = f"{key!r} does nothing to {kind}"
                raise InputError("hpo.space", what, "Leave it out, or pass another --kind")
            if key in decided:
                raise InputError("hpo.space", f"{key!r} is decided twice", "Leave one of the dimensions out")
            decided.add(key)


def _is_of(kind: str, key: str) -> bool:
    """Whether what is tuned has that setting: a network those of a run, a rival its own and those of its help.

    Trees beside a network are fitted when a training ends, it and its last layer are refitted then; a trial is judged
    before. A ridge regression has one seed and no last step.
    """
    section = key.partition(".")[0]
    if kind == NETWORK:
        return section in Config.model_fields and section != "trees" and key not in (LAST_LAYER, REFIT)
    return section == kind or (key in HELP and not (kind == "ridge" and key in ("train.seeds", LAST_LAYER)))


def check_values(config: StudyConfig) -> None:
    """Raise InputError for a setting that trials cannot differ in, for values that it does not take (both ends of a
    range, one between, every choice), and for a space none of whose settings go together."""
    space = config.hpo.space
    for name, dimension in space.items():
        for key in _keys(name, dimension):
            section, _, field = key.partition(".")
            if section == "split" or key == "train.device" or (section == "data" and field not in OF_BLOCKS):
                what = f"{key!r} is the same in every trial: they share a cache, its days and a device"
                raise InputError("hpo.space", what, f"Leave it out, and pass --set {key}=...")
            for value in _values(dimension):
                _check_value(config, key, value)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(DRAWN):
        try:
            configured(config, suggest(study.ask(), space, len(config.data.horizons or (1,))))
        except InputError as error:
            last = error
        else:
            return
    raise InputError("hpo.space", f"none of {DRAWN} settings drawn from it go together ({last.what})", last.cure)


def _values(dimension: Dimension) -> list[Any]:
    """Values that a dimension draws: all choices, or the ends and one between."""
    if isinstance(dimension, Choices):
        return list(dimension.choices)
    if isinstance(dimension, Simplex):
        return [(0.5, 0.5)] if dimension.simplex == "horizons" else [0.0, 1.0]
    low, high = dimension.low, dimension.high
    whole = isinstance(low, int) and isinstance(high, int)
    return [low, high, (low + high) // 2 if whole else low + (high - low) / math.pi]


def _check_value(config: StudyConfig, key: str, value: Any) -> None:
    """Raise InputError where a setting does not take a value, whatever the others are."""
    section, name, *inner = key.split(".")
    kind = type(getattr(config, section)).model_fields[name]
    if inner and name == "own":
        kind = OwnTerm.model_fields.get(inner[-1], kind)
    elif inner:
        return  # an option of a network of the user's own, which knows what it takes
    try:
        create_model("Setting", value=(kind.annotation, kind))(value=value)
    except ValidationError as error:
        what = f"{key} cannot be {value!r}: {error.errors()[0]['msg'].lower()}"
        raise InputError("hpo.space", what, "Narrow its range, or leave the value out") from error
    if key == "data.context" and value > config.data.context:
        what = f"data.context goes to {value}, the days between parts are those of data.context={config.data.context}"
        raise InputError("hpo.space", what, "Pass --set data.context with the largest value that is searched")


def suggest(trial: Trial, space: Space, horizons: int) -> Settings:
    """The settings of a trial, from parameters that the study's sampler draws."""
    settings: Settings = {}
    for name, dimension in space.items():
        if isinstance(dimension, Simplex):
            settings |= _on_simplex(trial, name, dimension, horizons)
        elif isinstance(dimension, Choices):
            settings[name] = trial.suggest_categorical(name, dimension.choices)
        elif isinstance(dimension.low, int) and isinstance(dimension.high, int):
            settings[name] = trial.suggest_int(name, dimension.low, dimension.high, log=dimension.log)
        else:
            settings[name] = trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
    return settings


def parameters_of(config: StudyConfig, horizons: int) -> dict[str, Any] | None:
    """The parameters for which `suggest` gives the configuration's own settings, weights on a simplex scaled to sum 1.

    None where these lie outside the space.
    """
    values = config.model_dump()
    parameters: dict[str, Any] = {}
    for name, dimension in config.hpo.space.items():
        if isinstance(dimension, Simplex):
            parts, most = _parts(dimension, horizons)
            of_horizons = dimension.simplex == "horizons"
            keys = [name] if of_horizons else [f"{name}.{part}" for part in parts]
            given = [_value(values, key) for key in keys]
            weights = (given[0] or [1.0] * horizons) if of_horizons else given
            if None in weights or not sum(weights) or len(weights) != len(parts):
                return None
            total = sum(weights)
            # So that the variates have mean 1, like those that are drawn.
            scale = min(len(parts), math.log(OUT / SMALLEST)) / total
            for part, weight in zip(parts, weights, strict=True):
                parameters[f"{name}.{part}"] = most * math.exp(-scale * weight) if weight else 1.0
        elif _holds(dimension, _value(values, name)):
            parameters[name] = _value(values, name)
        else:
            return None
    return parameters


def fitting(config: StudyConfig) -> StudyConfig:
    """The same, with the default space of what is tuned where none was given; where the network is the user's own,
    without settings of ATFT."""
    kind = config.hpo.kind
    if config.hpo.space != SPACES[NETWORK] or (kind == NETWORK and not config.model.is_own):
        return config
    space = SPACES[kind]
    if kind == NETWORK:
        space = {name: dimension for name, dimension in space.items() if name.removeprefix("model.") not in OF_ATFT}
    return config.model_copy(update={"hpo": config.hpo.model_copy(update={"space": space})})


def _value(values: dict[str, Any], key: str) -> Any:
    """The setting of that name; None where a table has no such entry."""
    section, *inner = key.split(".")
    place = values[section]
    for name in inner:
        place = place.get(name) if isinstance(place, dict) else None
    return place


def _holds(dimension: Range | Choices, value: Any) -> bool:
    if isinstance(dimension, Choices):
        return value in dimension.choices
    return isinstance(value, int | float) and dimension.low <= value <= dimension.high


def configured(config: StudyConfig, settings: Settings) -> StudyConfig:
    """The configuration with these settings. Raises InputError where they do not go together."""
    values = config.model_dump()
    for key, value in settings.items():
        section, *tables, field = key.split(".")
        place = values[section]
        for name in tables:
            place = place.setdefault(name, {})
        place[field] = value
    try:
        return StudyConfig.model_validate(values)
    except ValueError as error:
        what = "; ".join(str(each["msg"]).removeprefix("Value error, ") for each in error.errors())  # type: ignore[attr-defined]
        raise InputError("hpo.space", what, "Narrow the space") from error


def _keys(name: str, dimension: Dimension) -> list[str]:
    if isinstance(dimension, Simplex) and dimension.simplex != "horizons":
        return [f"{name}.{part}" for part in dimension.simplex]
    return [name]


def _on_simplex(trial: Trial, name: str, dimension: Simplex, horizons: int) -> Settings:
    """Weights that sum to 1, uniform over the simplex: exponential variates, divided by their sum.

    Each setting is left out with probability 1/2, and the others are uniform over theirs: if all were always in, one
    bad term would hide what the others gain. No horizon is left out.
    """
    parts, most = _parts(dimension, horizons)
    drawn = [trial.suggest_float(f"{name}.{part}", SMALLEST, 1.0) for part in parts]
    most = 1.0 if min(drawn) >= most else most  # where all would be out, all are in
    shares = [max(math.log(most / value), 0.0) for value in drawn]
    total = sum(shares) or 1.0
    weights = [share / total for share in shares]
    if dimension.simplex == "horizons":
        return {name: tuple(weights)}
    return {f"{name}.{part}": weight for part, weight in zip(parts, weights, strict=True)}


def _parts(dimension: Simplex, horizons: int) -> tuple[list[str], float]:
    """The names of the weights, and the parameter above which one is left out."""
    if dimension.simplex == "horizons":
        return [str(i) for i in range(horizons)], 1.0
    return list(dimension.simplex), OUT
