"""A missing label is never trained as zero; the day's cross-section is the unit; weights are what the config says."""

import numpy as np
import pytest
import torch

from engine.config import load_config
from engine.objective import objective
from kernels.rank_terms import TERMS

CONFIG = load_config(None, [f"objective.{term}=0.5" for term in TERMS])


def batch(seed=0, codes=40, days=6, horizons=2):
    rng = np.random.default_rng(seed)
    scores = torch.tensor(rng.normal(size=(codes, days, horizons)), dtype=torch.float32, requires_grad=True)
    quantiles = torch.tensor(rng.normal(size=(codes, days, horizons, 3)), dtype=torch.float32, requires_grad=True)
    returns = torch.tensor(rng.normal(size=(codes, days, horizons)) * 0.02, dtype=torch.float32)
    returns[rng.random((codes, days, horizons)) < 0.2] = torch.nan
    return scores, quantiles, returns


def test_missing_labels_get_no_gradient_and_others_do():
    scores, quantiles, returns = batch()
    loss, _ = objective(CONFIG, scores, quantiles, returns, 0)
    loss.backward()
    missing = ~torch.isfinite(returns)
    assert not scores.grad[missing].any()
    assert not quantiles.grad[missing].any()
    assert bool((scores.grad[~missing] != 0).all())


def test_removing_unlabelled_codes_changes_nothing():
    config = load_config(None, [])
    scores, quantiles, returns = batch()
    returns[:5] = torch.nan
    with_them, _ = objective(config, scores, quantiles, returns, 0)
    without, _ = objective(config, scores[5:], quantiles[5:], returns[5:], 0)
    assert float(with_them) == pytest.approx(float(without), rel=1e-5)


def test_loss_is_the_weighted_sum_of_its_terms():
    scores, quantiles, returns = batch()
    loss, terms = objective(CONFIG, scores, quantiles, returns, 0)
    assert set(terms) == set(TERMS)
    assert float(loss) == pytest.approx(sum(0.5 * float(v) for v in terms.values()), rel=1e-5)
    for term in ("rank_ic", "ic"):
        only = load_config(None, [f"objective.{t}={0.7 if t == term else 0}" for t in TERMS])
        single, found = objective(only, scores, quantiles, returns, 0)
        assert list(found) == [term]
        assert float(single) == pytest.approx(0.7 * float(terms[term]), rel=1e-5)


def test_days_are_separate_cross_sections_weighted_by_names():
    config = load_config(None, ["objective.sharpe=0", "objective.quantile=0", "objective.rank_ic=0"])
    scores, quantiles, returns = batch(horizons=1)
    returns[:20, 0] = torch.nan
    shifted = scores.detach() + torch.arange(6.0)[None, :, None]
    loss, _ = objective(config, shifted, quantiles, returns, 0)
    expected, names = 0.0, 0
    for day in range(6):
        valid = torch.isfinite(returns[:, day, 0])
        s = scores.detach()[valid, day, 0].numpy()
        rank = returns[valid, day, 0].numpy().argsort().argsort()
        expected += len(s) * (1 - np.corrcoef(s, rank)[0, 1])
        names += len(s)
    assert float(loss) == pytest.approx(0.3 * expected / names, rel=1e-4)


def test_a_block_without_labels_is_harmless():
    scores, quantiles, returns = batch()
    loss, _ = objective(CONFIG, scores, quantiles, torch.full_like(returns, torch.nan), 0)
    loss.backward()
    assert float(loss) == 0.0
    assert not scores.grad.any()
