"""The file on disk: readable by anyone, aligned, checked byte by byte, refused in one line where it is not whole."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from loaders.cache import columns as columns_module
from loaders.cache.columns import PANEL, create_columns
from loaders.cache.format import (
    ABSENT,
    MANIFEST,
    chunk_checksums,
    open_columns,
    read_manifest,
    verify,
    write_manifest,
)
from loaders.cache.manifest.model import manifest_id
from loaders.errors import InputError
from tests.panels import write_panel


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("rows", [1, 63, 64, 1000])
@pytest.mark.parametrize("width", [1, 7, 82])
def test_plain_arrow_reads_it_and_every_buffer_is_aligned(tmp_path, dtype, rows, width):
    rng = np.random.default_rng(rows)
    columns = create_columns(tmp_path, [rows], width, 2, dtype)
    assert not columns.features.any()
    assert np.isnan(columns.targets).all()
    assert (columns.presence == ABSENT).all()
    values = rng.standard_normal((rows, width)).astype(dtype)
    columns.features[:], columns.presence[:] = values, 2
    columns.targets[:, 1] = 7
    del columns
    data = (tmp_path / PANEL).read_bytes()
    batch = pa.ipc.open_file(pa.BufferReader(data)).get_batch(0)
    batch.validate(full=True)
    assert batch.schema.field("features").type.list_size == width
    assert str(batch.schema.field("features").type.value_type) == {"float16": "halffloat", "float32": "float"}[dtype]
    assert batch.schema.field("targets").type == pa.list_(pa.field("item", pa.float32(), nullable=False), 2)
    found = np.array(batch.column("features").flatten()).reshape(-1, width)[:rows]
    np.testing.assert_array_equal(found, values)
    assert data.find(values.tobytes()) % 64 == 0
    targets = np.array(batch.column("targets").flatten()).reshape(-1, 2)
    np.testing.assert_array_equal(targets[:rows], [[np.nan, 7]] * rows)
    assert np.array(batch.column("presence")).tolist() == [2] * rows + [0] * (batch.num_rows - rows)
    assert batch.num_rows % 64 == 0


@pytest.fixture
def cache(tmp_path):
    """A cache in many small chunks."""
    folder = tmp_path / "cache"
    manifest = write_panel(folder).manifest
    manifest.chunk_bytes = 4096
    write_manifest(folder, manifest)
    return folder


def test_verify_names_the_chunk_of_a_flipped_byte(cache):
    verify(cache)
    size = (cache / PANEL).stat().st_size
    for position in (0, 4095, 4096, 20_000, size // 2, size - 1):
        with (cache / PANEL).open("r+b") as file:
            file.seek(position)
            byte = file.read(1)[0]
            file.seek(position)
            file.write(bytes([byte ^ 0x10]))
        with pytest.raises(InputError, match=rf"chunk {position // 4096} .bytes {position // 4096 * 4096}[.][.]"):
            verify(cache)
        with (cache / PANEL).open("r+b") as file:
            file.seek(position)
            file.write(bytes([byte]))
    verify(cache)


def test_verify_names_several_chunks(cache):
    with (cache / PANEL).open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xaa" * 4096 * 8)
    with pytest.raises(InputError, match=r"chunk 3 .*chunk 4 .*and 3 more"):
        verify(cache)


@pytest.mark.parametrize("keep", [0, 100, 5000, -1])
def test_a_file_cut_short(cache, keep):
    size = (cache / PANEL).stat().st_size
    os.truncate(cache / PANEL, keep if keep >= 0 else size + keep)
    with pytest.raises(InputError, match=PANEL):
        open_columns(cache, read_manifest(cache))
    with pytest.raises(InputError, match="chunk"):
        verify(cache)
    (cache / PANEL).unlink()
    with pytest.raises(InputError, match="missing"):
        verify(cache)


def changed(cache, **values):
    content = json.loads((cache / MANIFEST).read_text())
    (cache / MANIFEST).write_text(json.dumps(content | values))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"format_version": 0}, "format version 0"),
        ({"features": ["a"]}, "altered"),
        ({"codes": []}, "altered"),
        ({"days": [10**6] * 40}, "altered"),
        ({"surprise": 1}, "surprise"),
        ({"cache_id": "0"}, "altered"),
    ],
)
def test_a_manifest_that_was_altered(cache, values, words):
    changed(cache, **values)
    with pytest.raises(InputError, match=words):
        read_manifest(cache)


def test_manifests_that_cannot_be_read(cache, tmp_path):
    with pytest.raises(InputError, match="no cache here"):
        read_manifest(tmp_path / "nowhere")
    for text in ("", "{", "[]", '"x"'):
        (cache / MANIFEST).write_text(text)
        with pytest.raises(InputError, match=r"manifest\.json"):
            read_manifest(cache)


def test_a_panel_of_another_shape_or_type_is_refused(cache):
    manifest = read_manifest(cache)
    original = (cache / PANEL).read_bytes()
    for rows, width, horizons, dtype in (
        (manifest.rows, 4, 2, "float32"),
        (manifest.rows, 5, 1, "float32"),
        (manifest.rows, 5, 2, "float16"),
        (manifest.rows - 640, 5, 2, "float32"),
    ):
        create_columns(cache, [rows], width, horizons, dtype)
        with pytest.raises(InputError, match="manifest says"):
            open_columns(cache, manifest)
    (cache / PANEL).write_bytes(original)
    open_columns(cache, manifest)


def test_verify_compares_the_batches_with_those_that_arrow_finds(cache):
    """Offsets that lie inside the file, and are not where Arrow's metadata says."""
    manifest = read_manifest(cache)
    for buffer in ("features", "targets", "presence"):
        setattr(manifest.batches[0], buffer, getattr(manifest.batches[0], buffer) + 64)
    write_manifest(cache, manifest)
    with pytest.raises(InputError, match="batches are not where the manifest says"):
        verify(cache)


def test_metadata_of_arrow_that_is_damaged_in_spite_of_its_checksums_is_refused(cache):
    """A bit of every byte before the first buffer, and of the end that Arrow parses, one at a time."""
    manifest, path = read_manifest(cache), cache / PANEL
    sound, refused, first = path.read_bytes(), 0, manifest.batches[0]
    head = min(first.features, first.targets, first.presence)
    assert head > 680
    for place in (*range(head), *range(len(sound) - 640, len(sound))):
        content = bytearray(sound)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        manifest.checksums = chunk_checksums(path, manifest.chunk_bytes)
        manifest.cache_id = manifest_id(manifest)
        (cache / "manifest.json").write_text(manifest.model_dump_json())
        try:
            verify(cache)
        except InputError:
            refused += 1
    assert refused > 200


@pytest.mark.parametrize("limit", [2_000, 20_000, 2**31 - 1])
def test_batches_hold_whole_codes_and_no_more_than_the_limit(tmp_path, monkeypatch, limit):
    """What plain Arrow reads, batch by batch, is what was written by row number."""
    monkeypatch.setattr(columns_module, "BATCH_ELEMENTS", limit)
    rng = np.random.default_rng(0)
    days, width = rng.integers(1, 200, 90), 7
    rows = int(days.sum())
    columns = create_columns(tmp_path, days, width, 2, "float32")
    features = rng.standard_normal((rows, width)).astype(np.float32)
    targets, presence = rng.standard_normal((rows, 2)).astype(np.float32), rng.integers(0, 3, rows).astype(np.uint8)
    order = rng.permutation(rows)
    for part in np.array_split(order, 5):
        columns.features[part], columns.targets[part], columns.presence[part] = (
            features[part],
            targets[part],
            presence[part],
        )
    for start in range(0, rows, 997):  # slices, within a batch and across
        piece = slice(start, start + 997)
        np.testing.assert_array_equal(columns.features[piece], features[piece])
        np.testing.assert_array_equal(columns.features[piece, 2], features[piece, 2])
    ends = np.cumsum(days).tolist()
    with pa.OSFile(str(tmp_path / PANEL)) as file:
        reader = pa.ipc.open_file(file)
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
    assert len(batches) == len(columns.batches)
    start = 0
    for batch, layout in zip(batches, columns.batches, strict=True):
        batch.validate(full=True)
        n = layout.rows
        assert start + n in ends
        assert n * width <= limit
        found = np.array(batch.column("features").flatten()).reshape(-1, width)
        np.testing.assert_array_equal(found[:n], features[start : start + n])
        assert not found[n:].any()
        found = np.array(batch.column("targets").flatten()).reshape(-1, 2)
        np.testing.assert_array_equal(found[:n], targets[start : start + n])
        np.testing.assert_array_equal(np.array(batch.column("presence"))[:n], presence[start : start + n])
        assert not np.array(batch.column("presence"))[n:].any()
        start += n
    assert start == rows
    if limit < 2**31 - 1:
        assert len(batches) >= rows * width // limit


def test_a_code_beyond_a_batch_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(columns_module, "BATCH_ELEMENTS", 2_000)
    with pytest.raises(InputError, match="a code has 300 rows of 7 values"):
        create_columns(tmp_path, [10, 300], 7, 2, "float32")


def test_a_write_that_fails_leaves_nothing(tmp_path):
    """A limit on the size of files stands in for a full disk: the write fails in the same place."""
    program = """
import errno, resource, signal, sys
from pathlib import Path
from loaders.cache.simulation.simulate import simulate
from loaders.errors import WriteError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    simulate(Path(sys.argv[1]), 50, 300, 8, 0.05, 0, [1, 5], "float32")
except WriteError as error:
    sys.exit(0 if error.__cause__.errno == errno.EFBIG else 3)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "cache")], check=False)
    assert done.returncode == 0
    assert not list(tmp_path.iterdir())
