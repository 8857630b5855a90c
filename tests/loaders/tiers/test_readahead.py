"""Reading ahead: when it is on, and that the rows it names are in memory afterwards."""

import gc
import os
import time

import numpy as np
import pytest

from loaders.batch import Request
from loaders.gather import gather
from loaders.panel import open_panel
from loaders.plan import Block
from loaders.split import Days
from loaders.tiers import readahead
from loaders.tiers.prefetch import prefetched
from loaders.tiers.readahead import advise, read_ahead, share_in_memory
from tests.loaders.tiers.test_prefetch import CPU
from tests.panels import write_panel


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readahead")
    write_panel(folder, n_codes=64, n_days=1000, n_features=256)  # 60 MB, more than a disk is asked for at once
    return folder


def forget(folder):
    """Drop the file from the page cache; skip where the file system keeps it."""
    gc.collect()  # pages that are mapped stay
    number = os.open(folder / "panel.arrow", os.O_RDONLY)
    for _ in range(3):  # pages just written may be on their way to the disk
        os.fsync(number)
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(number)
    panel = open_panel(folder)
    if share_in_memory(panel) > 0.5:
        pytest.skip("this file system keeps its pages")
    return panel


def test_on_for_a_cold_cache_and_off_once_it_is_in_memory(folder):
    panel = forget(folder)
    assert read_ahead(panel)[0]
    panel.features.sum()
    assert share_in_memory(panel) == 1
    on, why = read_ahead(panel)
    assert not on
    assert why == "100% of the rows in memory"


def test_on_for_a_cache_larger_than_memory(folder, monkeypatch):
    monkeypatch.setattr(readahead, "available_memory", lambda: 1 << 20)
    on, why = read_ahead(open_panel(folder))
    assert on
    assert "available" in why


def test_the_named_rows_are_read(folder):
    panel = forget(folder)
    block = Block(100, np.arange(0, 64, 2))
    advise(panel, block, 900, 50)
    deadline = time.monotonic() + 10
    while share_in_memory(panel) < 0.35 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert share_in_memory(panel) >= 0.35  # half of the codes, most of their days


def test_a_cold_cache_gives_the_same_blocks_and_counts_the_stage(folder):
    panel = forget(folder)
    blocks = [Block(day, np.arange(0, 64, 3)) for day in range(60, 900, 60)]
    part = Days(50, 1000)
    with prefetched(panel, Request(part, blocks, 60, 20), CPU) as loader:
        for loaded, block in zip(loader, blocks, strict=True):
            np.testing.assert_array_equal(loaded.x.numpy(), gather(panel, part, block, 60, 20).x)
    assert loader.stages.read > 0
    with prefetched(panel, Request(part, blocks, 60, 20), CPU) as loader:
        assert len(list(loader)) == len(blocks)
    if share_in_memory(panel) == 1:
        assert loader.stages.read == 0
