"""The file on disk: readable by anyone, aligned, checked byte by byte, refused in one line where it is not whole."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from loaders.cache.format import (
    ABSENT,
    MANIFEST,
    PANEL,
    create_columns,
    open_columns,
    read_manifest,
    verify,
    write_manifest,
)
from loaders.errors import InputError
from tests.panels import write_panel


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("rows", [1, 63, 64, 1000])
@pytest.mark.parametrize("width", [1, 7, 82])
def test_plain_arrow_reads_it_and_every_buffer_is_aligned(tmp_path, dtype, rows, width):
    rng = np.random.default_rng(rows)
    columns = create_columns(tmp_path, rows, width, 2, dtype)
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
    for rows, width, horizons, dtype in (
        (manifest.rows, 4, 2, "float32"),
        (manifest.rows, 5, 3, "float32"),
        (manifest.rows, 5, 2, "float16"),
        (manifest.rows - 64, 5, 2, "float32"),
    ):
        create_columns(cache, rows, width, horizons, dtype)
        with pytest.raises(InputError, match="manifest says"):
            open_columns(cache, manifest)


def test_a_write_that_fails_leaves_nothing(tmp_path):
    """A limit on the size of files stands in for a full disk: the write fails in the same place."""
    program = """
import errno, resource, signal, sys
from pathlib import Path
from loaders.cache.simulation.simulate import simulate
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    simulate(Path(sys.argv[1]), 50, 300, 8, 0.05, 0, [1, 5], "float32")
except OSError as error:
    sys.exit(0 if error.errno == errno.EFBIG else 3)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "cache")], check=False)
    assert done.returncode == 0
    assert not list(tmp_path.iterdir())
