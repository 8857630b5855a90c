"""A cache that was altered is found beside the training; one that changes in use stops the loader."""

import os
import threading

import numpy as np
import pytest

from loaders import verify
from loaders.batch import Request
from loaders.cache.format import chunk_checksums, read_manifest, write_manifest
from loaders.cache.format import verify as verify_cache
from loaders.cache.manifest.model import manifest_id
from loaders.errors import InputError
from loaders.panel import open_panel
from loaders.plan import Plan
from loaders.split import Days
from loaders.tiers.cores import Cores
from loaders.tiers.prefetch import prefetched
from loaders.verify import verifying
from tests.loaders.tiers.test_prefetch import CPU
from tests.panels import write_panel


@pytest.fixture
def cache(tmp_path):
    manifest = write_panel(tmp_path / "cache").manifest
    manifest.chunk_bytes = 4096
    write_manifest(tmp_path / "cache", manifest)
    return tmp_path / "cache"


@pytest.fixture(autouse=True, params=[1, 3])
def _threads(request, monkeypatch):
    """So many hash, whatever the machine."""
    monkeypatch.setattr(verify, "MOST_THREADS", request.param)
    monkeypatch.setattr(verify, "CORES_EACH", 1)
    monkeypatch.setattr(verify, "usable_cores", lambda: Cores((), 8, "told"))


def hashing():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("verify")]


def flip(folder, position):
    with (folder / "panel.arrow").open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))


def test_a_whole_cache_passes(cache):
    with verifying(open_panel(cache)) as verification:
        verification.wait()
        verification.raise_if_failed()
    assert not hashing()


def test_all_cores_hash_once_the_work_waits(cache, monkeypatch):
    panel = open_panel(cache)
    assert len(panel.manifest.checksums) >= 8
    real, met = verify.checksum_of, threading.Event()
    together = threading.Barrier(8, action=met.set)

    def meet(chunk):
        if not met.is_set():
            together.wait(30)
        return real(chunk)

    monkeypatch.setattr(verify, "checksum_of", meet)
    with verifying(panel) as verification:
        verification.wait()
    assert met.is_set()


@pytest.mark.parametrize("position", [5000, 20_000, -300])
def test_a_flipped_bit_is_named(cache, position):
    position %= (cache / "panel.arrow").stat().st_size
    flip(cache, position)
    chunk = position // 4096
    with (
        verifying(open_panel(cache)) as verification,
        pytest.raises(InputError, match=f"chunk {chunk} .bytes {chunk * 4096}[.]"),
    ):
        verification.wait()


def test_the_first_of_several_is_named(cache):
    for position in (9 * 4096, 4 * 4096, 6 * 4096):
        flip(cache, position)
    with verifying(open_panel(cache)) as verification, pytest.raises(InputError, match="chunk 4 "):
        verification.wait()
    assert not hashing()


def test_an_altered_index_of_rows_does_not_open(cache):
    content = bytearray((cache / "rows.npy").read_bytes())
    content[-20] ^= 1
    (cache / "rows.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"rows[.]npy: checksum differs in chunk 0"):
        open_panel(cache)


def test_an_index_of_other_rows_is_found_beside_the_work(cache):
    """Its checksum is right, so it opens."""
    manifest = read_manifest(cache)
    for row in range(2):  # of the present rows, and of the samples
        content = np.load(cache / "rows.npy")
        content[row, 0] ^= np.uint64(1 << 7)
        kept = (cache / "rows.npy").read_bytes()
        np.save(cache / "rows.npy", content)
        manifest.rows_checksums = chunk_checksums(cache / "rows.npy", manifest.chunk_bytes)
        manifest.cache_id = manifest_id(manifest)
        (cache / "manifest.json").write_text(manifest.model_dump_json())
        panel = open_panel(cache)
        with verifying(panel) as verification, pytest.raises(InputError, match=r"rows[.]npy: is not of the rows"):
            verification.wait()
        with pytest.raises(InputError, match=r"rows[.]npy: is not of the rows"):
            verify_cache(cache)
        (cache / "rows.npy").write_bytes(kept)


def test_leaving_early_ends_the_thread(cache, monkeypatch):
    panel = open_panel(cache)
    real = verify.checksum_of
    monkeypatch.setattr(verify, "checksum_of", lambda chunk: (threading.Event().wait(0.01), real(chunk))[1])
    with verifying(panel) as verification:
        pass
    assert verification.done.is_set()
    assert verification.error is None
    assert not hashing()


@pytest.mark.parametrize("change", ["truncate", "write"])
def test_a_file_that_changes_in_use_stops_the_loader(cache, change):
    panel = open_panel(cache)
    blocks = Plan(panel, Days(8, 110), 8, 12, seed=0).epoch(0)
    seen = 0

    def consume():
        nonlocal seen
        with prefetched(panel, Request(Days(8, 110), blocks, 8, 6, ahead=1), CPU) as loader:
            for _ in loader:
                seen += 1
                if seen == 3 and change == "write":
                    flip(cache, 5000)
                elif seen == 3:
                    os.truncate(cache / "panel.arrow", panel.files[0].opened.st_size - 100)  # inside the last page

    with pytest.raises(InputError, match="changed while in use") as caught:
        consume()
    assert 3 <= seen < len(blocks)
    assert "\n" not in str(caught.value)


def test_a_cache_that_is_replaced_in_use_keeps_its_old_rows(cache, tmp_path):
    panel = open_panel(cache)
    before = np.array(panel.features[:50])
    write_panel(tmp_path / "new", seed=9)
    os.replace(tmp_path / "new" / "panel.arrow", cache / "panel.arrow")
    panel.check_unchanged()
    np.testing.assert_array_equal(panel.features[:50], before)
