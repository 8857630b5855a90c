"""The rivals: ridge against least squares in NumPy, reversal by hand, trees; none of them sees a later part."""

import numpy as np
import pytest

from engine.rivals.fit import run_baseline
from engine.rivals.options import Options
from engine.rivals.ridge import PENALTIES
from engine.score.cross_section import ranks_within_day
from engine.score.metrics import daily_rank_ic
from engine.score.rows import present_rows
from loaders.cache.columns import create_columns
from loaders.errors import InputError
from loaders.panel import open_panel
from loaders.split import Days, Split
from tests.panels import write_panel

SPLIT = Split(Days(0, 90), Days(100, 130), Days(140, 180))


KINDS = ["ridge", "lightgbm", "xgboost", "catboost"]


def needs(kind):
    if kind != "ridge":
        pytest.importorskip(kind, reason=f"{kind} is not installed (extra `peers`)")


def panel_in(folder, **changes):
    return write_panel(folder, n_codes=60, n_days=180, n_features=6, **changes)


def samples(panel, part, horizon):
    rows, day, _ = present_rows(panel, part)
    keep = (panel.presence[rows] == 2) & np.isfinite(panel.targets[rows, horizon])
    return rows[keep], day[keep]


def test_ridge_against_least_squares(tmp_path):
    """Centred within the day and scaled, stacked with sqrt(n * penalty) rows, and solved by lstsq."""
    panel = panel_in(tmp_path)
    found = run_baseline(panel, SPLIT, "ridge")
    for horizon in (0, 1):
        rows, day = samples(panel, SPLIT.train, horizon)
        x = panel.features[rows].astype(np.float64)
        for d in np.unique(day):
            x[day == d] -= x[day == d].mean(0)
        scale = np.sqrt((x**2).mean(0))
        x /= scale
        y = ranks_within_day(panel.targets[rows, horizon], day)
        candidates = []
        for penalty in PENALTIES:
            stacked = np.vstack([x, np.sqrt(len(x) * penalty) * np.eye(x.shape[1])])
            solved = np.linalg.lstsq(stacked, np.concatenate([y, np.zeros(x.shape[1])]), rcond=None)[0]
            candidates.append(solved / scale)
        rows, day = samples(panel, SPLIT.valid, horizon)
        valid = [
            daily_rank_ic(panel.features[rows] @ c, panel.targets[rows, horizon], day)[1].mean() for c in candidates
        ]
        best = candidates[int(np.argmax(valid))]
        expected = panel.features[present_rows(panel, SPLIT.test)[0]].astype(np.float64) @ best
        np.testing.assert_allclose(found["test"][:, horizon], expected, rtol=1e-5, atol=1e-7)


def test_reversal_bets_against_the_feature(tmp_path):
    panel = panel_in(tmp_path)
    for feature in ("ret_1", "f3"):
        found = run_baseline(panel, SPLIT, "reversal", Options(feature))
        rows, _, _ = present_rows(panel, SPLIT.test)
        column = panel.manifest.features.index(feature)
        np.testing.assert_array_equal(found["test"], np.repeat(-panel.features[rows, column][:, None], 2, 1))
    with pytest.raises(InputError, match="nope"):
        run_baseline(panel, SPLIT, "reversal", Options("nope"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_never_sees_the_test_part(tmp_path, kind):
    """Other targets in the gap and the test part: the same scores. Other targets in training: others."""
    needs(kind)
    panel = panel_in(tmp_path, signal=1.0)
    before = run_baseline(panel, SPLIT, kind)
    targets = panel.targets.copy()
    day = np.arange(len(targets)) - np.repeat(panel.offset - panel.first, panel.days)

    def with_targets(changed):
        values, presence = panel.features.copy(), panel.presence.copy()
        columns = create_columns(tmp_path, panel.days, 6, 2, "float32")
        columns.features[:], columns.presence[:], columns.targets[:] = values, presence, changed
        return run_baseline(open_panel(tmp_path), SPLIT, kind)

    later = np.where((day >= SPLIT.valid.stop)[:, None], -targets * 3 + 1, targets)
    after = with_targets(later)
    for name in ("valid", "test"):
        np.testing.assert_array_equal(before[name], after[name])
    earlier = np.where((day < SPLIT.train.stop)[:, None], -targets, targets)
    assert not np.array_equal(before["test"], with_targets(earlier)["test"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_signal_is_found_and_noise_is_not(tmp_path, kind):
    needs(kind)
    for signal, low, high in ((1.0, 0.4, 0.75), (0.0, -0.1, 0.1)):
        panel = panel_in(tmp_path / str(signal), signal=signal)
        scores = run_baseline(panel, SPLIT, kind)["test"]
        rows, day, _ = present_rows(panel, SPLIT.test)
        keep = panel.presence[rows] == 2
        values = daily_rank_ic(scores[keep, 0], panel.targets[rows[keep], 0], day[keep])[1]
        assert low < values.mean() < high


def test_a_part_without_samples_is_refused(tmp_path):
    panel = panel_in(tmp_path)
    split = Split(SPLIT.train, SPLIT.valid, Days(179, 180))
    run_baseline(panel, split, "reversal")
    with pytest.raises(InputError, match="valid part"):
        run_baseline(panel, Split(SPLIT.train, Days(179, 180), Days(179, 180)), "ridge")
