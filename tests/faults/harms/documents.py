"""JSON, lines of JSON, and TOML."""

import json
from random import Random
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 1.5, -0.5, 1e308, 2**31, 2**63, 2**70, float("nan"), float("inf"), "", "1", "text",
    "2020-13-45", "\x00", "[/red]", "é" * 300, [], [None], {}, {"a": 1}, "@deep@", "@digits@",
)  # fmt: skip
DEEP, DIGITS = "[" * 100_000 + "]" * 100_000, "1" * 5000  # in the place of "@deep@" and "@digits@"


def harm_json(random: Random, content: bytes) -> tuple[bytes, str]:
    """A JSON document with one node replaced, removed, doubled or exchanged."""
    document = json.loads(content)
    if random.random() < 0.03:
        document, what = random.choice(ODD), "another document"
    else:
        what = _harm_node(random, document)
    text = json.dumps(document).replace('"@deep@"', DEEP).replace('"@digits@"', DIGITS)
    if isinstance(document, dict) and document and random.random() < 0.05:
        name = random.choice(list(document))
        text = f"{text[:-1]}, {json.dumps(name)}: {json.dumps(random.choice(ODD))}}}"
        what += f"; {name} a second time"
    return text.encode(), what


def _harm_node(random: Random, document: Any) -> str:
    """Change a container in place, anywhere in the document."""
    container, path = document, ""
    while True:
        keys = list(container) if isinstance(container, dict) else list(range(len(container)))
        if not keys:
            if isinstance(container, dict):
                container["new"] = random.choice(ODD)
            else:
                container.append(random.choice(ODD))
            return f"{path} has a new item"
        key = random.choice(keys)
        if isinstance(container[key], dict | list) and random.random() < 0.7:
            container, path = container[key], f"{path}.{key}"
            continue
        break
    match random.choice(["odd", "odd", "odd", "near", "near", "remove", "exchange", "nest", "new"]):
        case "near":
            container[key] = _near(random, container[key])
            return f"{path}.{key} is {container[key]!r:.60}"
        case "remove":
            del container[key]
            return f"{path}.{key} removed"
        case "exchange":
            other = random.choice(keys)
            container[key], container[other] = container[other], container[key]
            return f"{path}.{key} exchanged with {other}"
        case "nest":
            container[key] = random.choice([[container[key]], {"a": container[key]}])
            return f"{path}.{key} nested"
        case "new":
            if isinstance(container, dict):
                container["new"] = random.choice(ODD)
                return f"{path}.new added"
            container.insert(key, container[key])
            return f"{path}.{key} doubled"
        case _:
            container[key] = random.choice(ODD)
            return f"{path}.{key} is {container[key]!r:.60}"


def _near(random: Random, value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + random.choice([-1, 1, 2, 1000])
    if isinstance(value, float):
        return value * random.choice([-1, 0.999, 2, 1e6])
    if isinstance(value, str):
        return random.choice([value[:-1], value + "x", value.upper(), value[::-1]])
    if isinstance(value, list):
        return random.choice([value[:-1], value + value[:1], value[::-1]])
    return random.choice(ODD)


def harm_json_lines(random: Random, content: bytes) -> tuple[bytes, str]:
    """One line of a file of JSON lines, or the whole document of another."""
    lines = content.splitlines()
    at = random.randrange(len(lines))
    try:
        json.loads(lines[at])
    except ValueError:
        return harm_json(random, content)
    match random.choice(["node", "node", "node", "remove", "double", "exchange"]):
        case "remove" | "double" as what:
            what = _fewer_or_more(lines, at, what)
        case "exchange":
            to = random.randrange(len(lines))
            lines[at], lines[to] = lines[to], lines[at]
            what = f"exchanged with {to + 1}"
        case _:
            lines[at], what = harm_json(random, lines[at])
    return b"\n".join(lines) + b"\n", f"line {at + 1}: {what}"


def _fewer_or_more(lines: list[Any], at: int, what: str) -> str:
    """Remove a line, or double it; gives what was done."""
    if what == "remove":
        del lines[at]
        return "removed"
    lines.insert(at, lines[at])
    return "doubled"


def harm_toml(random: Random, content: bytes) -> tuple[bytes, str]:
    """One line of a TOML file removed, doubled, or with another value."""
    lines = content.decode().split("\n")
    at = random.choice([i for i, line in enumerate(lines) if line.strip()])
    key, equals, value = lines[at].partition(" = ")
    match random.choice(["remove", "double", "move", "value", "value", "value"]):
        case "remove" | "double" as what:
            what = _fewer_or_more(lines, at, what)
        case "move":
            lines.insert(random.randrange(len(lines)), lines.pop(at))
            what = "moved"
        case _:
            odd = [
                "", "true", "-1", "0", "1", "2", "0.5", "1e26", "nan", "inf", '""', '"text"', "[]", "[[[]]]", "{}",
                "2020-01-01", "'\x7f'", "[" * 3000 + "]" * 3000, DIGITS, "0x10", "1_0", value + "9", f"[{value}]",
            ]  # fmt: skip
            lines[at] = f"{key}{equals}{random.choice(odd)}"
            what = f"is {lines[at]!r:.60}"
    return "\n".join(lines).encode(), f"line {at + 1} {what}"
