"""The gather against a loop over rows, at every edge; widening of float16 exact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders.batch import new_slot
from loaders.cache.columns import create_columns
from loaders.gather import fill_block, fill_windows, gather
from loaders.panel import open_panel
from loaders.plan import Block, Plan, count_samples
from loaders.split import Days
from tests.panels import write_panel


def by_loop(panel, part, block, days, context):
    span = days + context - 1
    x = np.zeros((len(block.codes), span, panel.features.shape[1]), np.float32)
    presence = np.zeros((len(block.codes), span), np.uint8)
    y = np.full((len(block.codes), days, panel.targets.shape[1]), np.nan, np.float32)
    for i, code in enumerate(block.codes):
        for t in range(span):
            day = block.day - context + 1 + t
            if not panel.first[code] <= day < panel.first[code] + panel.days[code]:
                continue
            row = panel.offset[code] + day - panel.first[code]
            x[i, t] = panel.features[row].astype(np.float32)
            presence[i, t] = panel.presence[row]
            if t >= context - 1 and part.start <= day < part.stop and panel.presence[row] == 2:
                y[i, t - context + 1] = panel.targets[row]
    return x, presence, y


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("days", "context"), [(8, 5), (1, 1), (3, 30), (40, 20)])
def test_against_a_loop(tmp_path, dtype, days, context):
    panel = write_panel(tmp_path, n_codes=20, n_days=60, dtype=dtype)
    part = Days(10, 50)
    blocks = [Block(day, np.arange(0, 20, step)) for day in (10 - days + 1, 10, 25, 49) for step in (1, 3)]
    blocks += Plan(panel, part, days, 7, seed=0).epoch(0)[:5]
    for block in blocks:
        batch = gather(panel, part, block, days, context)
        for found, expected in zip(
            (batch.x, batch.presence, batch.y), by_loop(panel, part, block, days, context), strict=True
        ):
            assert found.numpy().dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)
        assert batch.samples == np.isfinite(batch.y.numpy()).any(2).sum()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), context=st.integers(1, 12), half=st.booleans())
def test_windows_of_random_panels(tmp_path_factory, seed, context, half):
    """Late listings, gaps, one-row codes and last days; each window alone against rows looked up one by one."""
    rng = np.random.default_rng(seed)
    panel = write_panel(
        tmp_path_factory.mktemp("windows"), n_codes=int(rng.integers(1, 12)), n_days=int(rng.integers(2, 40)),
        n_features=int(rng.integers(1, 9)), horizons=[1, 5][: rng.integers(1, 3)], seed=seed,
        dtype="float16" if half else "float32",
    )  # fmt: skip
    n_days = len(panel.calendar)
    part = Days(*sorted(rng.choice(n_days + 1, 2, replace=False).tolist()))
    codes, day = rng.integers(0, len(panel.offset), 30), rng.integers(0, n_days, 30)
    day[:2] = n_days - 1
    found = new_slot(panel, 30, 1, context)
    fill_windows(panel, part, codes, day, context, found)
    for i in range(30):
        x, presence, y = by_loop(panel, part, Block(int(day[i]), codes[i : i + 1]), 1, context)
        np.testing.assert_array_equal(found.x[i], x[0])
        np.testing.assert_array_equal(found.presence[i], presence[0])
        np.testing.assert_array_equal(found.y[i], y[0])
    days = int(rng.integers(1, 20))
    block = Block(int(rng.integers(0, n_days)), np.arange(len(panel.offset)))
    batch = gather(panel, part, block, days, context)
    for array, expected in zip(
        (batch.x, batch.presence, batch.y), by_loop(panel, part, block, days, context), strict=True
    ):
        np.testing.assert_array_equal(array, expected)
    assert count_samples(panel, part, block, days) == batch.samples


def test_windows_of_a_block_are_its_rows(tmp_path):
    """A block says the same as its windows one by one, in a slot that is used again."""
    panel = write_panel(tmp_path, n_codes=20, n_days=60)
    part, slot = Days(10, 50), new_slot(panel, 7 * 8, 1, 5)
    for block in Plan(panel, part, 8, 7, seed=0).epoch(0)[:6]:
        batch = gather(panel, part, block, 8, 5)
        codes, day = np.repeat(block.codes, 8), np.tile(block.day + np.arange(8), len(block.codes))
        fill_windows(panel, part, codes, day, 5, slot)
        x = slot.x[: len(codes)].reshape(len(block.codes), 8, 5, -1)
        for d in range(8):
            np.testing.assert_array_equal(x[:, d], batch.x[:, d : d + 5])
        np.testing.assert_array_equal(slot.y[: len(codes)].reshape(batch.y.shape), batch.y)


def test_every_float16_widens_exactly(tmp_path):
    """All 65,536 bit patterns, subnormals, infinities and NaN included, as NumPy widens them."""
    panel = write_panel(tmp_path, n_codes=80, n_days=1100, n_features=1, dtype="float16")
    rows = panel.manifest.rows
    assert rows > 65536
    columns = create_columns(tmp_path, panel.days, 1, 2, "float16")
    columns.features[:65536, 0] = np.arange(65536, dtype=np.uint16).view(np.float16)
    columns.presence[:] = 2
    panel = open_panel(tmp_path)
    batch = gather(panel, Days(0, 1100), Block(0, np.arange(80)), 1100, 1)
    inside = np.concatenate([batch.x.numpy()[s, panel.first[s] : panel.first[s] + panel.days[s], 0] for s in range(80)])
    expected = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(inside[:65536], expected)


def test_context_and_absent_rows_have_no_label(tmp_path):
    panel = write_panel(tmp_path, n_codes=30, n_days=60)
    part = Days(0, 60)
    batch = gather(panel, part, Block(0, np.arange(30)), 60, 1)
    x, presence, y = (array.numpy() for array in (batch.x, batch.presence, batch.y))
    assert (presence == 1).sum() > 20
    assert np.isnan(y[presence != 2]).all()
    assert not x[presence == 0].any()
    assert np.isfinite(y[presence == 2]).mean() > 0.9


def test_a_slot_that_is_too_small_is_refused(tmp_path):
    panel = write_panel(tmp_path, n_codes=20, n_days=60)
    with pytest.raises(ValueError, match="20 runs do not fit into a slot of 19"):
        fill_block(panel, Days(0, 60), Block(0, np.arange(20)), 3, new_slot(panel, 19, 8, 3))
