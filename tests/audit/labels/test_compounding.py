"""Labels of two horizons, against scipy's Spearman and a product by hand."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from engine.audit.labels.compounding import OUTSIDE, _not_exact, _profile, compounding
from tests.audit.faults.labels import _dividends, _other_horizon, _shifted
from tests.audit.samples import sample


def test_the_profile_is_that_of_scipy(tmp_path):
    found = sample(tmp_path)
    for j in (-1, 0, 4):
        daily, counts = [], []
        for t in range(30, found.days - 10):
            a, b = found.targets[5][t], found.targets[1][t + j]
            both = np.isfinite(a) & np.isfinite(b)
            daily.append(spearmanr(a[both], b[both]).statistic)
            counts.append(both.sum())
        expected = np.average(daily, weights=counts)
        assert _profile(found, 1, 5)[j + OUTSIDE] == pytest.approx(expected, abs=0.01)  # a few more days at both ends


def test_labels_that_do_not_compound_are_counted(tmp_path):
    found = sample(tmp_path, plant=lambda m: _dividends(m, 1.0, np.random.default_rng(0)))
    y_1, y_5 = found.targets[1].astype(np.float64), found.targets[5]
    together = wrong = 0
    for t in range(found.days - 5):
        made = np.prod(1 + y_1[t : t + 5], 0) - 1
        both = np.isfinite(made) & np.isfinite(y_5[t])
        together += both.sum()
        wrong += (np.abs(made - y_5[t])[both] > 1e-5 + 1e-3 * np.abs(made[both])).sum()
    assert _not_exact(found, 1, 5)[0] == pytest.approx(wrong / together, abs=2e-4)  # extremes are left out
    assert compounding(found).verdict == "failed"


@pytest.mark.parametrize(
    "plant", [lambda m, rng: _shifted(1, (5,))(m, 0.1, rng), lambda m, rng: _other_horizon(m, 1, rng)]
)
def test_other_days_are_caught(tmp_path, plant):
    assert compounding(sample(tmp_path, plant=lambda m: plant(m, np.random.default_rng(0)))).verdict == "failed"


def test_returns_and_logarithms_pass(tmp_path):
    assert compounding(sample(tmp_path / "a")).verdict == "passed"
    logs = sample(tmp_path / "b", plant=lambda m: m.with_labels({h: np.log1p(y) for h, y in m.labels.items()}))
    assert compounding(logs).verdict == "passed"


def test_targets_of_another_kind_are_a_warning_at_most(tmp_path):
    rng = np.random.default_rng(0)
    other = sample(tmp_path, plant=lambda m: m.with_labels(m.labels | {5: rng.normal(size=m.scored.shape)}))
    assert compounding(other).verdict == "warned"
