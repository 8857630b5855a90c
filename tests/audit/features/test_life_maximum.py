"""Scales of whole lives: the bound by scipy's binomial, and both looks."""

import numpy as np
import pytest
from scipy.stats import binom

from engine.audit.features.life_maximum import _attained_once, _binomial_tail, life_maximum
from tests.audit.faults.features import _last_of_life, _life_maximum, _power_of_life_maximum
from tests.audit.market import Style
from tests.audit.samples import sample

RAW = Style(codes=80, days=400, transform="none")


def test_the_bound_is_above_the_binomial_tail():
    for hits, n in ((20, 30), (40, 50), (100, 100), (60, 150)):
        exact = binom.sf(hits - 1, n, np.exp(-1))
        assert exact * (1 - 1e-9) <= _binomial_tail(hits, n) <= 30 * exact


def test_raw_values_over_their_maximum_fail(tmp_path):
    found = life_maximum(sample(tmp_path, style=RAW, plant=lambda m: _life_maximum(m, 1.0, np.random.default_rng(0))))
    assert found.verdict == "failed"
    assert any("level" in line for line in found.concerned)


@pytest.mark.parametrize("plant", [_power_of_life_maximum, _last_of_life])
def test_ranks_of_a_scale_of_lives_fail(tmp_path, plant):
    found = life_maximum(sample(tmp_path, plant=lambda m: plant(m, 1.0, np.random.default_rng(0))))
    assert found.verdict == "failed"
    assert found.concerned[0].startswith("level (as close over the")


def test_bounds_that_are_attained_now_and_then_pass():
    # Poisson(1): the mean at which most codes attain a bound once.
    count = np.random.default_rng(0).poisson(1.0, 400).astype(float)
    value, row = np.where(count > 0, 1.0, np.random.default_rng(1).random(400)), np.arange(1.0, 401)
    assert not _attained_once(np.stack([np.stack([value, count, row])] * 2), 1)[1]


@pytest.mark.parametrize("style", [RAW, Style(codes=80, days=400)])
def test_clean_passes(tmp_path, style):
    def plant(market):
        so_far = np.fmax.accumulate(market.bars["close"], 0)
        return market.with_feature("drawdown", market.bars["close"] / so_far)

    assert life_maximum(sample(tmp_path, style=style, plant=plant)).verdict == "passed"
