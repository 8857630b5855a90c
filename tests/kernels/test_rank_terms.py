"""The terms against float64, scipy and brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr

from kernels.rank_terms import FAR, TERMS, average_ranks, rank_terms, soft_ranks

LEVELS = (0.1, 0.5, 0.9)


def cross_sections(seed=0, horizons=2, days=3, names=17, missing=0.3, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    scores = torch.tensor(rng.normal(size=(horizons, days, names)), dtype=dtype)
    targets = torch.tensor(rng.integers(0, 9, (horizons, days, names)).astype(float), dtype=dtype)
    returns = torch.tensor(rng.normal(size=(horizons, days, names)), dtype=dtype)
    mask = torch.tensor(rng.random((horizons, days, names)) > missing)
    quantiles = torch.tensor(rng.normal(size=(horizons, days, names, len(LEVELS))), dtype=dtype)
    return scores, targets, returns, mask, quantiles


def all_terms(scores, targets, returns, mask, quantiles, terms=TERMS):
    return rank_terms(
        scores, targets, returns, mask, terms, quantiles=quantiles, levels=LEVELS, rotations=(1, 3, 5), tau=0.2
    )


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(0, 2**31))
def test_average_ranks_are_scipys(values, seed):
    value = np.array(values, float)
    mask = np.random.default_rng(seed).random(len(value)) < 0.7
    ours = average_ranks(torch.tensor(value)[None], torch.tensor(mask)[None].double())[0].numpy()
    assert np.array_equal(ours[mask], rankdata(value[mask]))
    assert not ours[~mask].any()


@given(st.integers(2, 60), st.floats(0.02, 3.0), st.integers(0, 2**31))
def test_soft_ranks_are_the_double_sum(n, tau, seed):
    rng = np.random.default_rng(seed)
    score, mask = rng.normal(size=n), rng.random(n) < 0.8
    difference = (score[:, None] - score[None, :]) / tau
    cdf = np.where(difference >= 0, 1 - np.exp(-np.abs(difference)) / 2, np.exp(-np.abs(difference)) / 2)
    expected = 0.5 + (cdf * mask[None, :]).sum(1)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        ours = soft_ranks(torch.tensor(score, dtype=dtype)[None], torch.tensor(mask)[None].to(dtype), tau)[0].numpy()
        np.testing.assert_allclose(ours[mask], expected[mask], rtol=tolerance, atol=tolerance)
        assert not ours[~mask].any()


def test_soft_ranks_become_ranks_as_tau_falls():
    score = torch.tensor(np.random.default_rng(1).normal(size=(1, 50)))
    ranks = soft_ranks(score, torch.ones_like(score), 1e-4)[0]
    np.testing.assert_allclose(ranks, rankdata(score[0]), atol=1e-6)


def test_ic_and_rank_ic_are_one_minus_the_correlation():
    scores, _, returns, mask, _ = cross_sections(names=200)
    terms = rank_terms(scores, returns, returns, mask, ("ic", "rank_ic"), tau=1e-3)
    for h in range(2):
        for g in range(3):
            s, r = scores[h, g][mask[h, g]].numpy(), returns[h, g][mask[h, g]].numpy()
            assert float(terms["ic"][h, g]) == pytest.approx(1 - np.corrcoef(s, r)[0, 1], abs=1e-5)
            assert float(terms["rank_ic"][h, g]) == pytest.approx(1 - spearmanr(s, r)[0], abs=1e-3)


def test_sharpe_spearman_huber_quantile_by_hand():
    scores, targets, returns, mask, quantiles = cross_sections(horizons=1, dtype=torch.float32)
    terms = all_terms(scores, targets, returns, mask, quantiles)
    daily = []
    for g in range(3):
        m = mask[0, g].numpy()
        s, r, t = (a[0, g].numpy()[m].astype(float) for a in (scores, returns, targets))
        z = (s - s.mean()) / s.std()
        daily.append((z / np.abs(z).sum() * r).sum())
        wanted = (t - t.mean()) / t.std()
        error = np.abs(s - wanted)
        huber = np.where(error < 1, error**2 / 2, error - 0.5).mean()
        assert float(terms["huber"][0, g]) == pytest.approx(huber, rel=1e-4)
        q = quantiles[0, g].numpy()[m]
        e = wanted[:, None] - q
        pinball = np.maximum(np.array(LEVELS) * e, (np.array(LEVELS) - 1) * e).mean()
        assert float(terms["quantile"][0, g]) == pytest.approx(pinball, rel=1e-4)
    assert float(terms["sharpe"][0, 0]) == pytest.approx(-np.mean(daily) / np.std(daily), rel=1e-3)


@pytest.mark.parametrize(("sign", "expected"), [(1, 0.0), (-1, 1.0)])
def test_spearman_term_spans_zero_to_one(sign, expected):
    target = torch.arange(50.0)[None, None]
    mask = torch.ones_like(target, dtype=torch.bool)
    value = rank_terms(sign * target, target, target, mask, ("spearman",), tau=1e-4)["spearman"]
    assert float(value) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("term", TERMS)
def test_gradient_is_finite_nonzero_and_lowers_the_term(term):
    scores, targets, returns, mask, quantiles = cross_sections(dtype=torch.float32)
    learned = quantiles if term == "quantile" else scores
    learned.requires_grad_(True)
    before = all_terms(scores, targets, returns, mask, quantiles, (term,))[term].sum()
    (gradient,) = torch.autograd.grad(before, learned)
    assert torch.isfinite(gradient).all()
    assert gradient[mask].abs().sum() > 0
    assert not gradient[~mask].any()
    moved = (learned - 1e-2 * gradient / gradient.norm()).detach()
    inputs = (
        (scores, targets, returns, mask, moved) if term == "quantile" else (moved, targets, returns, mask, quantiles)
    )
    after = all_terms(*inputs, (term,))[term].sum()
    assert float(after) < float(before)


@pytest.mark.parametrize("term", TERMS)
def test_gradient_is_the_finite_difference(term):
    scores, targets, returns, mask, quantiles = cross_sections(dtype=torch.float32)
    learned = quantiles if term == "quantile" else scores
    learned.requires_grad_(True)
    (gradient,) = torch.autograd.grad(
        all_terms(scores, targets, returns, mask, quantiles, (term,))[term].sum(), learned
    )
    direction = torch.tensor(np.random.default_rng(5).normal(size=learned.shape), dtype=torch.float32)
    direction = direction * (mask[..., None] if term == "quantile" else mask)
    direction = direction / direction.norm()
    step = 2e-2

    def at(amount):
        moved = (learned + amount * direction).detach()
        inputs = (
            (scores, targets, returns, mask, moved)
            if term == "quantile"
            else (moved, targets, returns, mask, quantiles)
        )
        return float(all_terms(*inputs, (term,))[term].double().sum())

    slope = (at(step) - at(-step)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=0.03, abs=2e-3)


@pytest.mark.parametrize("term", TERMS)
def test_what_lies_outside_the_mask_changes_nothing(term):
    scores, targets, returns, mask, quantiles = cross_sections(dtype=torch.float32)
    expected = all_terms(scores, targets, returns, mask, quantiles, (term,))[term]
    for poison in (torch.nan, torch.inf, FAR):
        spoiled = [torch.where(mask, a, poison) for a in (scores, targets, returns)]
        other = torch.where(mask[..., None], quantiles, poison)
        assert torch.equal(all_terms(*spoiled, mask, other, (term,))[term], expected)


@pytest.mark.parametrize("term", TERMS)
def test_empty_single_and_constant_cross_sections_stay_finite(term):
    scores, targets, returns, mask, quantiles = cross_sections(dtype=torch.float32)
    mask[0, 0] = False
    mask[0, 1] = False
    mask[0, 1, 2] = True
    targets[0, 2] = 1.0
    scores[1, 0] = 0.5
    scores.requires_grad_(True)
    value = all_terms(scores, targets, returns, mask, quantiles.requires_grad_(True), (term,))[term]
    assert torch.isfinite(value).all()
    gradients = torch.autograd.grad(value.sum(), (scores, quantiles), allow_unused=True)
    assert all(torch.isfinite(g).all() for g in gradients if g is not None)


def test_unknown_term_is_named():
    scores, targets, returns, mask, _ = cross_sections()
    with pytest.raises(ValueError, match="rankic"):
        rank_terms(scores, targets, returns, mask, ("rankic",))
