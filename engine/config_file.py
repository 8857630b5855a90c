"""A configuration read from TOML and `--set`, written as TOML, and identified by a hash.

A file that the engine wrote (`config.toml` of a run, `best.toml` of a study) begins with a comment that holds a
checksum of the text below it, so that damage is found. Whoever edits such a file removes the line.
"""

import copy
import hashlib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import BaseModel, ValidationError

from engine.config import OF_ATFT, Config
from loaders.disk.content import is_there, read_file
from loaders.errors import InputError

RENAMED = {
    "model.neutral": "model.neutralize",
    "model.online": "model.online_weight",
    "model.risks": "model.risk_factors",
}
LARGEST_FILE = 16 << 20  # bytes
SIGNED = "# Written by atft-engine. sha256 of what follows: "
SIGNATURE = 16  # digits
OTHER_SECTIONS = ("hpo", "ridge", "lightgbm", "xgboost", "catboost")  # of a file that other commands read
# Settings of later releases: left out of a run's identity where they are off, so that older runs keep theirs.
LATER = {
    "model": ("options", "last_layer_weight"), "objective": ("own",), "split": ("by_year",), "train": ("refit",)
}  # fmt: skip
# What a file that the engine wrote before there was a setting means by leaving it out, where that is not the default.
UNSAID = {"train": {"refit": 0}}

AnyConfig = TypeVar("AnyConfig", bound=Config)


def load_config(path: Path | None, settings: Sequence[str], arrow: str | None = None) -> Config:
    """`load` of a run's configuration."""
    return load(Config, path, settings, arrow)


def load(kind: type[AnyConfig], path: Path | None, settings: Sequence[str], arrow: str | None = None) -> AnyConfig:
    """`configured` of the TOML file, if any.

    Args:
        kind: the configuration's class; sections that it does not have, and other commands do, may stand in the file.

    Raises InputError naming the key, the value and what is allowed.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values = read_toml(path)
        values = {key: value for key, value in values.items() if key in kind.model_fields or key not in OTHER_SECTIONS}
    return configured(kind, values, settings, arrow)


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file; a mark of the byte order before it is left out.

    Raises InputError for what is no file, such as a folder or a pipe, no TOML, or not what was written here.
    """
    cure = "Mend it, or name another file"
    try:
        if is_there(path) and (size := path.stat().st_size) > LARGEST_FILE:
            raise InputError(str(path), f"has {size:,} bytes, settings at most {LARGEST_FILE:,}", cure)
        text = read_file(path, cure).decode("utf-8-sig")
        signed = _is_signed(text, path)
        content = _toml(text)
    except UnicodeDecodeError as error:
        what = f"not a readable TOML file (byte {error.start} is not UTF-8)"
        raise InputError(str(path), what, cure) from error
    except ValueError as error:
        raise InputError(str(path), f"not a readable TOML file ({error})", cure) from error
    for section, settings in UNSAID.items() if signed else ():
        said = content.setdefault(section, {})
        if isinstance(said, dict):
            content[section] = settings | said
    return content


def _toml(text: str) -> dict[str, Any]:
    """Raises ValueError: for what is no TOML, for tables too deep to be read, and for an integer of too many digits."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("values are nested too deeply") from error


def configured(
    kind: type[AnyConfig], values: dict[str, Any], settings: Sequence[str] = (), arrow: str | None = None
) -> AnyConfig:
    """Defaults, then these values by section, then `section.key=value` settings, then a cache named beside them.

    A setting's value is read as TOML where it is valid TOML (numbers, booleans, lists) and as text otherwise. A key may
    go on into a table, such as `model.options.width=64`.

    Raises InputError naming the key, the value and what is allowed.
    """
    values = copy.deepcopy(values)
    for setting in settings:
        key, equals, text = setting.partition("=")
        section, *inner = [name.strip() for name in key.split(".")]
        if not (equals and inner and all(inner)):
            raise InputError("--set", f"{setting!r} is not section.key=value", "Write for example --set train.epochs=4")
        place = values
        for name in (section, *inner[:-1]):
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                what = f"{name!r} is no section" if name == section else f"{name!r} of {setting!r} is no table"
                raise InputError("--set", what, f"Sections are {', '.join(kind.model_fields)}")
        place[inner[-1]] = _value(text.strip(), setting)
    if arrow is not None:
        data = values.setdefault("data", {})
        if not isinstance(data, dict):
            raise InputError("data", f"is no table (got {shown(data)})", "Write [data], and its settings below it")
        data["arrow"] = arrow
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _refusal(kind, error) from error
    except RecursionError as error:
        raise InputError("config", "values are nested too deeply", "Settings are sections of plain values") from error


def _refusal(kind: type[Config], error: ValidationError) -> InputError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "config"
    if first["type"] == "extra_forbidden" and where in RENAMED:
        return InputError(where, f"this setting is now called {RENAMED[where]}", "Use the new name")
    given = "" if first["type"] == "extra_forbidden" or not first["loc"] else f" (got {shown(first['input'])})"
    what = "no such setting" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
    return InputError(where, what + given, f"Settings there: {_known(kind, first['loc'])}")


def shown(value: Any) -> str:
    """A value in a message: of a long one its beginning."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _known(kind: type[Config], location: tuple[int | str, ...]) -> str:
    section = kind.model_fields.get(str(location[0])) if location else None
    place = section.annotation if section else kind
    return ", ".join(place.model_fields) if isinstance(place, type) and issubclass(place, BaseModel) else str(place)


def _value(text: str, setting: str) -> Any:
    try:
        values = _toml(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    except ValueError as error:
        raise InputError("--set", f"{shown(setting)} cannot be read ({error})", "Write a plain value") from error
    value = values["value"] if len(values) == 1 else text  # of several lines
    # 2013-01-01 is a date in TOML; settings hold dates as text.
    return value if isinstance(value, bool | int | float | str | list | dict) else text


def to_toml(config: Config, also: Sequence[str] = ()) -> str:
    """The complete configuration of a run as TOML, without unset keys and those that mean nothing to its network.

    Args:
        also: other sections that are written, such as a rival's.
    """
    content = _of_run(config, also, exclude_none=True)
    if config.trees.kind == "off":
        content["trees"] = {"kind": "off"}
    if config.model.is_own:
        content["model"] = {name: value for name, value in content["model"].items() if name not in OF_ATFT}
    return tomli_w.dumps(content).replace("\x7f", "\\u007F")  # the one character that it should escape and does not


def config_content(config: Config, also: Sequence[str] = ()) -> bytes:
    """The content of a file of this configuration: `to_toml` below its checksum."""
    text = to_toml(config, also)
    return f"{SIGNED}{_signature(text)}; remove this line to edit the file\n{text}".encode()


def _is_signed(text: str, path: Path) -> bool:
    """Whether a file begins with a checksum. Raises InputError where it is not that of the text below it."""
    first, _, rest = text.partition("\n")
    if not first.startswith(SIGNED):
        return False
    if first.removeprefix(SIGNED)[:SIGNATURE] != _signature(rest):
        what = "its checksum differs: it was edited, or is damaged"
        raise InputError(str(path), what, "Restore it; where the edit is meant, remove the file's first line")
    return True


def _signature(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:SIGNATURE]


def config_hash(config: Config, also: Sequence[str] = ()) -> str:
    """Identity of what decides a run's figures: all settings but where data lies and passes, how often it saves, and
    what tuning has seen.

    Args:
        also: sections that decide too, such as a rival's.
    """
    content = _of_run(config, also)
    for name in ("arrow", "tier", "device_share", "store"):
        del content["data"][name]
    del content["train"]["checkpoint_seconds"], content["split"]["tuned_until"]
    if config.trees.kind == "off":
        del content["trees"]
    for section, names in LATER.items():
        for name in names:
            if not content[section][name]:
                del content[section][name]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _of_run(config: Config, also: Sequence[str], exclude_none: bool = False) -> dict[str, Any]:
    return config.model_dump(mode="json", include={*Config.model_fields, *also}, exclude_none=exclude_none)
