"""Slots are cut from memory that stays: aligned, apart from one another, used again by the next load."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from loaders.batch import Request
from loaders.gather import gather
from loaders.plan import Plan
from loaders.split import Days
from loaders.tiers.choose import open_source
from loaders.tiers.slots import Pool, slot_bytes, slot_in
from tests.panels import write_panel

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    return write_panel(tmp_path_factory.mktemp("slots"), n_codes=40, n_days=120)


@pytest.mark.parametrize(("codes", "days", "context"), [(1, 1, 1), (7, 3, 2), (13, 8, 6)])
def test_arrays_lie_apart_on_lines(panel, codes, days, context):
    nbytes = slot_bytes(panel, codes, days, context)
    piece = torch.zeros(nbytes + 64, dtype=torch.uint8)
    slot = slot_in(piece, panel, codes, days, context)
    x, presence, y = slot.x, slot.presence, slot.y
    assert x.shape == (codes, days + context - 1, 5)
    assert presence.shape == (codes, days + context - 1)
    assert y.shape == (codes, days, 2)
    start = piece.data_ptr()
    taken = []
    for tensor in (x, presence, y):
        assert (tensor.data_ptr() - start) % 64 == 0
        taken.append((tensor.data_ptr() - start, tensor.data_ptr() - start + tensor.nbytes))
    taken.sort()
    assert all(end <= begin for (_, end), (begin, _) in pairwise(taken))
    assert taken[-1][1] <= nbytes


def test_pieces_come_back_and_small_ones_go():
    pool = Pool(locked=False)
    first = pool.take(100, 3)
    pool.give(first)
    again = pool.take(80, 2)
    assert all(any(piece is old for old in first) for piece in again)
    assert len(pool.free) == 1
    larger = pool.take(200, 2)
    assert all(len(piece) == 200 for piece in larger)
    assert pool.free == []
    pool.give(again + larger)
    assert len(pool.take(1, 5)) == 5


def test_loads_of_a_source_share_memory_and_two_at_once_do_not(panel):
    part = Days(10, 110)
    blocks, others = (Plan(panel, part, days, 13, seed=0).epoch(0)[:8] for days in (8, 16))

    def addresses(source, blocks, days):
        with source.load(Request(part, blocks, days, 6)) as loader:
            return {loaded.x.untyped_storage().data_ptr() for loaded in loader}

    with open_source(panel, CPU) as source:
        large = addresses(source, others, 16)
        assert addresses(source, blocks, 8) <= large
        assert addresses(source, others, 16) == large
        with source.load(Request(part, blocks, 8, 6)) as one, source.load(Request(part, others, 16, 6)) as other:
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a.x.numpy(), gather(panel, part, a.block, 8, 6).x)
                np.testing.assert_array_equal(b.x.numpy(), gather(panel, part, b.block, 16, 6).x)
