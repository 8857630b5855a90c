"""Write docs/settings.md from the configuration's classes: python docs/settings.py."""

import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from engine.config import Config, Trees
from engine.rivals.options import Ridge
from hpo.config import Choices, Range, Simplex, StudyConfig

HEAD = """# Settings

`python docs/settings.py` writes this page from `engine/config.py`, `engine/rivals/options.py` and `hpo/config.py`.

Settings come from `--config FILE.toml` and from `--set section.key=value`, which wins. A run's `config.toml` holds all
of them, resolved. Unknown keys and values out of range are refused by name. A value of `--set` is read as TOML where it
is valid TOML (numbers, booleans, lists, tables) and as text otherwise. `atft-engine config show` prints what a command
would use, `atft-engine config schema` the JSON Schema of this page.
"""
SYMBOLS = {Ge: ">=", Gt: ">", Le: "<=", Lt: "<"}


def page() -> str:
    """The whole page as Markdown."""
    parts = [HEAD]
    for name in (*Config.model_fields, "hpo"):
        field = StudyConfig.model_fields[name]
        kind = section_of(field.annotation)
        heading = f"`[[{name}]]`" if name == "phases" else f"`[{name}]`"
        parts.append(f"## {heading}\n\n{text(kind)}\n\n{table(kind)}")
    parts.append(f"## `[ridge]`\n\nOf `baseline` and `hpo --kind`. {text(Ridge)}\n\n{table(Ridge)}")
    parts.append(
        f"## `[lightgbm]`, `[xgboost]`, `[catboost]`\n\nOf `baseline` and `hpo --kind`. {text(Trees)}\n\n{table(Trees)}"
    )
    parts.append("## Dimensions of `[hpo.space]`\n\nA setting by its name, `section.key`, and one of these:")
    parts += [f"### {kind.__name__}\n\n{text(kind)}\n\n{table(kind)}" for kind in (Range, Choices, Simplex)]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def section_of(annotation: Any) -> type[BaseModel]:
    """The class of a section, or of the entries of a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return section_of(get_args(annotation)[0])


def text(kind: type[BaseModel]) -> str:
    return " ".join((kind.__doc__ or "").split())


def table(kind: type[BaseModel]) -> str:
    rows = ["| setting | type | default | |", "|---|---|---|---|"]
    for name, field in kind.model_fields.items():
        what = " ".join((field.description or "").split()).replace("|", "\\|")
        rows.append(f"| `{name}` | {type_of(field)} | {default_of(field)} | {what} |")
    return "\n".join(rows)


def type_of(field: FieldInfo) -> str:
    """Such as `int >= 1`, or the allowed words."""
    limits = [limit for item in field.metadata if (limit := limit_of(item))]
    return " ".join([name_of(field.annotation), ", ".join(limits)]).strip()


def limit_of(item: Any) -> str:
    for kind, sign in SYMBOLS.items():
        if isinstance(item, kind):
            return f"{sign} {getattr(item, kind.__name__.lower())}"
    return ""


def name_of(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(name_of(each) for each in arguments if each is not type(None))
    if origin is tuple:
        return f"list of {name_of(arguments[0])}"
    if origin is dict:
        return f"table of {name_of(arguments[1])}"
    if hasattr(annotation, "__metadata__"):  # Annotated
        inner = [limit for item in annotation.__metadata__ for limit in limits_in(item)]
        return " ".join([name_of(arguments[0]), ", ".join(inner)]).strip()
    return "text" if annotation is str else getattr(annotation, "__name__", str(annotation))


def limits_in(item: Any) -> list[str]:
    found = [limit_of(each) for each in getattr(item, "metadata", [item])]
    return [limit for limit in found if limit]


def default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None:
        return "unset"
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, dict) and value and all(isinstance(each, BaseModel) for each in value.values()):
        return "; ".join(f"`{name}`" for name in value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`" if value != "" else '`""`'


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page())
