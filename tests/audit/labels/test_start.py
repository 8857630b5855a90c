"""Where labels begin, against scipy's Spearman."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from engine.audit.labels.start import start
from engine.audit.labels.windows import NEXT_OPEN, likeness, window_days, window_return
from tests.audit.faults.features import over_life
from tests.audit.faults.labels import _next_open, _shifted
from tests.audit.market import forward_returns
from tests.audit.samples import sample, with_manifest


def test_likeness_is_that_of_scipy(tmp_path):
    found = sample(tmp_path)
    days = window_days(found)
    window = window_return(found, days, NEXT_OPEN, 5)
    opened, close = found.bars["open"], found.bars["close"]
    daily = likeness(found.targets[5][days], window)
    for t in (100, 250):
        label, expected = found.targets[5][t], close[t + 5] / opened[t + 1] - 1
        both = np.isfinite(label) & np.isfinite(expected)
        assert daily[t] == pytest.approx(spearmanr(label[both], expected[both]).statistic, abs=1e-5)


@pytest.mark.parametrize("days", [1, -1])
@pytest.mark.parametrize(("share", "verdict"), [(1.0, "failed"), (0.02, "warned")])
def test_labels_that_begin_elsewhere_are_caught(tmp_path, days, share, verdict):
    found = start(sample(tmp_path, plant=lambda m: _shifted(days, (1, 5))(m, share, np.random.default_rng(3))))
    assert found.verdict == verdict


def test_what_begins_later_passes_where_the_manifest_says_so(tmp_path):
    late = sample(tmp_path, plant=lambda m: _shifted(1, (1, 5))(m, 1.0, np.random.default_rng(0)))
    assert start(with_manifest(late, known_after=1)).verdict == "passed"


def test_the_next_open_is_fine_unless_the_close_is_stated(tmp_path):
    found = sample(tmp_path, plant=lambda m: _next_open(m, 1.0, np.random.default_rng(0)))
    assert start(found).verdict == "failed"
    assert start(with_manifest(found, recipe={"name": "columns"})).verdict == "passed"


def test_residual_and_standardised_returns_pass(tmp_path):
    def plant(market):
        market_return = forward_returns(np.nancumsum(np.nan_to_num(market.returns) + 0, 0) + 100, [1, 5])
        scale = np.maximum(over_life(market.returns, "std"), 1e-3)
        made = {}
        for h, y in market.labels.items():
            known = np.isfinite(y)
            mean = np.where(known, y, 0).sum(1, keepdims=True) / np.maximum(known.sum(1, keepdims=True), 1)
            made[h] = (y - mean - 0.3 * market_return[h]) / scale
        return market.with_labels(made)

    assert start(sample(tmp_path, plant=plant)).verdict == "passed"
