"""The gather against a loop over rows, at every edge; widening of float16 exact."""

import numpy as np
import pytest

from loaders.cache.format import create_columns
from loaders.gather import gather
from loaders.panel import open_panel
from loaders.plan import Block, Plan
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
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)
        assert batch.samples == np.isfinite(batch.y).any(2).sum()


def test_every_float16_widens_exactly(tmp_path):
    """All 65,536 bit patterns, subnormals, infinities and NaN included, as NumPy widens them."""
    panel = write_panel(tmp_path, n_codes=80, n_days=1100, n_features=1, dtype="float16")
    rows = panel.manifest.rows
    assert rows > 65536
    columns = create_columns(tmp_path, rows, 1, 2, "float16")
    columns.features[:65536, 0] = np.arange(65536, dtype=np.uint16).view(np.float16)
    columns.presence[:] = 2
    panel = open_panel(tmp_path)
    batch = gather(panel, Days(0, 1100), Block(0, np.arange(80)), 1100, 1)
    inside = np.concatenate([batch.x[s, panel.first[s] : panel.first[s] + panel.days[s], 0] for s in range(80)])
    expected = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(inside[:65536], expected)


def test_context_and_absent_rows_have_no_label(tmp_path):
    panel = write_panel(tmp_path, n_codes=30, n_days=60)
    part = Days(0, 60)
    batch = gather(panel, part, Block(0, np.arange(30)), 60, 1)
    assert (batch.presence == 1).sum() > 20
    assert np.isnan(batch.y[batch.presence != 2]).all()
    assert not batch.x[batch.presence == 0].any()
    assert np.isfinite(batch.y[batch.presence == 2]).mean() > 0.9
