"""An opened cache: blocks against a loop over rows, what is kept stays valid, and the rows as a frame."""

import datetime
import threading
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch

from engine import InputError, Panel, open_panel
from loaders.cache.format import ABSENT, SCORED
from tests.panels import rewritten


@pytest.fixture(scope="module")
def panel(small_cache):
    return open_panel(small_cache)


def by_loop(panel, code, day):
    """Features, presence and targets of a code on a calendar index, read row by row; absent outside the span."""
    rows = panel.rows
    s = panel.codes.index(code)
    place = day - rows.first[s]
    if not 0 <= place < rows.days[s]:
        return np.zeros(len(panel.features)), ABSENT, np.full(len(panel.horizons), np.nan)
    row = rows.offset[s] + place
    kind = rows.presence[row]
    target = rows.targets[row] if kind == SCORED else np.full(len(panel.horizons), np.nan)
    return rows.features[row], kind, target


def check(panel, block, context):
    days = np.searchsorted(panel.dates, block.dates).tolist()
    assert (panel.dates[days] == block.dates).all()
    assert block.x.shape == (len(block.codes), len(days) + context - 1, len(panel.features))
    assert block.y.shape == (len(block.codes), len(days), len(panel.horizons))
    assert (block.x.dtype, block.presence.dtype, block.y.dtype) == (torch.float32, torch.uint8, torch.float32)
    for s, code in enumerate(block.codes[:7]):
        for t in range(len(days) + context - 1):
            x, kind, y = by_loop(panel, code, days[0] - context + 1 + t)
            np.testing.assert_array_equal(block.x[s, t], x)
            assert block.presence[s, t] == kind
            if t >= context - 1:
                np.testing.assert_array_equal(block.y[s, t - context + 1], y)


def keys(blocks):
    """(date, code) of every present row of the blocks, and of every sample."""
    present, samples = [], []
    for block in blocks:
        here = block.presence[:, -len(block.dates) :]
        for s, d in zip(*np.nonzero(here.numpy() != ABSENT), strict=True):
            present.append((block.dates[d], block.codes[s]))
        for s, d in zip(*np.nonzero(torch.isfinite(block.y).any(-1).numpy()), strict=True):
            samples.append((block.dates[d], block.codes[s]))
    return present, samples


def expected_keys(panel, first, last):
    frame = panel.to_polars(first, last)
    sample = frame.filter(pl.col("scored") & pl.any_horizontal(pl.col("^target_.*$").is_not_null()))
    return [[(np.datetime64(d), c) for d, c in f.select("date", "code").iter_rows()] for f in (frame, sample)]


def test_what_a_panel_says_of_itself(panel, small_cache):
    assert isinstance(panel, Panel)
    assert panel.folder == small_cache
    assert panel.features == ["ret_1", "f1", "f2", "f3", "f4"]
    assert panel.horizons == [1, 5]
    assert (len(panel.codes), len(panel.dates)) == (60, 160)
    assert panel.manifest.cache_id
    assert "60 codes, 160 days 2010-01-04..2010-08-13, 5 features, horizons 1, 5" in repr(panel)


@pytest.mark.parametrize(("days", "codes"), [(32, 25), (50, None), (160, 60), (7, 64)])
def test_blocks_in_order_hold_every_row_once(panel, days, codes):
    blocks = list(panel.blocks("2010-02-01", datetime.date(2010, 6, 30), days=days, codes=codes, context=8))
    present, samples = keys(blocks)
    expected = expected_keys(panel, "2010-02-01", "2010-06-30")
    assert sorted(present) == expected[0]
    assert sorted(samples) == expected[1]
    assert all(len(block.dates) <= days and len(block.codes) <= (codes or 60) for block in blocks)
    assert all(a.dates[0] <= b.dates[0] for a, b in pairwise(blocks))
    check(panel, blocks[0], 8)
    check(panel, blocks[-1], 8)


def test_shuffled_blocks_hold_every_sample_once(panel):
    first, again, other = (
        list(panel.blocks("2010-02-01", "2010-06-30", days=20, codes=16, context=5, shuffle_seed=seed))
        for seed in (3, 3, 4)
    )
    for blocks in (first, other):
        samples = keys(blocks)[1]
        assert len(samples) == len(set(samples))
        assert sorted(samples) == expected_keys(panel, "2010-02-01", "2010-06-30")[1]
    assert all(torch.equal(a.x, b.x) for a, b in zip(first, again, strict=True))
    assert [b.dates[0] for b in first] != [b.dates[0] for b in other]
    assert [b.dates[0] for b in first] != sorted(b.dates[0] for b in first)
    for block in first:
        check(panel, block, 5)


def test_what_is_kept_stays_valid_and_slots_do_not(panel):
    kept = list(panel.blocks(days=10, codes=10))
    slots = {block.x.data_ptr() for block in panel.blocks(days=10, codes=10, copy=False)}
    assert len({block.x.data_ptr() for block in kept}) == len(kept) > 50
    assert len(slots) <= 8
    for block, slot in zip(kept, panel.blocks(days=10, codes=10, copy=False), strict=True):
        assert torch.equal(block.x, slot.x)
        assert torch.equal(block.presence, slot.presence)
        torch.testing.assert_close(block.y, slot.y, equal_nan=True, rtol=0, atol=0)


def test_a_loop_may_be_left(panel):
    blocks = panel.blocks(days=2, codes=2)
    next(blocks)
    blocks.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_rows_as_a_frame(panel):
    frame = panel.to_polars("2010-03-01", np.datetime64("2010-03-31"))
    assert frame.columns == ["date", "code", "scored", *panel.features, "target_1", "target_5"]
    assert frame.dtypes == [pl.Date, pl.String, pl.Boolean, *[pl.Float32] * 7]
    assert frame.select("date", "code").equals(frame.select("date", "code").sort("date", "code"))
    days = [
        int(d)
        for d in np.flatnonzero(
            (panel.dates >= np.datetime64("2010-03-01")) & (panel.dates < np.datetime64("2010-04-01"))
        )
    ]
    found = [(d, code, *by_loop(panel, code, d)) for d in days for code in panel.codes]
    found = [each for each in found if each[3] != ABSENT]
    assert frame.height == len(found)
    np.testing.assert_array_equal(frame.select(panel.features).to_numpy(), np.stack([x for _, _, x, _, _ in found]))
    assert frame["scored"].to_list() == [kind == SCORED for _, _, _, kind, _ in found]
    scored = frame.filter("scored").select("target_1", "target_5")
    targets = np.stack([y for _, _, _, kind, y in found if kind == SCORED])
    np.testing.assert_array_equal(scored.to_numpy(), targets)
    assert 0 < scored["target_5"].null_count() == np.isnan(targets[:, 1]).sum()
    assert scored["target_5"].is_nan().sum() == 0
    plain = frame.to_pandas()
    assert plain.shape == frame.shape


def test_some_features_of_float16(panel, tmp_path):
    half = rewritten(panel.rows, tmp_path / "half", {"dtype": "float32"})
    frame = open_panel(half.folder).to_polars(features=["f3", "ret_*"])
    assert frame.columns == ["date", "code", "scored", "f3", "ret_1", "target_1", "target_5"]
    assert frame.select("f3", "ret_1").equals(panel.to_polars().select("f3", "ret_1"))
    assert panel.to_polars(features=[]).columns == ["date", "code", "scored", "target_1", "target_5"]
    assert panel.to_polars(features="f?").columns[3:7] == ["f1", "f2", "f3", "f4"]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda p: p.blocks("2011-01-01"), "no day from 2011-01-01 to 2010-08-13"),
        (lambda p: p.blocks("2010-03-01", "2010-02-01"), "no day from 2010-03-01"),
        (lambda p: p.blocks("soon"), "start=: 'soon' is not a date"),
        (lambda p: p.blocks(days=0), "days=: 0 is less than 1"),
        (lambda p: p.blocks(context=0), "context=: 0"),
        (lambda p: p.blocks("2010-08-13", shuffle_seed=0), "no sample"),
        (lambda p: p.to_polars(features="g*"), "features=: no column matches 'g\\*'"),
        (lambda p: open_panel(p.folder / "none"), "no cache here"),
    ],
)
def test_what_is_not_there_is_refused_by_name(panel, call, expected):
    with pytest.raises(InputError, match=expected) as refusal:
        call(panel)
    assert "--" not in str(refusal.value).replace("--arrow", "")
