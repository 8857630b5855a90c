"""Files that are harmed: one mutation of one file, then the commands that read it.

    bytes     bits and bytes flipped, at random, in the first and last ones, ranges zeroed, cut, doubled, exchanged
    swapped   another file of the same kind in its place
    JSON      values of another type, range or nesting, keys removed, doubled or exchanged
    tensors   NaN, zeros, missing, added, renamed, exchanged, of another shape
    TOML      lines removed, doubled, with another value
    Parquet   columns removed, renamed, of another type, rows doubled or out of order, without its metadata

Of files of our own, a command has to say what it says of sound ones, or to refuse. Where the checksums of a cache have
been made right again it is another cache, and where the user's own file changes it may be another valid one: other
figures are right then. A forged cache's figures are compared with a plain reading of it, see readers.py.
"""

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from tests.faults.readers import READERS, Tried, copy, read
from tests.faults.server import apart

Harm = Callable[[Random, bytes], tuple[bytes, str]]  # content, what was done

ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 1.5, -0.5, 1e308, 2**31, 2**63, 2**70, float("nan"), float("inf"), "", "1", "text",
    "2020-13-45", "\x00", "[/red]", "é" * 300, [], [None], {}, {"a": 1}, "@deep@", "@digits@",
)  # fmt: skip
DEEP, DIGITS = "[" * 100_000 + "]" * 100_000, "1" * 5000  # in the place of "@deep@" and "@digits@"


@dataclass(frozen=True)
class Kind:
    """Files that are harmed alike.

    Args:
        share: how often, beside the other kinds.
        free: whether other figures are right, since what results may be another valid file.
        forged: whether the checksums of the cache are made right again.
    """

    files: tuple[str, ...]  # patterns in the ground
    harms: tuple[str, ...]  # names in HARMS
    share: float
    free: bool = False
    forged: bool = False


KINDS: dict[str, Kind] = {
    "cache, manifest.json": Kind(("cache/manifest.json",), ("bytes", "json"), 10),
    "cache, manifest.json forged": Kind(("cache/manifest.json",), ("json",), 20, True, True),
    "cache, panel.arrow": Kind(("cache/panel.arrow",), ("bytes", "swapped"), 12),
    "cache, panel.arrow forged": Kind(("cache/panel.arrow",), ("bytes", "swapped"), 6, True, True),
    "cache, rows.npy": Kind(("cache/rows.npy",), ("bytes", "swapped"), 5),
    "cache, rows.npy forged": Kind(("cache/rows.npy",), ("bytes", "swapped"), 3, True, True),
    "cache, source.arrow": Kind(("cache/source.arrow",), ("bytes", "swapped"), 3),
    "cache, source.arrow forged": Kind(("cache/source.arrow",), ("bytes", "swapped"), 2, True, True),
    "looks": Kind(("cache.looks.jsonl",), ("bytes", "json lines"), 2, True),
    "run, checkpoints": Kind(
        ("run/checkpoints/*", "stopped/checkpoints/*", "folds/*/checkpoints/*"),
        ("bytes", "swapped", "tensors", "tensors", "header"), 14,
    ),
    "run, online.safetensors": Kind(
        ("run/online.safetensors", "folds/*/online.safetensors"), ("bytes", "swapped", "tensors", "header"), 5
    ),
    "run, config.toml": Kind(("run/config.toml", "stopped/config.toml", "folds/fold-0/config.toml"),
                             ("bytes", "toml", "swapped"), 6),
    "run, figures": Kind(("run/*.json*", "stopped/*.json*"), ("bytes", "json lines", "swapped"), 5),
    "folds, figures": Kind(("folds/*.json", "folds/*/*.json*", "folds/scores.parquet"),
                           ("bytes", "json lines", "swapped"), 5),
    "study, journal": Kind(("study/study.journal",), ("bytes", "json lines"), 5),
    "study, other files": Kind(("study/best.toml", "study/trials.parquet", "study/trials/*/*.*"),
                               ("bytes", "toml", "json lines", "swapped"), 3),
    "study, database": Kind(("study.db",), ("bytes",), 3, True),
    "score files": Kind(("scores.parquet", "ridge.parquet"), ("bytes", "swapped"), 5),
    "score files, rewritten": Kind(("scores.parquet", "ridge.parquet"), ("parquet",), 2, True),
    "sources": Kind(("panel.parquet", "panel.csv", "panel.arrow", "bars.parquet", "more.parquet"), ("bytes",), 4, True),
    "sources, rewritten": Kind(("panel.parquet", "bars.parquet", "more.parquet"), ("parquet",), 2, True),
    "settings": Kind(("config.toml",), ("bytes", "toml"), 5, True),
}  # fmt: skip


def attempt(random: Random, ground: Path, work: Path, expected: Callable[[str], Any]) -> Tried:
    """Harm one file, and read it.

    Args:
        work: a folder of its own, which is left as the commands left it.
        expected: what a reader says of sound files.
    """
    name = random.choices(list(KINDS), [kind.share for kind in KINDS.values()])[0]
    kind = KINDS[name]
    file = random.choice(sorted(path for pattern in kind.files for path in ground.glob(pattern) if path.is_file()))
    inside = file.relative_to(ground)
    content, what = _harmed(random, file, kind, ground, work)
    what = f"{inside}: {what}{', checksums made right' * kind.forged}"
    readers = _readers_of(random, str(inside), kind)
    verdict = "refused"
    for reader in readers:
        folder = work / reader.replace(" ", "-")
        folder.mkdir()
        copy(ground, folder, READERS[reader].needs)
        (folder / inside).write_bytes(content)
        if kind.forged:
            forge(folder / "cache")
        found, why = read(reader, folder, None if kind.free else expected(reader))
        if found == "wrong":
            return Tried(name, f"{what}; {reader}", found, why)
        verdict = "right" if found == "right" else verdict
    return Tried(name, f"{what}; {', '.join(readers)}", verdict)


def _harmed(random: Random, file: Path, kind: Kind, ground: Path, work: Path) -> tuple[bytes, str]:
    """The file's content after a mutation that changes it, and which one."""
    before = file.read_bytes()
    for _ in range(100):
        harm = random.choice(kind.harms)
        if harm == "swapped":
            others = sorted(path for path in ground.rglob(f"*{file.suffix}") if path.is_file() and path != file)
            other = random.choice(others)
            after, what = other.read_bytes(), f"{other.relative_to(ground)} in its place"
        elif harm == "parquet":
            new = work / "rewritten"
            what = apart(partial(rewrite_parquet, random.getrandbits(32), file, new))
            after = new.read_bytes()
        elif harm in ("toml", "json lines", "tensors") and file.suffix not in SUFFIXES[harm]:
            continue
        else:
            after, what = HARMS[harm](random, before)
        if after != before:
            return after, what
    raise AssertionError(f"no mutation changes {file}")


def _readers_of(random: Random, inside: str, kind: Kind) -> list[str]:
    """One or two commands that read a file, quick ones more often; of a forged cache always its plain reading."""
    top = inside.partition("/")[0]
    names = [name for name, reader in READERS.items() if top in reader.needs]
    first = random.choices(names, [1 / READERS[name].seconds for name in names])[0]
    if kind.forged and random.random() < 0.7:
        return list(dict.fromkeys(["reversal", first]))
    return [first]


def harm_bytes(random: Random, content: bytes) -> tuple[bytes, str]:
    """One of the ways in which a disk, a copy or a program harms bytes."""
    data, size = bytearray(content), len(content)
    if size == 0:
        return bytes([random.randrange(256)]), "a byte in an empty file"
    at = random.choice(
        [random.randrange(size), random.randrange(min(size, 1024)), max(size - 1 - random.randrange(128), 0)]
    )
    length = random.choice([1, 4, 8, 64, 4096])
    match random.choice(
        ["bit", "bit", "byte", "byte", "xor", "zeros", "cut", "cut a little", "more", "double", "moved", "empty"]
    ):
        case "bit":
            data[at] ^= 1 << random.randrange(8)
            return bytes(data), f"a bit of byte {at} flipped, now {data[at]}"
        case "byte":
            data[at] = random.choice([0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)])
            return bytes(data), f"byte {at} is {data[at]}"
        case "xor":
            data[at : at + length] = bytes(byte ^ 0xFF for byte in data[at : at + length])
            return bytes(data), f"bytes {at}..{at + length - 1} inverted"
        case "zeros":
            data[at : at + length] = bytes(len(data[at : at + length]))
            return bytes(data), f"bytes {at}..{at + length - 1} zero"
        case "cut":
            return bytes(data[:at]), f"cut after {at} bytes"
        case "cut a little":
            fewer = random.choice([1, 2, 10, 60])
            return bytes(data[:-fewer]), f"cut by {fewer} bytes"
        case "more":
            return content + random.randbytes(length), f"{length} more bytes at the end"
        case "double":
            return content[: at + length] + content[at:], f"bytes {at}..{at + length - 1} doubled"
        case "moved":
            to = random.randrange(size)
            data[to : to + length] = content[at : at + length]
            return bytes(data[:size]), f"bytes {at}..{at + length - 1} copied to {to}"
        case _:
            return b"", "empty"


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
        case "remove":
            del lines[at]
            what = "removed"
        case "double":
            lines.insert(at, lines[at])
            what = "doubled"
        case "exchange":
            to = random.randrange(len(lines))
            lines[at], lines[to] = lines[to], lines[at]
            what = f"exchanged with {to + 1}"
        case _:
            lines[at], what = harm_json(random, lines[at])
    return b"\n".join(lines) + b"\n", f"line {at + 1}: {what}"


def harm_toml(random: Random, content: bytes) -> tuple[bytes, str]:
    """One line of a TOML file removed, doubled, or with another value."""
    lines = content.decode().split("\n")
    at = random.choice([i for i, line in enumerate(lines) if line.strip()])
    key, equals, value = lines[at].partition(" = ")
    match random.choice(["remove", "double", "move", "value", "value", "value"]):
        case "remove":
            del lines[at]
            what = "removed"
        case "double":
            lines.insert(at, lines[at])
            what = "doubled"
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


def harm_header(random: Random, content: bytes) -> tuple[bytes, str]:
    """The JSON header of a safetensors file, or a JSON document that is a text of its metadata."""
    header, tensors = _opened(content)
    metadata = header.get("__metadata__", {})
    texts = [name for name, text in metadata.items() if text[:1] == "{"]
    if texts and random.random() < 0.8:
        name = random.choice(texts)
        changed, what = harm_json(random, metadata[name].encode())
        metadata[name], what = changed.decode(), f"{name}{what}"
        return _closed(json.dumps(header).encode(), tensors), what
    changed, what = harm_json(random, json.dumps(header).encode())
    return _closed(changed, tensors), f"header{what}"


def harm_tensors(random: Random, content: bytes) -> tuple[bytes, str]:
    """One tensor of a safetensors file."""
    header, data = _opened(content)
    tensors = {
        name: [of["dtype"], of["shape"], data[of["data_offsets"][0] : of["data_offsets"][1]]]
        for name, of in header.items()
        if name != "__metadata__"
    }
    name, other = random.choice(list(tensors)), random.choice(list(tensors))
    dtype, shape, values = tensors[name]
    match random.choice(["nan", "zero", "noise", "remove", "add", "rename", "exchange", "shape", "type"]):
        case "nan":
            tensors[name][2] = (b"\xff\xff\xff\xff" + values[4:])[: len(values)]
            what = f"{name} begins with NaN"
        case "zero":
            tensors[name][2] = bytes(len(values))
            what = f"{name} is zero"
        case "noise":
            tensors[name][2] = random.randbytes(len(values))
            what = f"{name} is noise"
        case "remove":
            del tensors[name]
            what = f"{name} removed"
        case "add":
            tensors[f"{name}.new"] = [dtype, shape, values]
            what = f"{name}.new added"
        case "rename":
            tensors[f"{name}x"] = tensors.pop(name)
            what = f"{name} renamed"
        case "exchange":
            tensors[name], tensors[other] = tensors[other], tensors[name]
            what = f"{name} exchanged with {other}"
        case "shape":
            tensors[name][1] = [1, *shape] if random.random() < 0.5 else shape[::-1]
            what = f"{name} has the shape {tensors[name][1]}"
        case _:
            tensors[name][0] = {"F32": "I32", "F64": "I64", "I64": "F64", "I32": "F32"}.get(dtype, "U8")
            what = f"{name} is {tensors[name][0]}"
    head: dict[str, Any] = {"__metadata__": header["__metadata__"]} if "__metadata__" in header else {}
    body = b""
    for name, (dtype, shape, values) in tensors.items():
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(values)]}
        body += values
    return _closed(json.dumps(head).encode(), body), what


def _opened(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def _closed(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def rewrite_parquet(seed: int, old: Path, new: Path) -> str:
    """Write a Parquet file anew with one thing changed; gives which."""
    import pyarrow as pa
    import pyarrow.parquet

    random = Random(seed)
    table = pa.parquet.read_table(old)
    name = random.choice(table.column_names)
    at = table.column_names.index(name)
    match random.choice(
        ["remove", "rename", "text", "int", "null", "double", "shuffle", "plain", "none", "list", "twice"]
    ):
        case "remove":
            table, what = table.drop_columns([name]), f"without {name}"
        case "rename":
            table, what = table.rename_columns([n + "_" * (n == name) for n in table.column_names]), f"{name} renamed"
        case "text":
            table, what = table.set_column(at, name, pa.array(["text"] * len(table))), f"{name} is text"
        case "int":
            table, what = table.set_column(at, name, pa.array([7] * len(table))), f"{name} is 7"
        case "null":
            table, what = table.set_column(at, name, pa.nulls(len(table), table.schema.types[at])), f"{name} is null"
        case "double":
            table, what = pa.concat_tables([table, table.slice(0, 5)]), "5 rows doubled"
        case "shuffle":
            table, what = table.take(random.sample(range(len(table)), len(table))), "rows shuffled"
        case "plain":
            table, what = table.replace_schema_metadata(None), "without metadata"
        case "none":
            table, what = table.slice(0, 0), "no rows"
        case "list":
            table, what = table.set_column(at, name, pa.array([[1]] * len(table))), f"{name} is lists"
        case _:
            table, what = table.append_column(name, table[name]), f"{name} twice"
    pa.parquet.write_table(table, new)
    return what


def forge(cache: Path) -> None:
    """Make the sizes, checksums and id of a manifest those of what it says and of the files beside it."""
    path = cache / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except (ValueError, RecursionError):
        return  # too deep, or with too many digits, to be written anew
    if not isinstance(manifest, dict):
        return
    size = manifest.get("chunk_bytes")
    size = size if isinstance(size, int) and 64 <= size < 2**40 else 16 << 20
    files = {name: (cache / name).read_bytes() for name in ("panel.arrow", "rows.npy", "source.arrow")}
    sums = {name: [_hash(data[i : i + size]) for i in range(0, len(data), size)] for name, data in files.items()}
    for key, value in (
        ("panel_bytes", len(files["panel.arrow"])), ("checksums", sums["panel.arrow"]),
        ("rows_checksums", sums["rows.npy"]),
    ):  # fmt: skip
        if key in manifest and files:
            manifest[key] = value
    built_from = manifest.get("built_from")
    if isinstance(built_from, dict) and {"bytes", "checksums"} <= set(built_from):
        built_from |= {"bytes": len(files["source.arrow"]), "checksums": sums["source.arrow"]}
    manifest["cache_id"] = _hash(
        json.dumps({key: value for key, value in manifest.items() if key != "cache_id"}, sort_keys=True).encode()
    )
    path.write_text(json.dumps(manifest))


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


HARMS: dict[str, Harm] = {
    "bytes": harm_bytes,
    "json": harm_json,
    "json lines": harm_json_lines,
    "toml": harm_toml,
    "header": harm_header,
    "tensors": harm_tensors,
}
SUFFIXES = {"toml": (".toml",), "json lines": (".json", ".jsonl", ".journal"), "tensors": (".safetensors",)}
