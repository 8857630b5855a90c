"""An opened cache: the row formula, and views on the file that copy nothing."""

import numpy as np
import pyarrow as pa
import pytest

from loaders.cache.format import PANEL
from tests.panels import write_panel


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    return write_panel(tmp_path_factory.mktemp("panel"), n_codes=13, n_days=50)


def test_views_are_the_file_and_read_only(panel):
    with pa.memory_map(str(panel.folder / PANEL)) as source:
        batch = pa.ipc.open_file(source).get_batch(0)
        rows = panel.manifest.rows
        stored = batch.column("features").flatten().to_numpy().reshape(batch.num_rows, -1)[:rows]
        np.testing.assert_array_equal(panel.features, stored)
        np.testing.assert_array_equal(panel.presence, batch.column("presence").to_numpy()[:rows])
    for array in (panel.features, panel.targets, panel.presence):
        assert not array.flags.owndata
        assert not array.flags.writeable
        assert array.ctypes.data % 64 == 0
    for array, tensor in zip((panel.features, panel.targets, panel.presence), panel.tensors(), strict=True):
        assert tensor.data_ptr() == array.ctypes.data
        assert tuple(tensor.shape) == array.shape


def test_rows_of_a_code_by_its_days(panel):
    for code in range(len(panel.offset)):
        rows = {panel.first[code] + d: panel.offset[code] + d for d in range(panel.days[code])}
        for start, stop in ((0, 50), (0, 1), (10, 20), (49, 50), (-5, 3), (45, 60), (20, 20)):
            found = panel.rows_of(code, start, stop)
            assert list(range(found.start, found.stop)) == [rows[d] for d in range(start, stop) if d in rows]


def test_codes_with_a_sample(panel):
    valid = (panel.presence == 2) & np.isfinite(panel.targets).any(1)
    for start, stop in ((0, 50), (0, 1), (10, 12), (30, 31), (49, 50)):
        expected = [code for code in range(len(panel.offset)) if valid[panel.rows_of(code, start, stop)].any()]
        assert panel.codes_with(panel.samples, start, stop).tolist() == expected
        present = [c for c in range(len(panel.offset)) if (panel.presence[panel.rows_of(c, start, stop)] > 0).any()]
        assert panel.codes_with(panel.present, start, stop).tolist() == present
