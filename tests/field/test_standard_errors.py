"""The t test of a mean RankIC: its size in markets that hold nothing, its power, and its parts against scipy."""

import math

import numpy as np
import pytest
from scipy import fft, stats

from engine.score.standard_error import degrees_of_freedom, mean_test, two_sided_p
from examples.standard_errors import market, newey_west_rejects, persistent_scores


@pytest.mark.parametrize("horizon", [1, 5, 10, 20])
@pytest.mark.parametrize("days", [120, 730])
def test_size_where_scores_persist(days, horizon):
    """5% +- 1.5 points, and 3 deviations (1.0) of 4,000 replications; Newey-West's with |t| > 1.96 is far beyond."""
    series = persistent_scores(np.random.default_rng(0), 4000, days, horizon)
    size = (mean_test(series, horizon).p < 0.05).mean()
    assert 0.025 < size < 0.075
    if horizon > 1:
        assert newey_west_rejects(series, horizon).mean() > 0.08


@pytest.mark.parametrize("share", [0.0, 0.98])
def test_size_through_the_metric(share):
    """RankICs of a simulated cross-section, 5 days ahead; 500 replications deviate by 1.0 point."""
    series = market(share)(np.random.default_rng(1), 500, 120, 5)
    assert 0.02 < (mean_test(series, 5).p < 0.05).mean() < 0.09


def test_it_finds_what_is_there():
    noise = persistent_scores(np.random.default_rng(2), 200, 730, 5)
    found = mean_test(noise + 1.0, 5)  # the mean of five days of noise deviates by 5 / sqrt(730) = 0.19
    assert np.median(found.se) == pytest.approx(5 / math.sqrt(730), rel=0.1)
    assert (found.p < 0.05).mean() > 0.98


@pytest.mark.parametrize(("days", "horizon"), [(3, 1), (47, 1), (120, 5), (500, 20), (730, 10)])
def test_one_series_by_scipy(days, horizon):
    x = np.random.default_rng(days).standard_normal(days) + 0.1
    degrees = max(min(int(0.4 * days ** (2 / 3)), days // (3 * horizon)), 1)
    se = math.sqrt(np.mean(fft.dct(x, norm="ortho")[1 : degrees + 1] ** 2) / days)
    found = mean_test(x, horizon)
    assert degrees_of_freedom(days, horizon) == degrees
    assert found.se == pytest.approx(se, rel=1e-9)
    assert found.t == pytest.approx(x.mean() / se, rel=1e-9)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(found.t), degrees), rel=1e-9)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 10, 31, 72])
def test_p_values_are_those_of_students_t(degrees):
    t = np.array([0.0, 0.1, 1.0, -2.0, 3.0, 5.0, 12.7, np.inf])
    np.testing.assert_allclose(two_sided_p(t, degrees), 2 * stats.t.sf(np.abs(t), degrees), atol=1e-14)


def test_no_test_of_few_days_or_of_a_constant():
    for series, horizon in (([], 1), ([0.1, 0.2], 1), (np.arange(59.0), 20), (np.full(100, 0.1), 5)):
        found = mean_test(series, horizon)
        assert math.isnan(found.t), series
        assert math.isnan(found.p), series
    assert math.isnan(mean_test([0.1, 0.2], 1).se)
    assert mean_test(np.full(100, 0.1), 5).se == 0
