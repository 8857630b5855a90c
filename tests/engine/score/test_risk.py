"""Risk factors of markets whose risk is known, and neutralisation against least squares."""

from itertools import count

import numpy as np
import pytest
import torch
from scipy import linalg

from engine.model.neutral import Neutral
from engine.score.risk import SHRINKAGE, Moments, _products, moments_of, risk_directions
from loaders.panel import Panel, open_panel
from loaders.split import Days
from tests.panels import rewritten, write_panel

PART = Days(10, 310)
KNOWN = np.array([3.0, -4.0, 0.0, 0.0, 0.0]) / 5  # a direction of the five features


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("risk") / "cache"
    write_panel(folder, n_codes=150, n_days=320)
    return folder


@pytest.fixture
def market(cache, tmp_path):
    """market(varying, steady): returns of a steady factor and of one that varies by day, along KNOWN, and noise."""
    numbers = count()
    return lambda varying, steady=0.0: write_market(cache, tmp_path / str(next(numbers)), varying, steady)


def write_market(cache, folder, varying: float, steady: float) -> Panel:
    panel, rng = open_panel(cache), np.random.default_rng(1)
    day = np.concatenate([np.arange(f, f + n) for f, n in zip(panel.first, panel.days, strict=True)])
    of_day = steady + varying * rng.standard_normal(len(panel.calendar))[day]
    along = np.asarray(panel.features, np.float64) @ KNOWN * of_day
    targets = along[:, None] + rng.standard_normal(panel.targets.shape)
    targets[~np.isfinite(panel.targets)] = np.nan
    return rewritten(panel, folder, targets=targets)


def test_the_factor_that_varies_is_found_and_no_other(market):
    found = risk_directions(moments_of(market(0.5, steady=0.3), PART), 3, [])
    assert found.shape == (5, 3)
    assert found.dtype == np.float32
    assert abs(found[:, 0] @ KNOWN) / np.linalg.norm(found[:, 0]) > 0.995
    assert not found[:, 1:].any()


def test_returns_that_are_steady_are_no_risk(market):
    for steady in (0.0, 0.3):
        assert not risk_directions(moments_of(market(0.0, steady), PART), 5, []).any()


def test_days_after_the_part_are_not_read(market, tmp_path):
    panel = market(0.5)
    late = np.concatenate([np.arange(f, f + n) for f, n in zip(panel.first, panel.days, strict=True)]) >= PART.stop
    expected = moments_of(panel, PART)
    assert late.any()
    targets = np.where(late[:, None], np.float32(1e6), panel.targets)
    found = moments_of(rewritten(panel, tmp_path / "late", targets=targets), PART)
    np.testing.assert_array_equal(found.returns, expected.returns)
    np.testing.assert_array_equal(found.features, expected.features)


def test_a_day_of_tensors_has_the_products_of_arrays():
    """Against NumPy's correlations; a constant feature has none."""
    rng = np.random.default_rng(5)
    x, ranks = rng.standard_normal((40, 6)) * 3 + 2, rng.standard_normal((40, 2))
    x[:, 4] = 7
    square, product = _products(x, ranks)
    by_tensors = _products(*map(torch.from_numpy, (x, ranks)))
    varied = [0, 1, 2, 3, 5]
    np.testing.assert_allclose(square[np.ix_(varied, varied)], np.corrcoef(x[:, varied].T), atol=1e-12)
    z = (x - x.mean(0))[:, varied] / x.std(0)[varied]
    np.testing.assert_allclose(product[varied], z.T @ ranks, atol=1e-12)
    assert not square[4].any()
    assert not product[4].any()
    for array, tensor in zip((square, product), by_tensors, strict=True):
        np.testing.assert_allclose(tensor, array, atol=1e-12)


def test_a_part_of_small_days_has_no_directions(tmp_path):
    panel = write_panel(tmp_path / "cache", n_codes=12, n_days=60)
    assert not risk_directions(moments_of(panel, Days(0, 60)), 5, []).any()


def test_directions_are_the_generalised_eigenvectors_of_scipy():
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, 40, 8))
    of_returns, features = a.T @ a, b.T @ b / 40
    found = risk_directions(Moments(of_returns, features, 0.0), 3, [])
    shrunk = (1 - SHRINKAGE) * features + SHRINKAGE * np.eye(8)
    _, vectors = linalg.eigh(of_returns, shrunk)
    for i in range(3):
        ours, theirs = found[:, i], vectors[:, -1 - i]
        np.testing.assert_allclose(ours * np.sign(ours @ theirs), theirs, atol=1e-5)


def test_features_can_be_left_out():
    rng = np.random.default_rng(3)
    a = rng.standard_normal((40, 6))
    found = risk_directions(Moments(a.T @ a, np.eye(6), 0.0), 9, [1, 4])
    assert found.shape == (6, 6)
    assert not found[[1, 4]].any()
    assert found[[0, 2, 3, 5], :4].any(0).all()
    assert not found[:, 4:].any()


def neutral(share: float, directions) -> Neutral:
    module = Neutral(*directions.shape, share)
    module.directions.copy_(torch.from_numpy(directions))
    return module


def day(seed: int = 0):
    """Scores [S, D, H], features [S, D, F], scored [S, D] and directions [F, R]."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((50, 4, 7)) * [1, 5, 0.1, 1, 1, 1, 0] + [0, 100, 0, 0, 3, 0, 2]  # the last is constant
    scores = rng.standard_normal((50, 4, 2)) + x[:, :, :1]
    scored = rng.random((50, 4)) < 0.7
    return [array.astype(np.float32) for array in (scores, x, scored, rng.standard_normal((7, 3)))]


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_share_of_the_least_squares_projection_is_removed(share):
    scores, x, scored, directions = day()
    found = neutral(share, directions)(*map(torch.from_numpy, (scores, x, scored))).numpy()
    for d in range(scores.shape[1]):
        among = scored[:, d] > 0
        values = x[:, d].astype(np.float64)
        spread = values[among].std(0)
        z = (values - values[among].mean(0)) / np.where(spread > 1e-4, spread, np.inf)
        risks = z @ directions
        for h in range(scores.shape[2]):
            y = scores[:, d, h].astype(np.float64)
            slopes, *_ = np.linalg.lstsq(risks[among], y[among] - y[among].mean(), rcond=None)
            np.testing.assert_allclose(found[:, d, h], y - share * risks @ slopes, atol=1e-4)
            if share == 1:
                correlations = np.corrcoef(found[among, d, h], risks[among].T)[0, 1:]
                np.testing.assert_allclose(correlations, 0, atol=1e-3)


def test_rows_that_are_not_scored_change_nothing():
    scores, x, scored, directions = day()
    expected = neutral(0.5, directions)(*map(torch.from_numpy, (scores, x, scored)))
    scores[scored == 0], x[scored == 0] = 50, -70
    found = neutral(0.5, directions)(*map(torch.from_numpy, (scores, x, scored)))
    counted = torch.from_numpy(scored) > 0
    torch.testing.assert_close(found[counted], expected[counted], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_days_with_fewer_rows_than_directions_stay_finite(rows):
    scores, x, scored, directions = day()
    scored[:] = 0
    scored[:rows] = 1
    assert torch.isfinite(neutral(0.3, directions)(*map(torch.from_numpy, (scores, x, scored)))).all()


def test_without_directions_or_share_scores_are_what_they_were():
    scores, x, scored, directions = map(torch.from_numpy, day())
    for module in (neutral(0.0, directions.numpy()), Neutral(7, 3, 0.3)):
        torch.testing.assert_close(module(scores, x, scored), scores, rtol=0, atol=0)
