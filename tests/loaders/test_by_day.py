"""Features day by day: those of the rows, however few bytes are read at a time, in memory or not."""

import numpy as np
import pytest

from loaders import by_day
from loaders.by_day import features_by_day
from loaders.cache import columns
from loaders.tiers import readahead
from tests.panels import write_panel


@pytest.fixture(scope="module", params=["one batch", "several"])
def panel(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "several":
            patch.setattr(columns, "BATCH_ELEMENTS", 4_000)
        return write_panel(tmp_path_factory.mktemp("by_day"), n_codes=30, n_days=90, dtype="float16")


@pytest.mark.parametrize("most_bytes", [1, 700, 5_000, 1 << 20])
@pytest.mark.parametrize("cold", [False, True])
def test_the_features_of_every_days_rows(panel, monkeypatch, most_bytes, cold):
    advised: list[tuple[int, int]] = []
    monkeypatch.setattr(by_day, "read_ahead", lambda panel: (cold, ""))
    monkeypatch.setattr(
        readahead,
        "_advise",
        lambda start, nbytes, page: advised.extend(zip(start.tolist(), nbytes.tolist(), strict=True)),
    )
    rng = np.random.default_rng(0)
    day = np.arange(panel.manifest.rows) - np.repeat(panel.offset - panel.first, panel.days)
    rows = rng.permutation(panel.manifest.rows)[: panel.manifest.rows // 2]
    rows = rows[np.argsort(day[rows], kind="stable")]
    borders = np.searchsorted(day[rows], np.arange(40, 91))  # some rows come before the first day asked for
    days = list(features_by_day(panel, rows, borders, most_bytes))
    assert len(days) == 50
    for i, features in enumerate(days):
        np.testing.assert_array_equal(features, panel.features[rows[borders[i] : borders[i + 1]]])
    if cold:  # exactly the bytes of these rows, each once
        row_bytes = 2 * panel.features.shape[1]
        found = {start + k for start, nbytes in advised for k in range(0, nbytes, row_bytes)}
        code = panel.code_of(mine := rows[borders[0] : borders[-1]])
        assert found == set((panel.address[0, code] + (mine - panel.offset[code]) * row_bytes).tolist())
        assert sum(nbytes for _, nbytes in advised) == len(mine) * row_bytes
    else:
        assert not advised


def test_a_day_without_rows_is_empty(panel):
    rows = np.arange(5, dtype=np.int64)
    days = list(features_by_day(panel, rows, np.array([0, 0, 2, 2, 5, 5])))
    assert [len(features) for features in days] == [0, 2, 0, 3, 0]
