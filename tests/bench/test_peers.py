"""The rivals: each is registered by its file and delivers the very values that ours delivers."""

import multiprocessing
from itertools import islice

import numpy as np
import pytest

from bench import peers
from bench.peers import _dataloader, missing_package, peer, peer_names
from bench.source import Work, fresh_blocks, write_source
from loaders.gather import gather
from loaders.plan import Block, Plan
from loaders.split import Days
from tests.panels import write_panel

DAYS, CONTEXT = 6, 5


@pytest.fixture(params=["float32", "float16"])
def work(request, tmp_path):
    """A part whose ends cut through blocks, on a panel with gaps, late listings and missing targets."""
    panel = write_panel(tmp_path / "cache", n_codes=23, n_days=50, dtype=request.param)
    return Work(panel, Days(9, 41), DAYS, 8, CONTEXT)


def blocks_of(work):
    return Plan(work.panel, work.part, work.days, work.codes, seed=1).epoch(0)


def assert_same(batch, expected):
    np.testing.assert_array_equal(batch.presence, expected.presence)
    np.testing.assert_array_equal(batch.x, expected.x)
    np.testing.assert_array_equal(batch.y, expected.y)  # NaN where NaN
    assert (batch.x.dtype, batch.y.dtype) == (np.float32, np.float32)


def test_every_file_is_a_rival():
    assert peer_names("gather") == ["memcpy", "spawn", "spawn_blocks"]
    assert peer_names("no such task") == []


@pytest.mark.parametrize("name", peer_names("gather"))
def test_rival_offers_what_the_registry_says(name):
    rival = peer(name)
    assert rival.BLOCKS >= 1
    assert callable(rival.build)
    assert callable(rival.run)
    assert missing_package(rival) is None


def test_rival_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(peers.spawn, "NEEDS", ("numpy", "no_such_package"))
    assert missing_package(peer("spawn")) == "no_such_package"


def test_definition_and_gather_agree(work):
    """The DataLoader's workers build an index of rows; the gather copies runs: two independent ways to the same."""
    blocks = blocks_of(work)
    assert min(block.day for block in blocks) < work.part.start or blocks[-1].day + DAYS > work.part.stop
    for block in blocks:
        assert_same(
            _dataloader.form(work.panel, work.part, block, DAYS, CONTEXT),
            gather(work.panel, work.part, block, DAYS, CONTEXT),
        )


@pytest.mark.parametrize("work", ["float16"], indirect=True)
def test_spawned_blocks_are_ours_on_every_pass(work):
    blocks, rival = blocks_of(work)[:6], peer("spawn_blocks")
    with rival.build(work) as state:
        for order in (blocks, blocks[::-1]):
            delivered = list(rival.run(state, order))
            assert len(delivered) == len(order)
            for batch, block in zip(delivered, order, strict=True):
                assert_same(batch, gather(work.panel, work.part, block, DAYS, CONTEXT))
    del state, delivered, batch
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("work", ["float16"], indirect=True)
def test_spawned_windows_are_our_blocks_day_by_day(work):
    blocks, rival = blocks_of(work)[:3], peer("spawn")
    with rival.build(work) as state:
        delivered = list(rival.run(state, blocks))
    days = [Block(block.day + d, block.codes) for block in blocks for d in range(DAYS)]
    for batch, day in zip(delivered, days, strict=True):
        assert batch.x.shape[1] == CONTEXT
        assert_same(batch, gather(work.panel, work.part, day, 1, CONTEXT))
    whole = gather(work.panel, work.part, blocks[0], DAYS, CONTEXT)
    for d in range(DAYS):
        np.testing.assert_array_equal(delivered[d].x, whole.x[:, d : d + CONTEXT])
        np.testing.assert_array_equal(delivered[d].y[:, 0], whole.y[:, d])


def test_memcpy_copies_as_many_bytes_as_a_block_holds(work):
    blocks, rival = blocks_of(work), peer("memcpy")
    source = work.panel.features.reshape(-1).view(np.uint8)
    offsets = []
    with rival.build(work) as state:
        for block, (offset, copied) in zip(blocks, rival.run(state, blocks), strict=True):
            batch = gather(work.panel, work.part, block, DAYS, CONTEXT)
            assert len(copied) == work.nbytes(block) == batch.x.nbytes + batch.presence.nbytes + batch.y.nbytes
            np.testing.assert_array_equal(copied, source[offset : offset + len(copied)])
            offsets.append(offset)
    assert len(set(offsets)) > len(offsets) // 2  # fresh places, not one again and again


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_source_is_random_and_blocks_are_fresh_and_full(tmp_path, dtype):
    panel = write_source(tmp_path, dtype, codes=20, days=60, features=4)
    assert abs(panel.features.astype(np.float64).mean()) < 0.1  # 4,800 values: 7 standard errors
    assert abs(panel.features.astype(np.float64).std() - 1) < 0.1
    work = Work(panel, Days(CONTEXT - 1, 60), DAYS, 8, CONTEXT)
    epoch = [block for block in blocks_of(work) if block.day >= work.part.start and block.day + DAYS <= 60]
    seen = set()
    for block in islice(fresh_blocks(work), len(epoch) - 3):  # an epoch has at least 8 whole stretches of 3 groups
        batch = gather(panel, work.part, block, DAYS, CONTEXT)
        assert batch.samples == work.samples(block)
        assert batch.presence.all()
        samples = {(block.day + d, code) for d in range(DAYS) for code in block.codes.tolist()}
        assert not samples & seen
        seen |= samples
