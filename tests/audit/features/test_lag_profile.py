"""The profile of rank correlations, against scipy's Spearman day by day."""

import numpy as np
from scipy.stats import spearmanr

from engine.audit.features.lag_profile import LAGS, _profile, lag_profile
from tests.audit.faults.features import _centred_average, _label, _row_early
from tests.audit.market import Style
from tests.audit.samples import SMALL, sample


def test_correlations_are_those_of_scipy(tmp_path):
    found = sample(tmp_path)
    daily = _profile(found, 5)
    names = found.panel.manifest.features
    for t, k in ((100, 0), (150, 3), (200, -2)):
        values = next(found.on_days(np.array([t])))
        later = np.where(found.scored[t + k], found.targets[5][t + k], np.nan)
        both = found.scored[t] & np.isfinite(later)
        for f in range(len(names)):
            expected = spearmanr(values[both, f], later[both]).statistic
            # Stored ranks are those of the whole universe, also of codes without a later label.
            assert abs(daily[t, LAGS.index(k), f] - expected) < 0.02


def test_a_feature_that_is_the_label_fails(tmp_path):
    found = lag_profile(sample(tmp_path, plant=lambda m: _label(m, 0.0, np.random.default_rng(0))))
    assert found.verdict == "failed"
    assert found.concerned[0].startswith("score (h=1: +1.00")


def test_a_shifted_row_and_a_centred_window_fail(tmp_path):
    for i, plant in enumerate((_row_early, _centred_average)):
        found = lag_profile(sample(tmp_path / str(i), plant=lambda m, p=plant: p(m, 5, np.random.default_rng(0))))
        assert found.verdict == "failed"


def test_the_strongest_honest_signals_pass(tmp_path):
    strong = Style(codes=80, days=400, alpha=0.12)
    assert lag_profile(sample(tmp_path / "a", style=strong)).verdict == "passed"
    slow = Style(codes=80, days=400, alpha=0.08, persistence=0.99, horizons=(1, 20))
    assert lag_profile(sample(tmp_path / "b", style=slow)).verdict == "passed"
    assert lag_profile(sample(tmp_path / "c", style=SMALL)).verdict == "passed"
