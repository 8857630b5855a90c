"""The loaders among the peers: each is registered by its file and delivers exactly the values that ours delivers."""

import multiprocessing
from itertools import islice

import numpy as np
import pytest
import torch

from bench.peers import installed_peer, load_peer, missing_package, peer_names
from bench.workloads.arrays import form
from bench.workloads.loading import Loading, fresh_blocks, write_source
from loaders.gather import gather
from loaders.plan import Block, Plan
from loaders.split import Days
from tests.panels import write_panel

DAYS, CONTEXT = 6, 5
LIMIT = "memcpy"


def loaders_in(room):
    """The loaders in a folder of bench/peers: in "blocks" they deliver our blocks, in "windows" a batch per day."""
    found = [name for name in peer_names("gather") if load_peer(name).__name__.startswith(f"bench.peers.{room}.")]
    return [name for name in found if name != LIMIT]


BLOCK_PEERS, WINDOW_PEERS = loaders_in("blocks"), loaders_in("windows")


def with_dtypes(names):
    """Peer and stored dtype; for spawned workers, which take seconds to start, only the one that they must widen."""
    return [
        pytest.param(name, dtype, id=f"{name}-{dtype}")
        for name in names
        for dtype in (["float16"] if name.startswith("spawn") else ["float32", "float16"])
    ]


@pytest.fixture(params=["float32", "float16"])
def work(request, tmp_path):
    """A part whose ends cut through blocks, on a panel with gaps, late listings and missing targets."""
    panel = write_panel(tmp_path / "cache", n_codes=23, n_days=50, dtype=request.param)
    return Loading(panel, Days(9, 41), DAYS, 8, CONTEXT)


def blocks_of(work):
    return Plan(work.panel, work.part, work.days, work.codes, seed=1).epoch(0)


def assert_same(batch, expected):
    np.testing.assert_array_equal(batch.presence, expected.presence)
    np.testing.assert_array_equal(batch.x, expected.x)
    np.testing.assert_array_equal(batch.y, expected.y)  # NaN where NaN
    assert (batch.x.dtype, batch.y.dtype) == (torch.float32, torch.float32)


def test_every_file_is_a_peer():
    assert BLOCK_PEERS == ["spawn_blocks", "spdl_threads"]
    assert sorted([*BLOCK_PEERS, *WINDOW_PEERS, LIMIT]) == peer_names("gather")
    assert peer_names("gather") == [
        "hf_datasets", "inline", "inline_samples", "memcpy", "polars_scan", "qlib_sampler", "spawn", "spawn_blocks",
        "spawn_samples", "spdl_threads",
    ]  # fmt: skip
    assert peer_names("no such task") == []


@pytest.mark.parametrize("name", peer_names("gather"))
def test_peer_offers_what_the_registry_says(name):
    peer = load_peer(name)
    assert peer.BLOCKS >= 1
    assert callable(peer.build)
    assert callable(peer.run)
    assert missing_package(peer) in (None, "datasets", "qlib", "spdl")  # what no installation of ours brings


def test_peer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(load_peer("spawn"), "NEEDS", ("numpy", "no_such_package"))
    assert missing_package(load_peer("spawn")) == "no_such_package"


def test_definition_and_gather_agree(work):
    """The definition builds an index of rows, the gather copies runs: two independent ways to the same arrays."""
    blocks = blocks_of(work)
    assert min(block.day for block in blocks) < work.part.start or blocks[-1].day + DAYS > work.part.stop
    for block in blocks:
        assert_same(
            form(work.panel, work.part, block, DAYS, CONTEXT),
            gather(work.panel, work.part, block, DAYS, CONTEXT),
        )


@pytest.mark.parametrize(("name", "work"), with_dtypes(BLOCK_PEERS), indirect=["work"])
def test_peers_blocks_are_ours_on_every_pass(name, work):
    blocks, peer = blocks_of(work), installed_peer(name)
    with peer.build(work) as state:
        for order in (blocks, blocks[2::-1]):
            delivered = list(peer.run(state, order))
            assert len(delivered) == len(order)
            for batch, block in zip(delivered, order, strict=True):
                assert_same(batch, gather(work.panel, work.part, block, DAYS, CONTEXT))
    del state, delivered, batch
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("name", "work"), with_dtypes(WINDOW_PEERS), indirect=["work"])
def test_peers_windows_are_our_blocks_day_by_day_on_every_pass(name, work):
    blocks, peer = blocks_of(work), installed_peer(name)
    with peer.build(work) as state:
        for order in (blocks, blocks[2::-1]):
            delivered = list(peer.run(state, order))
            days = [Block(block.day + d, block.codes) for block in order for d in range(DAYS)]
            for batch, day in zip(delivered, days, strict=True):
                assert batch.x.shape == (len(day.codes), CONTEXT, work.panel.features.shape[1])
                assert batch.x.is_contiguous()
                assert_same(batch, gather(work.panel, work.part, day, 1, CONTEXT))
            whole = gather(work.panel, work.part, order[0], DAYS, CONTEXT)
            for d in range(DAYS):
                np.testing.assert_array_equal(delivered[d].x, whole.x[:, d : d + CONTEXT])
                np.testing.assert_array_equal(delivered[d].y[:, 0], whole.y[:, d])
    del state, delivered, batch
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("name", [name for name in WINDOW_PEERS if not name.startswith("spawn")])
def test_peers_are_ours_where_blocks_leave_the_calendar(name, tmp_path):
    """A part of all days: contexts begin before the first day of the calendar, blocks end after its last."""
    panel = write_panel(tmp_path / "cache", n_codes=23, n_days=50)
    work, peer = Loading(panel, Days(0, 50), DAYS, 8, CONTEXT), installed_peer(name)
    blocks = [Block(day, np.arange(3, 20)) for day in (1 - DAYS, 0, 49)]
    with peer.build(work) as state:
        delivered = list(peer.run(state, blocks))
    days = [Block(block.day + d, block.codes) for block in blocks for d in range(DAYS)]
    for batch, day in zip(delivered, days, strict=True):
        assert_same(batch, gather(panel, work.part, day, 1, CONTEXT))


def test_memcpy_copies_as_many_bytes_as_a_block_holds(work):
    blocks, peer = blocks_of(work), load_peer(LIMIT)
    source = work.panel.features.reshape(-1).view(np.uint8)
    offsets = []
    with peer.build(work) as state:
        for block, (offset, copied) in zip(blocks, peer.run(state, blocks), strict=True):
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
    work = Loading(panel, Days(CONTEXT - 1, 60), DAYS, 8, CONTEXT)
    epoch = [block for block in blocks_of(work) if block.day >= work.part.start and block.day + DAYS <= 60]
    seen = set()
    for block in islice(fresh_blocks(work), len(epoch) - 3):  # an epoch has at least 8 whole stretches of 3 groups
        batch = gather(panel, work.part, block, DAYS, CONTEXT)
        assert batch.samples == batch.y.isfinite().any(2).sum() == work.samples(block)
        assert batch.presence.all()
        samples = {(block.day + d, code) for d in range(DAYS) for code in block.codes.tolist()}
        assert not samples & seen
        seen |= samples
