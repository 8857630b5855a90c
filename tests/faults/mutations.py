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
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from tests.faults.harms.documents import harm_json, harm_json_lines, harm_toml
from tests.faults.harms.raw import harm_bytes
from tests.faults.harms.tables import rewrite_parquet
from tests.faults.harms.tensors import harm_header, harm_tensors
from tests.faults.readers import READERS, Tried, copy, read
from tests.faults.server import apart

Harm = Callable[[Random, bytes], tuple[bytes, str]]  # content, what was done


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
        ("run/online.safetensors", "folds/*/online.safetensors", "twin/online.safetensors"),
        ("bytes", "swapped", "tensors", "header"), 5,
    ),
    "run, trees.safetensors": Kind(("twin/trees.safetensors",), ("bytes", "swapped", "tensors", "header"), 4),
    "run, config.toml": Kind(("run/config.toml", "stopped/config.toml", "folds/fold-0/config.toml"),
                             ("bytes", "toml", "swapped"), 6),
    "run, figures": Kind(("run/*.json*", "stopped/*.json*"), ("bytes", "json lines", "swapped"), 5),
    "folds, figures": Kind(("folds/*.json", "folds/*/*.json*", "folds/scores.parquet"),
                           ("bytes", "json lines", "swapped"), 5),
    "study, journal": Kind(("study/study.journal",), ("bytes", "json lines"), 5),
    "study, other files": Kind(("study/best.toml", "study/trials.parquet", "study/trials/*/*.*"),
                               ("bytes", "toml", "json lines", "swapped"), 3),
    "study, database": Kind(("study.db",), ("bytes",), 3, True),
    "score files": Kind(("scores.parquet", "ridge.parquet"), ("bytes",), 5),
    "score files, rewritten": Kind(("scores.parquet", "ridge.parquet"), ("parquet", "swapped"), 2, True),
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
        found, why = read(reader, folder, None if kind.free or READERS[reader].shows else expected(reader))
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
    names = ("panel.arrow", "rows.npy", "source.arrow")
    files = {name: (cache / name).read_bytes() if (cache / name).exists() else b"" for name in names}
    sums = {name: [_hash(data[i : i + size]) for i in range(0, len(data), size)] for name, data in files.items()}
    for key, value in (
        ("panel_bytes", len(files["panel.arrow"])), ("checksums", sums["panel.arrow"]),
        ("rows_checksums", sums["rows.npy"]),
    ):  # fmt: skip
        if key in manifest:
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
