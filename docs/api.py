"""Write docs/api.md from the signatures and docstrings of what `engine` exports: python docs/api.py."""

import ast
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import engine

HEAD = """# Python API

`python docs/api.py` writes this page from signatures and docstrings. [python.md](python.md) shows the names at work.

Every name is imported from `engine`, at its first use: `import engine` takes milliseconds. Bad input is refused with
`InputError`, whose message says what is wrong, where, and how to mend it. Frames are those of Polars (extra `build`),
and `.to_pandas()` makes one of pandas. A `Date` is text such as 2015-01-02, a `datetime.date` or a `numpy.datetime64`.
"""
WIDTH = 100  # of a signature, beyond which each argument has a line


def page() -> str:
    """The whole page as Markdown."""
    names = sorted(engine.__all__, key=lambda name: (name[0].isupper(), name.lower()))
    found = {name: getattr(engine, name) for name in names}
    lines = ["| name | |", "|---|---|"]
    lines += [f"| [`{name}`](#{name.lower()}) | {first_line(value)} |" for name, value in found.items()]
    parts = [HEAD, "\n".join(lines), *(section(name, value) for name, value in found.items())]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def section(name: str, value: Any) -> str:
    """What there is to say of one name."""
    if inspect.isclass(value):
        return "\n\n".join([f"## {name}", class_text(value)])
    return "\n\n".join([f"## {name}", code(signature(value)), prose(value.__doc__)])


def class_text(kind: type) -> str:
    """A class: its docstring, its fields, and the properties and methods that it defines itself."""
    parts = [prose(kind.__doc__)]
    if issubclass(kind, BaseModel):
        return "\n\n".join([*parts, "[settings.md](settings.md) has its sections and their settings."])
    tree = parsed(kind)
    made = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"), None)
    if made is not None:
        parts.insert(0, code(of_node(made, kind.__name__)))
    rows = [f"| `{name}` | `{cell(of)}` | {cell(text)} |" for name, of, text in attributes(tree)]
    if rows:
        parts.append("\n".join(["| attribute | type | |", "|---|---|---|", *rows]))
    for node in tree.body:
        method = isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and not is_property(node)
        if method and (said := ast.get_docstring(node)):  # without one, it does what the base class says
            parts += [f"### {kind.__name__}.{node.name}", code(of_node(node)), prose(said)]
    return "\n\n".join(part for part in parts if part)


def parsed(value: Any) -> Any:
    """The syntax tree of a class or function."""
    return ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]


def attributes(tree: ast.ClassDef) -> list[tuple[str, str, str]]:
    """Name, type and text of the fields, each with the string below it, and of the properties."""
    found = []
    for node, below in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not node.target.id.startswith("_"):
            said = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
            found.append((node.target.id, annotation(node.annotation), str(said)))
        elif isinstance(node, ast.FunctionDef) and is_property(node) and not node.name.startswith("_"):
            found.append((node.name, annotation(node.returns), ast.get_docstring(node) or ""))
    return found


def is_property(node: ast.FunctionDef) -> bool:
    """Whether a method is read like an attribute."""
    return any(ast.unparse(each) in ("property", "cached_property") for each in node.decorator_list)


def annotation(node: ast.expr | None) -> str:
    """A type as it is written, without the quotes of one that is imported for type checkers alone."""
    return "" if node is None else re.sub(r"^'(.*)'$", r"\1", ast.unparse(node)).replace("'", '"')


def signature(value: Any) -> str:
    """`name(arguments) -> type` of a function."""
    return of_node(parsed(value))


def of_node(node: ast.FunctionDef, name: str | None = None) -> str:
    """`name(arguments) -> type` on one line, or a line for each argument where that is too long."""
    returns = f" -> {annotation(node.returns)}" if name is None else ""
    pieces = arguments(node)
    short = f"{name or node.name}({', '.join(pieces)}){returns}"
    if len(short) <= WIDTH:
        return short
    return "\n".join([f"{name or node.name}(", *(f"    {piece}," for piece in pieces), f"){returns}"])


def arguments(node: ast.FunctionDef) -> list[str]:
    """Each argument with its type and default, and the `*` before those that are given by name."""
    given = node.args
    plain = [*given.posonlyargs, *given.args]
    defaults = [*[None] * (len(plain) - len(given.defaults)), *given.defaults]
    found = [argument(*pair) for pair in zip(plain, defaults, strict=True)]
    if plain and plain[0].arg in ("self", "cls"):
        found = found[1:]
    if given.vararg is not None:
        found.append(f"*{argument(given.vararg)}")
    elif given.kwonlyargs:
        found.append("*")
    found += [argument(*pair) for pair in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return [*found, *([f"**{argument(given.kwarg)}"] if given.kwarg is not None else [])]


def argument(node: ast.arg, default: ast.expr | None = None) -> str:
    kind = f": {annotation(node.annotation)}" if node.annotation is not None else ""
    return f"{node.arg}{kind}" + ("" if default is None else f" = {ast.unparse(default)}".replace("'", '"'))


def code(text: str) -> str:
    return f"```\n{text}\n```"


def cell(text: str) -> str:
    """Text of a table's cell."""
    return " ".join(text.split()).replace("|", "\\|")


def first_line(value: Any) -> str:
    return cell((value.__doc__ or "").strip().partition("\n")[0])


def prose(docstring: str | None) -> str:
    """A docstring as Markdown: `Args:` becomes a list."""
    text = inspect.cleandoc(docstring or "")
    before, args, after = text.partition("Args:\n")
    if not args:
        return text
    indented = re.match(r"(?:(?: {4}.*|)\n?)*", after)
    assert indented is not None
    items = re.split(r"\n(?=\S)", textwrap.dedent(indented[0]).strip())
    listed = [re.sub(r"^([^:]+): ", name, " ".join(item.split()), count=1) for item in items]
    return "\n\n".join([before.strip(), "\n".join(f"- {item}" for item in listed), after[indented.end() :].strip()])


def name(found: "re.Match[str]") -> str:
    return ", ".join(f"`{each.strip()}`" for each in found[1].split(",")) + ": "


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page())
