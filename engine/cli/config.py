"""`atft-engine config`: the settings that a command would use, and the schema of all of them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.options import ConfigFile, Settings, usable
from loaders.errors import InputError

if TYPE_CHECKING:
    from engine.config import Config

WIDTH = 100  # of a line, beyond which a list has a line for each item


def of_training() -> "type[Config]":
    """The settings that a training reads."""
    from engine.config import Config

    return Config


settings_class: "Callable[[], type[Config]]" = of_training  # hpo/cli.py puts a study's here


def config_show(
    run: Annotated[
        Path | None, typer.Argument(callback=usable, help="Run folder, whose own settings are shown.")
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Print settings as a command would resolve them, as TOML; what differs from its default is marked."""
    from engine.config_file import load

    if run is not None:
        if config is not None:
            raise InputError("--config", f"{run} has settings of its own", "Leave one of the two out")
        config = run / "config.toml"
        if not config.exists():
            what = "no run here (config.toml is missing)"
            raise InputError(str(run), what, "Name a folder made by `atft-engine train`")
    found = load(settings_class(), config, settings or [])
    print("\n".join(_lines(found.model_dump(mode="json"), type(found)().model_dump(mode="json"))))


def config_schema(
    section: Annotated[str | None, typer.Option(help="One section, such as train (default: all).")] = None,
) -> None:
    """Print the JSON Schema of all settings, for an editor that completes and checks a TOML file."""
    from pydantic import TypeAdapter

    kind: Any = settings_class()
    if section is not None:
        if section not in kind.model_fields:
            raise InputError("--section", f"no section {section!r}", f"Use {', '.join(kind.model_fields)}")
        kind = kind.model_fields[section].annotation
    print(json.dumps(TypeAdapter(kind).json_schema(), indent=2))


def _lines(values: dict[str, Any], defaults: dict[str, Any]) -> Iterator[str]:
    """Sections of settings as lines of TOML. Sections of other commands stand where they are not the default."""
    from engine.config import Config

    for name, section in values.items():
        if name not in Config.model_fields and section == defaults[name]:
            continue
        for part in section if isinstance(section, list) else [section]:
            yield f"[[{name}]]" if isinstance(section, list) else f"[{name}]"
            default = {} if isinstance(section, list) else defaults[name]
            yield from (_line(key, value, default.get(key, value)) for key, value in part.items())
            yield ""


def _line(key: str, value: Any, default: Any) -> str:
    mark = "" if value == default else f"  # default: {'unset' if default is None else _toml(default)}"
    if value is None:
        return f"# {key} is unset{mark}"
    line = f"{key} = {_toml(value)}"
    if isinstance(value, list) and len(line) > WIDTH:
        line = f"{key} = [\n" + "".join(f"  {_toml(each)},\n" for each in value) + "]"
    return line + mark


def _toml(value: Any) -> str:
    """A value on one line."""
    import tomli_w

    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        keys = [tomli_w.dumps({key: 0}).partition(" = ")[0] for key in value]
        return f"{{{', '.join(f'{key} = {_toml(each)}' for key, each in zip(keys, value.values(), strict=True))}}}"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").removesuffix("\n")
