"""Prefetched blocks are the gathered ones, in order, for as long as they live; every way to stop leaves nothing."""

import gc
import threading
import time

import numpy as np
import psutil
import pytest
import torch

from loaders.batch import Request, Stages
from loaders.gather import fill_block, gather
from loaders.plan import Plan
from loaders.split import Days
from loaders.tiers import prefetch
from loaders.tiers.prefetch import prefetched
from tests.panels import write_panel

CPU = torch.device("cpu")
PART, DAYS, CONTEXT = Days(10, 110), 8, 6


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    return write_panel(tmp_path_factory.mktemp("prefetch"), n_codes=40, n_days=120)


@pytest.fixture(scope="module")
def blocks(panel):
    return Plan(panel, PART, DAYS, 13, seed=0).epoch(0)


def open_loader(panel, blocks, **options):
    return prefetched(panel, Request(PART, blocks, DAYS, CONTEXT, **options), CPU)


@pytest.mark.parametrize("ahead", [1, 2, 7])
@pytest.mark.parametrize("slow", ["nobody", "consumer", "producer"])
def test_the_same_blocks_in_the_same_order(panel, blocks, ahead, slow, monkeypatch):
    if slow == "producer":
        monkeypatch.setattr(prefetch, "fill_block", lambda *a: (time.sleep(0.002), fill_block(*a))[1])
    with open_loader(panel, blocks, ahead=ahead, poison=True) as loader:
        seen = 0
        for loaded, block in zip(loader, blocks, strict=True):
            if slow == "consumer":
                time.sleep(0.002)
            expected = gather(panel, PART, block, DAYS, CONTEXT)
            np.testing.assert_array_equal(loaded.x.numpy(), expected.x)
            np.testing.assert_array_equal(loaded.presence.numpy(), expected.presence)
            np.testing.assert_array_equal(loaded.y.numpy(), expected.y)
            assert loaded.samples == expected.samples
            assert loaded.block is block
            seen += 1
        assert seen == len(blocks) > 20
    assert loader.stages.gather > 0


@pytest.mark.parametrize(
    ("stages", "bottleneck"),
    [
        (Stages(blocked=2, wait=1, gather=9), "consumer"),
        (Stages(blocked=1, wait=2, gather=4, copy=3), "gather"),
        (Stages(blocked=1, wait=2, gather=3, copy=4), "copy"),
    ],
)
def test_the_bottleneck_is_who_the_other_waits_for(stages, bottleneck):
    assert stages.bottleneck == bottleneck


def test_a_block_that_is_kept_too_long_is_poisoned(panel, blocks):
    with open_loader(
        panel, blocks[:4], ahead=2, poison=True
    ) as loader:  # as many slots as blocks: none is filled again
        kept = None
        for loaded in loader:
            assert torch.isfinite(loaded.x).all()
            if kept is not None:
                assert torch.isnan(kept.x).all()
            kept = loaded
    assert torch.isnan(kept.x).all()


def test_the_producer_is_held_back(panel, blocks, monkeypatch):
    formed = []
    monkeypatch.setattr(prefetch, "fill_block", lambda *a: (formed.append(1), fill_block(*a))[1])
    with open_loader(panel, blocks, ahead=2) as loader:
        iterator = iter(loader)
        next(iterator)
        while len(formed) < 4:  # ahead + 2 slots
            time.sleep(0.001)
        assert loader._free.empty()  # so none is filled again before the consumer moves on
        assert len(formed) == 4


class Broken(Exception):
    pass


def test_an_error_of_the_producer_reaches_the_consumer_at_its_block(panel, blocks, monkeypatch):
    def failing(panel, part, block, *rest):
        if block is blocks[5]:
            raise Broken("block 5")
        fill_block(panel, part, block, *rest)

    monkeypatch.setattr(prefetch, "fill_block", failing)
    seen = []

    def consume():
        with open_loader(panel, blocks) as loader:
            seen.extend(loaded.block for loaded in loader)

    with pytest.raises(Broken, match="block 5") as caught:
        consume()
    assert seen == blocks[:5]
    assert any(frame.name == "failing" for frame in caught.traceback)  # where it happened


def test_no_blocks(panel):
    with open_loader(panel, []) as loader:
        assert list(loader) == []


def test_a_thousand_starts_and_stops_leave_nothing(panel, blocks, monkeypatch):
    """Consumers that leave, fail or finish, and producers that fail, at random moments."""
    rng = np.random.default_rng(0)
    fail_at = None

    def sometimes(panel, part, block, *rest):
        if block is fail_at:
            raise Broken
        fill_block(panel, part, block, *rest)

    monkeypatch.setattr(prefetch, "fill_block", sometimes)
    process = psutil.Process()

    def once():
        nonlocal fail_at
        stop, kind = int(rng.integers(0, 8)), int(rng.integers(0, 4))
        fail_at = blocks[stop] if kind == 0 else None
        try:
            with open_loader(panel, blocks[:8], ahead=int(rng.integers(1, 4))) as loader:
                for i, _ in enumerate(loader):
                    if i == stop and kind == 1:
                        raise Broken
                    if i == stop and kind == 2:
                        return
        except Broken:
            pass

    for _ in range(100):
        once()
    gc.collect()
    threads, handles, memory = threading.active_count(), process.num_fds(), process.memory_info().rss
    for _ in range(1000):
        once()
    gc.collect()
    assert threading.active_count() == threads
    assert process.num_fds() == handles
    assert process.memory_info().rss - memory < 8 << 20


def test_two_loaders_at_once(panel, blocks):
    """Numba's thread pool takes one parallel region at a time."""
    with open_loader(panel, blocks) as one, open_loader(panel, blocks[::-1]) as other:
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a.x.numpy(), gather(panel, PART, a.block, DAYS, CONTEXT).x)
            np.testing.assert_array_equal(b.x.numpy(), gather(panel, PART, b.block, DAYS, CONTEXT).x)


def test_slots_are_all_that_is_allocated(panel, blocks):
    with open_loader(panel, blocks, ahead=2) as loader:
        addresses = {loaded.x.data_ptr() for loaded in loader}
    assert len(addresses) <= 4
