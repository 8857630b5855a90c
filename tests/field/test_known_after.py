"""Labels that begin at a later entry: nothing learns from them before they are known."""

import numpy as np
import pytest

from engine.config_file import load_config
from engine.inputs import make_split
from engine.score.online.features import online_slopes
from loaders.split import Days, gap_days
from tests.panels import rewritten, write_panel

PART = Days(60, 90)


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    return write_panel(tmp_path_factory.mktemp("known") / "cache", n_codes=60, n_days=120)


def known_later(panel, folder, days, **columns):
    """The same cache, its targets known `days` after t + h."""
    return rewritten(panel, folder, {"known_after": days}, **columns)


@pytest.mark.parametrize("most", [None, 3])
@pytest.mark.parametrize("later", [0, 1, 2])
@pytest.mark.parametrize(("i", "h"), [(0, 1), (1, 5)])
def test_the_online_regression_waits_for_the_entry(panel, tmp_path, i, h, later, most):
    """Targets of day 70 on change slopes from day 70 + h + later on, and on no day before."""
    day = np.concatenate([np.arange(f, f + n) for f, n in zip(panel.first, panel.days, strict=True)])
    targets = panel.targets.copy()
    targets[day >= 70, i] = np.random.default_rng(1).standard_normal((day >= 70).sum())
    before = online_slopes(known_later(panel, tmp_path / "a", later), PART, [], most)
    after = online_slopes(known_later(panel, tmp_path / "b", later, targets=targets), PART, [], most)
    known = 70 + h + later - PART.start
    np.testing.assert_array_equal(after[:known], before[:known])
    assert not np.allclose(after[known, :, i], before[known, :, i], atol=1e-3)


@pytest.mark.parametrize(("context", "horizons", "later", "gap"), [(1, [1], 1, 2), (20, [1, 5], 1, 19), (5, [5], 2, 7)])
def test_the_gap_between_parts_is_as_long_as_the_longest_label(context, horizons, later, gap):
    assert gap_days(context, horizons, later) == gap


def test_no_label_of_training_ends_inside_validation(panel, tmp_path):
    config = load_config(None, ["data.context=2"])
    for later in (0, 1, 2):
        split = make_split(config, known_later(panel, tmp_path / str(later), later))
        assert split.valid.start - (split.train.stop - 1) == 5 + later + 1  # labels of 5 days end the day before
