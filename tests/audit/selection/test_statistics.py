"""The pure statistics against formulas in other words, brute force, scipy and `arch`, and published examples."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import integrate, stats

from engine.audit.selection.statistics.block_length import block_length
from engine.audit.selection.statistics.cscv import overfitting
from engine.audit.selection.statistics.largest_t import best_test, p_of_many, t_needed, upper_p
from engine.audit.selection.statistics.maximum import effective_count, expected_maximum
from engine.audit.selection.statistics.sharpe import (
    Returns,
    best_sharpe,
    deflated_sharpe,
    overlapping_returns,
    probabilistic_sharpe,
    returns_of,
)
from engine.audit.selection.statistics.stationary_bootstrap import long_run_variance, resampled_days, resampled_means
from engine.audit.selection.statistics.superior import superior_test
from engine.score.standard_error import degrees_of_freedom, mean_test
from tests.audit.selection.noise import TESTS, noise, p_values


@pytest.mark.parametrize("count", [5, 10, 46, 100, 1000])
def test_expected_maximum_by_integration(count):
    def density(x):
        return x * count * stats.norm.pdf(x) * stats.norm.cdf(x) ** (count - 1)

    exact = integrate.quad(density, -8, 12, points=[0, 2, 4])[0]
    assert expected_maximum(count) == pytest.approx(exact, rel=0.03)  # the formula is asymptotic
    assert expected_maximum(1) == 0


def test_effective_count_by_loop():
    x = noise(np.random.default_rng(0), 400, 7, 0.0, 0.4)
    pairs = [np.corrcoef(x[:, i], x[:, j])[0, 1] for i, j in combinations(range(7), 2)]
    assert effective_count(x) == pytest.approx(np.mean(pairs) + (1 - np.mean(pairs)) * 7)
    assert effective_count(np.repeat(x[:, :1], 9, 1)) == pytest.approx(1)
    assert effective_count(np.ones((5, 3))) == 3
    assert effective_count(x[:, :1]) == 1


def test_the_worked_example_of_bailey_and_lopez_de_prado():
    """2014, "A numerical example": annual 2.5 over 5 years of 250 days, skewness -3, kurtosis 10, variance 1/2 a year.

    Among 100 trials the ratio that luck reaches is 0.1132 a day, and the deflated ratio 0.9004; among 46 it is 0.9505.
    Of normal returns it is 0.9505 among 88.
    """
    returns, variance = Returns(2.5 / math.sqrt(250), -3.0, 10.0, 1250), 0.5 / 250
    assert math.sqrt(variance) * expected_maximum(100) == pytest.approx(0.1132, abs=5e-5)
    assert deflated_sharpe(returns, 100, variance) == pytest.approx(0.9004, abs=5e-5)
    assert deflated_sharpe(returns, 46, variance) == pytest.approx(0.9505, abs=5e-5)
    normal = returns._replace(skewness=0.0, kurtosis=3.0)
    assert deflated_sharpe(normal, 88, variance) == pytest.approx(0.9505, abs=5e-4)


def test_moments_by_scipy():
    x = np.random.default_rng(0).standard_t(5, 300) + 0.1
    found = returns_of(x)
    assert found.skewness == pytest.approx(stats.skew(x))
    assert found.kurtosis == pytest.approx(stats.kurtosis(x, fisher=False))
    assert found.sharpe == pytest.approx(stats.ttest_1samp(x, 0).statistic / math.sqrt(300))
    assert math.isnan(returns_of(np.ones(5)).sharpe)
    # Of normal moments at a ratio of 0 it is the test of the mean.
    flat = Returns(0.0, 0.0, 3.0, 300)
    assert probabilistic_sharpe(flat, 0.1) == pytest.approx(stats.norm.cdf(-0.1 * math.sqrt(299)))
    assert math.isnan(probabilistic_sharpe(Returns(3.0, 4.0, 1.0, 100), 0.0))  # a skewness that no such kurtosis allows


def test_ratios_of_overlapping_returns():
    x = np.convolve(np.random.default_rng(0).normal(0.1, 1, 506), np.ones(5), "valid")
    own = overlapping_returns(x, 5)
    phases = [x[i::5].mean() / x[i::5].std(ddof=1) for i in range(5)]
    assert own.sharpe == pytest.approx(np.mean(phases))
    assert own.observations <= len(x) / 5
    trend = np.cumsum(np.random.default_rng(1).normal(size=500))
    assert overlapping_returns(trend, 1).observations < 50
    assert best_sharpe(np.ones((50, 2)), 1, 2) is None
    both = best_sharpe(np.stack([x, x + 1], 1), 5, 2)
    assert (both.best, both.returns.sharpe > own.sharpe) == (1, True)


@pytest.mark.parametrize(("days", "models", "blocks"), [(64, 5, 4), (130, 3, 6), (96, 12, 8)])
def test_overfitting_by_loop(days, models, blocks):
    x = np.random.default_rng(days).normal(0.05, 1, (days, models))
    x[:, 2] = x[:, 1]  # ties
    parts = np.split(x[days % blocks :], blocks)
    low, lost, inside, outside = [], [], [], []
    for chosen in combinations(range(blocks), blocks // 2):
        within = np.concatenate([parts[i] for i in chosen]).mean(0)
        out = np.concatenate([parts[i] for i in range(blocks) if i not in chosen]).mean(0)
        best = int(np.argmax(within))
        share = stats.rankdata(np.round(out, 12))[best] / (models + 1)
        low.append(math.log(share / (1 - share)) <= 1e-12)
        lost.append(out[best] <= 0)
        inside.append(within[best])
        outside.append(out[best])
    found = overfitting(x, blocks)
    expected = (np.mean(low), np.mean(lost), np.mean(inside), np.mean(outside))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_overfitting_of_noise_and_of_skill():
    rng = np.random.default_rng(3)
    of_noise = [overfitting(rng.normal(size=(320, 20))).probability for _ in range(30)]
    assert np.mean(of_noise) == pytest.approx(0.5, abs=0.1)
    x = rng.normal(size=(320, 20))
    x[:, 7] += 0.5
    found = overfitting(x)
    assert (found.probability, found.loss) == (0, 0)
    equal = rng.normal(0.5, 1, (320, 20))
    assert (overfitting(equal).probability > 0.2, overfitting(equal).loss) == (True, 0)


def test_p_of_the_best_by_draws_of_the_test_itself():
    """The t of the best of correlated noise, from whole simulations with `mean_test`: no formula in common."""
    rng = np.random.default_rng(0)
    x = noise(rng, 300, 8, 0.0, 0.6)
    x[:, 3] += 0.11
    found = best_test(x, 1)
    factor = np.linalg.cholesky(np.corrcoef(x.T) + 1e-12 * np.eye(8)) * x.std(0)[:, None]
    drawn = []
    for _ in range(3000):
        y = rng.standard_normal((300, 8)) @ factor.T
        drawn.append(mean_test(y[:, y.mean(0).argmax()], 1).t)
    expected = np.mean(np.array(drawn) >= found.t)
    assert found.best == int(x.mean(0).argmax())
    assert 0.005 < expected < 0.5
    assert found.p == pytest.approx(expected, abs=4 * math.sqrt(expected / 3000))
    assert found.p > found.p_alone


def test_p_of_one_and_of_copies():
    x = noise(np.random.default_rng(5), 250, 1, 0.0, 0.0) + 0.1
    one = best_test(x, 1)
    test = mean_test(x[:, 0], 1)
    assert (one.t, one.p) == (pytest.approx(test.t), pytest.approx(test.p / 2))
    copies = best_test(np.repeat(x, 30, 1), 1)
    assert copies.p == pytest.approx(one.p, abs=0.01)  # thirty copies are one model
    assert best_test(-x, 1).p == pytest.approx(1 - one.p)


def test_tails_of_t_by_scipy():
    for t, degrees in ((2.5, 7), (-1.0, 12), (0.0, 3), (8.0, 30)):
        assert upper_p(t, degrees) == pytest.approx(stats.t.sf(t, degrees), rel=1e-9)
    assert p_of_many(0.01, 20) == pytest.approx(1 - 0.99**20)
    assert p_of_many(1.0, 3) == 1
    assert p_of_many(1e-18, 100) == pytest.approx(1e-16)
    assert t_needed(0.01, 1, 25) == pytest.approx(stats.t.isf(0.01, 25))
    assert t_needed(0.01, 30, 25) == pytest.approx(stats.t.isf(1 - 0.99 ** (1 / 30), 25))


def test_tests_of_series_that_do_not_vary():
    assert math.isnan(best_test(np.ones((100, 3)), 1).p)
    assert math.isnan(best_test(np.random.default_rng(0).normal(size=(4, 3)), 5).p)  # no degree of freedom
    some = np.concatenate([np.zeros((100, 1)), np.random.default_rng(0).normal(0.3, 1, (100, 1))], 1)
    assert best_test(some, 1).p < 0.05
    assert math.isnan(superior_test(np.ones((100, 3)), 1).superior)
    assert superior_test(some, 1).superior < 0.05


def test_days_of_the_stationary_bootstrap():
    days = resampled_days(50, 4.0, 4000, np.random.default_rng(0))
    assert days.min() == 0
    assert days.max() == 49
    follows = (days[:, 1:] - days[:, :-1]) % 50 == 1
    assert follows.mean() == pytest.approx(3 / 4 + 1 / 4 / 50, abs=0.005)
    assert np.bincount(days.ravel(), minlength=50) == pytest.approx(np.full(50, 4000), rel=0.1)


def test_variance_of_resampled_means():
    x = noise(np.random.default_rng(0), 120, 2, 0.4, 0.0)
    means = resampled_means(x, 5.0, 20_000, 0)
    assert means.mean(0) == pytest.approx(x.mean(0), abs=0.01)
    assert 120 * means.var(0) == pytest.approx(long_run_variance(x, 5.0), rel=0.05)


def test_variance_and_block_length_by_arch():
    bootstrap = pytest.importorskip("arch.bootstrap", reason="arch is not installed")
    rng = np.random.default_rng(1)
    for phi, days in ((0.0, 300), (0.3, 500), (0.7, 400), (-0.5, 256), (0.95, 200)):
        x = noise(rng, days, 1, phi, 0.0)
        expected = bootstrap.optimal_block_length(x[:, 0])["stationary"].item()
        assert block_length(x[:, 0]) == pytest.approx(max(expected, 1), rel=0.02)
        spa = bootstrap.SPA(np.zeros(days), -x, block_size=7)
        spa._compute_variance()
        assert long_run_variance(x, 7.0) == pytest.approx(spa._loss_diff_var)
    assert block_length(np.ones(100)) == 1


def test_reality_check_by_arch():
    """Its "upper" p without studentising is White's."""
    bootstrap = pytest.importorskip("arch.bootstrap", reason="arch is not installed")
    for seed in range(3):
        x = noise(np.random.default_rng(seed), 300, 6, 0.2, 0.3) + 0.05
        ours = superior_test(x, 1, 4000)
        spa = bootstrap.SPA(np.zeros(300), -x, block_size=round(ours.block), reps=2000, studentize=False, seed=seed)
        spa.compute()
        assert ours.reality_check == pytest.approx(spa.pvalues["upper"], abs=0.04)  # 3 errors of draws, another block


def test_bad_models_do_not_hide_a_good_one():
    rng = np.random.default_rng(2)
    good = rng.normal(0.13, 1, (400, 1))
    bad = rng.normal(-2, 3, (400, 50))
    both = superior_test(np.concatenate([good, bad], 1), 1)
    alone = superior_test(good, 1)
    assert both.superior == pytest.approx(alone.superior, abs=0.01)
    assert both.reality_check > 0.2  # what Hansen's test was made for


def test_sizes():
    """A test at 5% finds skill in about 5% of noise; the table in docs/audit.md is of 1,000 simulations each."""
    found = p_values("10 on 150 days", 200)
    for name, p in found.items():
        share, error = (p <= 0.05).mean(), math.sqrt(0.05 * 0.95 / 200)
        assert share < 0.05 + 3 * error, name
        assert name == "deflated Sharpe" or share > 0.05 - 3 * error, name  # which is stricter than its level
    assert set(found) == set(TESTS)


def test_degrees_are_those_of_the_mean_test():
    x = np.random.default_rng(0).normal(0.2, 1, (200, 1))
    found = best_test(x, 5)
    assert found.p == pytest.approx(stats.t.sf(found.t, degrees_of_freedom(200, 5)))
