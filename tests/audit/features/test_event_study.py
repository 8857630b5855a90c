"""The event study, against sums by a plain loop."""

import numpy as np
import pytest

from engine.audit.features.event_study import _reaction, _smallest_jumps, _surprises, event_study
from engine.audit.features.extreme_moves import standardised
from tests.audit.faults.features import _filings_early, _filings_the_day_before
from tests.audit.samples import sample


def test_correlations_are_sums_over_jumps(tmp_path):
    found = sample(tmp_path)
    place = found.panel.manifest.features.index("value")
    smallest = _smallest_jumps(found)
    assert np.isfinite(smallest[place])
    assert np.isnan(smallest[found.panel.manifest.features.index("ret_1")])
    x = np.clip(standardised(found.label_returns), -6, 6).astype(np.float64)
    both = np.isfinite(x[1:]) & np.isfinite(x[:-1])
    slope = np.linalg.lstsq(x[:-1][both][:, None], x[1:][both], rcond=None)[0]
    returns = x - slope * np.nan_to_num(np.vstack([np.full((1, x.shape[1]), np.nan), x[:-1]]))
    reaction = _reaction(found, _surprises(found.label_returns), np.array([place]), smallest[[place]], range(1, 6))
    values = np.stack(list(found.on_days(np.arange(found.days))))[..., place]
    for k in (0, 3):
        pairs = [
            (values[t, s] - values[t - 1, s], returns[t + k, s])
            for t in range(1, found.days - k)
            for s in range(len(found.codes))
            if found.scored[t, s] and found.scored[t - 1, s] and np.isfinite(returns[t + k, s])
        ]
        jump, later = np.array([each for each in pairs if abs(each[0]) >= smallest[place]], np.float64).T
        expected = (jump * later).sum() / np.sqrt((jump**2).sum() * (later**2).sum())
        assert reaction.correlation[k, 0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("plant", [_filings_early, _filings_the_day_before])
def test_filings_that_are_stamped_early_are_caught(tmp_path, plant):
    found = event_study(sample(tmp_path, plant=lambda m: plant(m, 1.0, np.random.default_rng(0))))
    assert found.verdict == "failed"
    assert found.concerned[0].startswith("value ")


def test_drift_after_filings_passes(tmp_path):
    assert event_study(sample(tmp_path)).verdict == "passed"
