"""The terms in plain torch against scipy, brute force and difference quotients; in float64, as the oracle of others."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from scipy.stats import rankdata, spearmanr

from kernels.rank_terms import TERMS, rank_terms, weigh
from kernels.ranks import FAR, average_ranks, soft_ranks, standardise

LEVELS, ROTATIONS = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([1, 3, 5])


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
        scores, targets, returns, mask, terms, quantiles=quantiles, levels=LEVELS, rotations=ROTATIONS, tau=0.2,
        temperature=0.7,
    )  # fmt: skip


def by_section(terms, mask, *arrays):
    """The terms of every cross-section, and its valid values of the arrays in numpy."""
    for h, g in np.ndindex(*mask.shape[:2]):
        valid = mask[h, g].numpy()
        yield {name: float(value[h, g]) for name, value in terms.items()}, *(a[h, g].numpy()[valid] for a in arrays)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(0, 2**31))
def test_average_ranks_are_scipys(values, seed):
    value = np.array(values, float)
    mask = np.random.default_rng(seed).random(len(value)) < 0.7
    ours = average_ranks(torch.tensor(value)[None], torch.tensor(mask)[None].double())[0].numpy()
    assert np.array_equal(ours[mask], rankdata(value[mask]))
    assert not ours[~mask].any()


def test_standardised_values_are_those_of_numpy():
    scores, _, _, mask, _ = cross_sections()
    z = standardise(scores, mask.double())
    for h, g in np.ndindex(2, 3):
        valid, s = mask[h, g].numpy(), scores[h, g].numpy()
        np.testing.assert_allclose(z[h, g][valid], (s[valid] - s[valid].mean()) / s[valid].std())
        assert not z[h, g][~valid].any()
    assert not standardise(torch.full((1, 5), 3.0), torch.ones(1, 5)).any()


@given(st.integers(1, 60), st.floats(0.02, 3.0), st.booleans(), st.integers(0, 2**31))
def test_soft_ranks_are_the_double_sum(n, tau, tied, seed):
    rng = np.random.default_rng(seed)
    score, mask = rng.normal(size=n).round(0 if tied else 9), rng.random(n) < 0.8
    difference = (score[:, None] - score[None, :]) / tau
    cdf = np.where(difference >= 0, 1 - np.exp(-np.abs(difference)) / 2, np.exp(-np.abs(difference)) / 2)
    expected = 0.5 + (cdf * mask[None, :]).sum(1)
    # z / tau reaches 200, of which float64 keeps 3e-14 and float32 2e-5, times the ranks that a sum goes over.
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-3)):
        ours = soft_ranks(torch.tensor(score, dtype=dtype)[None], torch.tensor(mask)[None].to(dtype), tau)[0].numpy()
        np.testing.assert_allclose(ours[mask], expected[mask], rtol=tolerance, atol=tolerance)
        assert not ours[~mask].any()


def test_soft_ranks_become_ranks_as_tau_falls():
    score = torch.tensor(np.random.default_rng(1).normal(size=(1, 50)))
    ranks = soft_ranks(score, torch.ones_like(score), 1e-4)[0]
    np.testing.assert_allclose(ranks, rankdata(score[0]), atol=1e-6)


def test_ic_and_rank_ic_are_one_minus_the_correlation():
    scores, _, returns, mask, _ = cross_sections(names=200)
    terms = rank_terms(scores, returns, returns, mask, ("ic", "rank_ic"), tau=1e-8)
    for found, s, r in by_section(terms, mask, scores, returns):
        assert found["ic"] == pytest.approx(1 - np.corrcoef(s, r)[0, 1], abs=1e-9)
        assert found["rank_ic"] == pytest.approx(1 - spearmanr(s, r)[0], abs=1e-6)


def test_huber_quantile_spearman_and_listnet_by_hand():
    arrays = cross_sections()
    scores, targets, _, mask, quantiles = arrays
    terms = all_terms(*arrays, terms=("huber", "quantile", "spearman", "listnet"))
    levels = LEVELS.double().numpy()
    for found, s, t, q in by_section(terms, mask, scores, targets, quantiles):
        wanted = (t - t.mean()) / t.std()
        error = np.abs(s - wanted)
        assert found["huber"] == pytest.approx(np.where(error < 1, error**2 / 2, error - 0.5).mean(), rel=1e-9)
        e = wanted[:, None] - q
        assert found["quantile"] == pytest.approx(np.maximum(levels * e, (levels - 1) * e).mean(), rel=1e-6)
        z = (s - s.mean()) / s.std()
        u = (z[:, None] - z) / 0.2
        soft = 0.5 + np.where(u >= 0, 1 - np.exp(-np.abs(u)) / 2, np.exp(-np.abs(u)) / 2).sum(1)
        furthest = (np.arange(len(s)) - np.arange(len(s))[::-1]) ** 2
        distance = ((soft - rankdata(t)) ** 2).mean() / furthest.mean()
        assert found["spearman"] == pytest.approx(distance, rel=1e-9)
        assert found["listnet"] == pytest.approx(-(softmax(wanted / 0.7) * log_softmax(s)).sum(), rel=1e-9)


def test_pairwise_by_a_loop_over_pairs():
    scores, targets, returns, mask, _ = cross_sections(days=2)
    found = rank_terms(scores, targets, returns, mask, ("pairwise",), rotations=ROTATIONS)["pairwise"]
    for h, g in np.ndindex(2, 2):
        valid, s, t = (array[h, g].tolist() for array in (mask, scores, targets))
        std = np.std(np.array(s)[valid])
        losses = []
        for i in range(17):
            for j in ((i + shift) % 17 for shift in ROTATIONS.tolist()):
                if valid[i] and valid[j] and t[i] != t[j]:
                    apart = (s[i] - s[j]) / std * (1 if t[i] > t[j] else -1)
                    losses.append(math.log2(1 + math.exp(-apart)))
        assert float(found[h, g]) == pytest.approx(np.mean(losses), rel=1e-9)


def test_sharpe_by_hand():
    scores, targets, returns, mask, _ = cross_sections(days=4)
    mask[0, 1] = torch.arange(17) == 3  # a day of one name has no portfolio
    found = rank_terms(scores, targets, returns, mask, ("sharpe",))["sharpe"]
    assert found.shape == (2, 1)
    for h in range(2):
        daily = []
        for g in range(4):
            s, r = (array[h, g].numpy()[mask[h, g].numpy()] for array in (scores, returns))
            if len(s) > 1:
                daily.append(((s - s.mean()) * r).sum() / np.abs(s - s.mean()).sum())
        assert len(daily) == 4 - (h == 0)
        assert float(found[h, 0]) == pytest.approx(-np.mean(daily) / np.std(daily), rel=1e-9)


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
    assert after.item() < before.item()


@pytest.mark.parametrize("term", TERMS)
def test_gradient_passes_gradcheck(term):
    scores, targets, returns, mask, quantiles = cross_sections(names=8)

    def value(learned):
        inputs = (
            (scores, targets, returns, mask, learned)
            if term == "quantile"
            else (learned, targets, returns, mask, quantiles)
        )
        return all_terms(*inputs, (term,))[term]

    learned = quantiles if term == "quantile" else scores
    assert torch.autograd.gradcheck(value, learned.clone().requires_grad_())


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


@pytest.mark.parametrize("names", [20, 56, 61, 67, 111])
def test_float32_holds_the_gradient_of_rank_ic_at_constant_scores(names):
    """Equal soft ranks have no deviation but its floor, 1e-6: less than the rounding of their mean, a rank."""
    gradients = []
    for dtype in (torch.float32, torch.float64):
        scores, targets, returns, mask, _ = cross_sections(names=names, missing=0.0, dtype=dtype)
        scores = torch.full_like(scores, 0.5).requires_grad_()
        value = rank_terms(scores, targets, returns, mask, ("rank_ic",), tau=0.2)["rank_ic"]
        gradients.append(torch.autograd.grad(value.sum(), scores)[0].double())
    within = 1e-5 * float(gradients[1].abs().max())
    torch.testing.assert_close(*gradients, rtol=0, atol=within)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_float64_stays_float64_and_other_types_become_float32(dtype):
    arrays = cross_sections(dtype=dtype)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    exact = all_terms(*(array.double() if array.is_floating_point() else array for array in arrays))
    for name, value in all_terms(*arrays).items():
        assert value.dtype == expected, name
        # Sums of at most 17 float32 values; `sharpe` divides by what is left of them once their mean is taken out.
        tolerance = 0 if expected == torch.float64 else 1e-4
        np.testing.assert_allclose(value, exact[name], rtol=tolerance, atol=tolerance, err_msg=name)


def test_rotations_go_around_the_end_whatever_their_type():
    arrays = cross_sections()
    expected = rank_terms(*arrays[:4], ("pairwise",), rotations=ROTATIONS)["pairwise"]
    for rotations in (ROTATIONS.int(), ROTATIONS + 17, -ROTATIONS):
        found = rank_terms(*arrays[:4], ("pairwise",), rotations=rotations)["pairwise"]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_what_is_unknown_or_lacking_is_named():
    scores, targets, returns, mask, quantiles = cross_sections()
    with pytest.raises(ValueError, match="rankic"):
        rank_terms(scores, targets, returns, mask, ("rankic",))
    with pytest.raises(ValueError, match="quantile needs"):
        rank_terms(scores, targets, returns, mask, ("quantile",))
    with pytest.raises(ValueError, match="one per level"):
        rank_terms(scores, targets, returns, mask, ("quantile",), quantiles=quantiles, levels=LEVELS[:2])
    with pytest.raises(ValueError, match="pairwise needs rotations"):
        rank_terms(scores, targets, returns, mask, ("pairwise",))


def test_terms_are_weighed_by_names_and_horizons():
    arrays = cross_sections()
    mask = arrays[3]
    mask[0, 1] = torch.arange(17) == 3  # one name counts nothing
    mask[1, 2] = False
    values = all_terms(*arrays)
    weights = torch.arange(1.0, 9, dtype=torch.float64)
    loss, terms = weigh(values, mask, weights, torch.tensor([3.0, 1.0], dtype=torch.float64))
    names = mask.sum(-1).double().numpy() * [[1, 0, 1], [1, 1, 0]]
    for name, term in zip(TERMS, terms.tolist(), strict=True):
        if name == "sharpe":
            expected = np.average(values[name].numpy()[:, 0], weights=[3, 1])
        else:
            expected = np.average(values[name].numpy(), weights=names * [[3], [1]])
        assert term == pytest.approx(expected, rel=1e-12), name
    assert float(loss) == pytest.approx(float(weights @ terms), rel=1e-12)


def test_a_term_without_weight_is_nan_and_no_part_of_the_loss():
    scores, *others = cross_sections()
    scores.requires_grad_()
    values = all_terms(scores, *others)
    del values["pairwise"]
    values["listnet"] = values["listnet"] * torch.nan
    weights = torch.tensor([float(term in ("ic", "huber")) for term in TERMS])
    loss, terms = weigh(values, others[2], weights, torch.ones(2))
    assert not terms.requires_grad
    assert [term for term, value in zip(TERMS, terms.tolist(), strict=True) if value == value] == ["ic", "huber"]
    assert loss.item() == pytest.approx(float(terms.nansum()), rel=1e-6)
    assert weigh(values, others[2], weights + 1, torch.ones(2))[0].isnan()


def test_without_a_valid_entry_the_loss_is_nothing():
    *arrays, mask, quantiles = cross_sections()
    loss, terms = weigh(all_terms(*arrays, mask & False, quantiles), mask & False, torch.ones(8), torch.ones(2))
    assert float(loss) == 0
    assert not terms.any()
