"""Bad inputs, drawn from the command line's own definition: every option, argument and setting, odd values of its type.

A command may refuse a value, or take it where it is valid: `Bad.valid` says so by rules of its own, not by those of
the package. Nothing else is right: no traceback, no hang, no exit code 0 for a value that means nothing.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel

from tests.faults.ground import HPO, TRAIN
from tests.faults.readers import Tried, copy, keep
from tests.faults.server import run

MEMORY = 8 << 30  # bytes that a command may take: a machine's worth, so that no other program suffers
WHOLE = ("1", "2", "0", "-1", "1000000000000")
NUMBERS = (*WHOLE, "nan", "inf", "-inf", "1e26", "1.5", "", "text", "9" * 400, "0x10", "1,2", "٣")
PATHS = (
    "", ".", "..", "/", "missing", "folder", "file", "file/below", "fifo", "/dev/full", "/dev/null", "/proc/x",
    "/proc/self/mem", "x" * 300, "odd-\udcff\udcfe", "[/red]y", "[bold]", "~nosuchuser/x", "a\x7fb", "new\nline", " ",
    "file:///missing", "http://", "-",
)  # fmt: skip
TEXTS = (
    "", " ", "text", "[/red]", "2020-13-45", "-1", "é", "\udcff", "x" * 5000, "a,b", "a=b", "=", ",", "a:b", "\x1b",
)  # fmt: skip
VALUES = (
    "nan", "inf", "-inf", "-1", "0", "1", "1e26", "-0.5", "1.5", '""', "text", "[]", "[1, [2]]", "{}", "true",
    "2020-13-45", "9" * 400, "[" * 2000 + "]" * 2000, "'[/red]'", "", "1000000000000", "{a = {b = 1}}",
)  # fmt: skip
DOCUMENTS: dict[str, bytes] = {
    "a section is a number": b"data = 3",
    "a section is a list": b"[[data]]\narrow = 'cache'",
    "a setting is a table": b"[data.arrow]\na = 1",
    "phases are a table": b"[phases]\nepochs = 1",
    "a phase without a name": b"[[phases]]\nepochs = 1",
    "deep": b"a = " + b"[" * 5000 + b"]" * 5000,
    "digits": b"[train]\nepochs = " + b"9" * 5000,
    "a mark of byte order": b"\xef\xbb\xbf[train]\nepochs = 1",
    "NUL": b"[train]\nepochs = 1\x00",
    "no UTF-8": b"[train]\ndevice = '\xff'",
    "UTF-16": "[train]\nepochs = 1".encode("utf-16"),
    "twice": b"[train]\nepochs = 1\n[train]\nepochs = 2",
    "unknown section": b"[[red]]\n[other]\na = 1",
    "unknown key": b"[train]\n'[/red]' = 1",
    "no search": b"[hpo.space]\n'data.arrow' = { choices = ['a', 'b'] }",
    "an empty range": b"[hpo.space]\n'model.dropout' = { low = 1, high = 0 }",
    "an odd range": b"[hpo.space]\n'model.dropout' = { low = nan, high = 'x' }",
    "a range of nothing": b"[hpo.space]\n'model.nothing' = { low = 0, high = 1 }",
    "a range beyond the setting": b"[hpo.space]\n'model.dropout' = { low = 2.0, high = 3.0 }",
    "a search that is a list": b"[hpo]\nspace = [1]",
}  # fmt: skip

VALID_DOCUMENTS = ("a mark of byte order",)  # which TOML allows to be there or not

# A quick valid call of every command; a new command has to be added.
BASE: dict[str, tuple[str, ...]] = {
    "train": (*TRAIN, "--out", "new", "--set", "train.epochs=1", "--set", "train.blocks=1"),
    "hpo": (*HPO, "--out", "study", "--trials", "3"),
    "evaluate": ("evaluate", "run", "--arrow", "cache"),
    "predict": ("predict", "run", "--arrow", "cache", "--out", "new"),
    "export": ("export", "run", "--arrow", "cache", "--to", "torch", "--out", "new", "--check"),
    "report": ("report", "scores.parquet", "--arrow", "cache", "--out", "new"),
    "audit": ("audit", "cache", "scores.parquet"),
    "baseline": (
        "baseline", "--config", "config.toml", "--arrow", "cache", "--kind", "reversal", "--feature", "f0",
    ),
    "cache build": ("cache", "build", "panel.parquet", "--features", "f*", "--targets", "fwd_*", "--out", "new"),
    "cache append": ("cache", "append", "cache", "more.parquet"),
    "cache simulate": ("cache", "simulate", "--codes", "20", "--days", "60", "--features", "4", "--out", "new"),
    "cache inspect": ("cache", "inspect", "cache"),
    "cache verify": ("cache", "verify", "cache"),
    "config show": ("config", "show", "run"),
    "config schema": ("config", "schema"),
}  # fmt: skip
NEEDS = ("cache", "run", "study", "config.toml", "scores.parquet", "panel.parquet", "more.parquet")
# Texts that mean something wherever they stand: a name of a study, and lists of patterns, which may be empty.
FREE = {"study", "features", "targets", "categories", "exclude", "delisting_returns"}
SORTS = {int: "integer", float: "float", Literal: "choice"}
Valid = Literal["never", "out", "perhaps"]  # "out": where what --out names is there


@dataclass(frozen=True)
class Bad:
    """One call of a command. `content` is what config.toml holds in the place of the ground's."""

    kind: str
    argv: tuple[str, ...]
    valid: Valid
    content: bytes | None = None
    out: str = "new"


@cache
def every_input() -> tuple[Bad, ...]:
    """All bad inputs, in an order that is the same each time."""
    return tuple([*_options(), *_settings(), *_documents()])


def attempt(number: int, seed: str, ground: Path, work: Path) -> Tried:
    """Try one of them, `number` in an order that the seed draws."""
    inputs = list(every_input())
    Random(seed).shuffle(inputs)
    bad = inputs[number % len(inputs)]
    _furnish(ground, work)
    if bad.content is not None:
        (work / "config.toml").write_bytes(bad.content)
    outcome = run(bad.argv, work, memory=MEMORY)
    said = " ".join(f"{part!r:.60}" for part in bad.argv) + f" {bad.content!r:.80}" * (bad.content is not None)
    keep(work, outcome)
    if (crash := outcome.crash()) is not None:
        return Tried(bad.kind, said, "wrong", crash)
    if outcome.code:
        return Tried(bad.kind, said, "refused")
    if bad.valid == "never" or (bad.valid == "out" and not os.path.lexists(work / bad.out)):
        return Tried(bad.kind, said, "wrong", f"exit code 0: {outcome.out.strip()[-200:]!r}")
    return Tried(bad.kind, said, "right")


def _furnish(ground: Path, work: Path) -> None:
    """Sound files, and what odd paths name."""
    copy(ground, work, NEEDS)
    os.mkfifo(work / "fifo")
    (work / "folder").mkdir()
    (work / "folder" / "file").write_text("text")
    (work / "file").write_text("text")


def _options() -> Iterator[Bad]:
    from hpo.cli import app

    for name, command in _leaves(typer.main.get_command(app), ""):
        base = BASE[name]
        for parameter in command.params:
            if parameter.name in ("help", "install_completion", "show_completion"):
                continue
            for value in _odd_values(parameter):
                argv = _with(base, name, command, parameter, value)
                yield Bad(f"{name}: options", argv, _valid(parameter, value), out=value or "new")


def _leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its words."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, inner in command.commands.items():
        yield from _leaves(inner, f"{name} {word}".strip())


def _sort(parameter: Any) -> str:
    """What a parameter takes."""
    if getattr(parameter, "is_flag", False):
        return "flag"
    kinds = set(_plain(parameter.type_descriptor.annotation))
    if parameter.name == "out":
        return "out"
    if Path in kinds or parameter.name == "arrow":
        return "path"
    return next((name for kind, name in SORTS.items() if kind in kinds), "text")


def _odd_values(parameter: Any) -> tuple[str, ...]:
    match _sort(parameter):
        case "integer" | "float":
            return NUMBERS
        case "out" | "path":
            return PATHS
        case "flag":
            return ("yes",)
        case "choice":
            return ("", " ", "other", "[/red]", "0")
        case _:
            return TEXTS


def _valid(parameter: Any, value: str) -> Valid:
    """Whether a command may take a value."""
    low = getattr(parameter, "min", None)
    match _sort(parameter):
        case "integer":
            return "perhaps" if value in (*WHOLE, "٣", "9" * 400) and (low is None or int(value) >= low) else "never"
        case "float":
            numbers = (*WHOLE, "1e26", "1.5", "٣")
            return "perhaps" if value in numbers and (low is None or float(value) >= low) else "never"
        case "out":
            return (
                "never"
                if value in ("", " ", "/", "/dev/full", "/dev/null", "/proc/x", "file/below", "x" * 300)
                else "out"
            )
        case "path":
            return "perhaps" if value == "." else "never"  # a folder that holds a cache
        case "choice" | "flag":
            return "never"
        case _:
            return "perhaps" if parameter.name in FREE else "never"


def _with(base: tuple[str, ...], name: str, command: Any, parameter: Any, value: str) -> tuple[str, ...]:
    """The call with one parameter of another value."""
    if parameter.param_type_name == "argument":
        names = [each.name for each in command.params if each.param_type_name == "argument"]
        at = len(name.split()) + names.index(parameter.name)
        return (*base[:at], *base[at + 1 :], "--", value) if len(names) == 1 else (*base[:at], value, *base[at + 1 :])
    option = parameter.opts[0]
    if option in base:
        at = base.index(option)
        base = (*base[:at], *base[at + 2 :])
    return (*base, f"{option}={value}")


def _settings() -> Iterator[Bad]:
    """Every setting by `--set` and by a file, of a training, of rivals and of a study."""
    from engine.config import Config
    from hpo.config import StudyConfig

    for key, annotation in _keys(StudyConfig, ""):
        of = key.partition(".")[0]
        command = "train" if of in Config.model_fields else "hpo" if of == "hpo" else "baseline"
        base, kind = BASE[command], f"{command}: settings"
        for i, value in enumerate(VALUES):
            valid = _fits(annotation, value)
            yield Bad(kind, (*base, "--set", f"{key}={value}"), valid)
            if i % 3 == 0:
                section, _, name = key.rpartition(".")
                text = f"[{section}]\n{name} = {value}\n"
                given = f"{key}={1}" in base  # the call says otherwise, and has the last word
                yield Bad(
                    f"{kind} in a file", base, "perhaps" if given else valid, text.encode(errors="surrogateescape")
                )


def _keys(model: type[BaseModel], before: str) -> Iterator[tuple[str, Any]]:
    """Keys of all settings, with what each is declared to be."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _keys(annotation, f"{before}{name}.")
        else:
            yield f"{before}{name}", annotation


def _fits(annotation: Any, value: str) -> Valid:
    """Whether a value may be taken: a number that is finite for a number, a word that is listed for a choice."""
    kinds = set(_plain(annotation))
    if kinds <= {int, float, type(None)}:
        finite = value in ("1", "0", "-1", "1000000000000", "9" * 400, "1e26")
        finite = finite or (float in kinds and value in ("1.5", "-0.5"))
        return "perhaps" if finite else "never"
    if kinds == {bool}:
        return "perhaps" if value in ("true", "0", "1") else "never"
    return "perhaps"


def _plain(annotation: Any) -> Iterator[Any]:
    """The types that a declaration is made of."""
    if not get_args(annotation):
        yield annotation
    elif get_origin(annotation) in (Literal, dict, tuple, list):
        yield get_origin(annotation)
    else:
        for part in get_args(annotation):
            if isinstance(part, type) or get_args(part):
                yield from _plain(part)


def _documents() -> Iterator[Bad]:
    for what, content in DOCUMENTS.items():
        of_hpo: Valid = "perhaps" if what in VALID_DOCUMENTS else "never"
        of_others: Valid = "perhaps" if b"[hpo" in content else of_hpo  # a section that they take no notice of
        yield Bad("documents", BASE["train"], of_others, content)
        yield Bad("documents", BASE["hpo"], of_hpo, content)
        yield Bad("documents", ("config", "show", "--config", "config.toml"), of_others, content)
