"""A manifest of any content, its id made right again, is refused in one line, or all that reads it works."""

import copy
import io
import json
import math
import os
import shutil

import pytest
from rich.console import Console

from engine.config_file import load_config
from engine.inputs import made_of, make_split, resolve
from engine.model.features import useless
from engine.rivals.fit import run_baseline
from engine.rivals.options import Options
from engine.score.part_metrics import part_metrics, part_samples
from loaders.cache.append import append
from loaders.cache.format import MANIFEST, read_manifest, verify
from loaders.cache.manifest.model import BuiltFrom
from loaders.cache.simulation.simulate import simulate
from loaders.errors import InputError
from loaders.panel import open_panel
from loaders.tiers.inspect import inspect_cache
from tests.loaders.cache.conftest import write

DEEP = [0]
for _ in range(900):
    DEEP = [DEEP]
VALUES = [
    None, True, -1, 0, 1, 1.5, 64, 2**31, 2**70, 10**400, math.nan, math.inf, "", "x", "0" * 16, "2010-01-04",
    "2010-W01-1", "\ud800", "a\x7f", [], [None], [0], [1, 5], ["x"], ["f0", "f0"], {}, {"x": None}, {"x": 1}, DEEP,
]  # fmt: skip


EXACT = ("dtype", "calendar", "days", "rows", "batches", "panel_bytes", "chunk_bytes")  # only one value can be right


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "cache"
    simulate(folder, 20, 60, 4, 0.05, 0, [1, 5], "float16")
    return folder


def links(cache, folder):
    """The same cache with a manifest of its own."""
    folder.mkdir()
    for path in cache.iterdir():
        if path.name != MANIFEST:
            os.link(path, folder / path.name)
    return folder


def use(folder, files=()):
    """All that reads a manifest; raises nothing but InputError of one line."""

    def tried(work):
        found, line = None, ""
        try:
            found = work()
        except InputError as refused:
            line = str(refused)
        assert "\n" not in line
        line.encode()  # no half of a surrogate pair
        return found

    panel = tried(lambda: open_panel(folder))
    tried(lambda: verify(folder))
    if panel is None:
        return False
    Console(file=io.StringIO(), width=100).print(inspect_cache(panel, "none"))
    json.dumps(panel.manifest.model_dump())
    config = load_config(None, [], str(folder))
    tried(lambda: resolve(config, panel))
    json.dumps(made_of(panel.manifest))
    useless(panel.manifest)

    def rival():
        split = make_split(config, panel)
        for name, scores in run_baseline(panel, split, "reversal", Options(panel.manifest.features[0])).items():
            part_metrics(part_samples(panel, split.part(name)), scores, 10.0, panel.manifest.periods_per_year)

    tried(rival)
    if files:
        tried(lambda: append(folder, files))
    return True


def mutations(content, value):
    """The content with each of its fields replaced, one at a time, and each first entry of lists and objects."""
    for key in content:
        yield {**copy.deepcopy(content), key: value}
        here = content[key]
        if isinstance(here, list) and here:
            yield {**copy.deepcopy(content), key: [value, *here[1:]]}
            yield {**copy.deepcopy(content), key: [*here[:-1], value]}
        if isinstance(here, dict) and here:
            yield from ({**copy.deepcopy(content), key: each} for each in mutations(here, value))
            if key == "simulation":
                continue
        if isinstance(here, list) and here and isinstance(here[0], dict):
            yield from ({**copy.deepcopy(content), key: [each, *here[1:]]} for each in mutations(here[0], value))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_any_value_in_any_field(value, built, tmp_path):
    folder = links(built, tmp_path / "cache")
    content = json.loads((built / MANIFEST).read_text())
    for changed in mutations(content, value):
        write(folder, changed)
        if use(folder):
            assert {name: changed[name] for name in EXACT} == {name: content[name] for name in EXACT}


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_any_value_in_what_a_simulation_says(value, simulated, tmp_path):
    folder = links(simulated, tmp_path / "cache")
    content = json.loads((simulated / MANIFEST).read_text())
    for simulation in [value, *mutations(content["simulation"], value)]:
        write(folder, {**content, "simulation": simulation})
        use(folder)


def test_any_field_left_out(built, tmp_path):
    folder = links(built, tmp_path / "cache")
    content = json.loads((built / MANIFEST).read_text())
    for key in content:
        write(folder, {name: value for name, value in content.items() if name != key})
        use(folder)
    for key in content["built_from"]:
        kept = {name: value for name, value in content["built_from"].items() if name != key}
        write(folder, {**content, "built_from": kept})
        use(folder)


@pytest.mark.parametrize("key", [*BuiltFrom.model_fields, "recipe", "counts"])
def test_days_are_appended_to_a_manifest_of_any_content_or_it_is_refused(key, built, tmp_path):
    content = json.loads((built / MANIFEST).read_text())
    base = content["built_from"] if key in BuiltFrom.model_fields else content
    here = base[key]
    odd = [{}, {"x": 1}, {"name": "columns"}, {**here, next(iter(here)): 7}] if isinstance(here, dict) and here else []
    for number, value in enumerate([*odd, [], 3]):
        folder = shutil.copytree(built, tmp_path / str(number))
        changed = copy.deepcopy(content)
        (changed["built_from"] if key in BuiltFrom.model_fields else changed)[key] = value
        write(folder, changed)
        use(folder, [built.parent / "next.parquet"])


SWAPS = {
    "dtype": lambda m: m.update(dtype="float32"),
    "dtype of one byte": lambda m: m.update(dtype="int8"),
    "dtype that NumPy lacks": lambda m: m.update(dtype="bfloat16"),
    "calendar that is unsorted": lambda m: m["calendar"].reverse(),
    "day twice": lambda m: m["calendar"].__setitem__(1, m["calendar"][0]),
    "code twice": lambda m: m["codes"].__setitem__(1, m["codes"][0]),
    "feature twice": lambda m: m["features"].__setitem__(1, m["features"][0]),
    "horizons that descend": lambda m: m["horizons"].reverse(),
    "horizons as fractions": lambda m: m.update(horizons=[1.5, 5]),
    "horizons as text": lambda m: m.update(horizons=["1", "5"]),
    "buffers that overlap": lambda m: m["batches"][0].update(targets=m["batches"][0]["features"]),
    "a buffer that ends after the file": lambda m: m["batches"][0].update(presence=m["panel_bytes"] - 64),
    "a buffer that is not aligned": lambda m: m["batches"][0].update(presence=m["batches"][0]["presence"] + 1),
    "two batches that part a code": lambda m: m.update(
        batches=[m["batches"][0] | {"rows": 10}, m["batches"][0] | {"rows": m["rows"] - 10}]
    ),
    "no checksums of rows": lambda m: m.update(rows_checksums=[]),
    "no checksums": lambda m: m.update(checksums=[]),
    "a checksum too many": lambda m: m["checksums"].append(m["checksums"][0]),
    "tiny chunks": lambda m: m.update(chunk_bytes=1),
    "another size": lambda m: m.update(panel_bytes=m["panel_bytes"] + (16 << 20)),
    "statistics of one feature": lambda m: m.update(stored=m["stored"][:1]),
    "a category that is no feature": lambda m: m.update(categories=["other"]),
    "more targets than horizons": lambda m: m.update(targets=["a", "b", "c"]),
    "a code that no source has": lambda m: m["built_from"]["codes"].__setitem__(0, "C0"),
}


@pytest.mark.parametrize("name", SWAPS)
def test_what_cannot_be_is_refused_though_the_id_is_right(name, built, tmp_path):
    folder = links(built, tmp_path / "cache")
    content = json.loads((built / MANIFEST).read_text())
    SWAPS[name](content)
    write(folder, content)
    with pytest.raises(InputError, match=r"manifest\.json: (unexpected content|the manifest was altered)") as refused:
        open_panel(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, '{"format_version": ' + "9" * 5_000 + "}", '{"format_version": [4]}', "\x00"],
    ids=["lists", "objects", "digits", "a list", "no text"],
)
def test_json_that_breaks_readers_is_one_line(text, built, tmp_path):
    folder = links(built, tmp_path / "cache")
    (folder / MANIFEST).write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json: ") as refused:
        read_manifest(folder)
    assert len(str(refused.value)) < 500
    assert "\n" not in str(refused.value)


def test_bytes_that_are_no_text_are_one_line(built, tmp_path):
    folder = links(built, tmp_path / "cache")
    (folder / MANIFEST).write_bytes(b"\xff\xfe\xff{")
    with pytest.raises(InputError, match=r"manifest\.json: not a readable manifest"):
        read_manifest(folder)
