"""The objective of every face against rank_terms in float64 and its terms' definitions, and what follows from them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import rankdata

from kernels.rank_terms import TERMS
from tests.kernels.faces import FACES, FAST, NUMBA, SIZES, block, evaluated, only, public_objective, reference, to_numpy
from tests.kernels.rank_objective.oracle import (
    by_hand,
    compare,
    cross_sections,
    daily_returns,
    pairwise_by_hand,
    small,
    standardised,
)

ORDERED = ("rank_ic", "ic", "spearman", "huber", "pairwise", "listnet")  # lower for the better order
NAMES = list(TERMS)
every_face = pytest.mark.parametrize("face", FACES, ids=str)
fast_faces = pytest.mark.parametrize("face", FAST, ids=str)
every_term = pytest.mark.parametrize("term", TERMS)


@pytest.mark.parametrize(("face", "n"), SIZES, ids=str)
def test_any_number_of_names(face, n):
    asked = block(n, days=2, names=n, missing=0.1 if n > 3 else 0.0, rotations=(1, 2, 7, 1999))
    compare(evaluated(face, asked), reference(asked), asked)


@every_face
@pytest.mark.parametrize("ranked", [True, False])
def test_horizons_have_weights(face, ranked):
    asked = block(1, horizons=2, days=2, horizon_weights=torch.tensor([1.0, 0.25]), ranked=ranked)
    compare(evaluated(face, asked), reference(asked), asked)


@every_face
def test_a_horizon_without_weight_counts_nothing(face):
    asked = block(2, horizons=2, days=2, horizon_weights=torch.tensor([0.0, 0.5]))
    found = evaluated(face, asked)
    compare(found, reference(asked), asked)
    second = [value[1:] for value in (asked.scores, asked.targets, asked.returns, asked.mask, asked.quantiles)]
    names = ("scores", "targets", "returns", "mask", "quantiles", "horizon_weights")
    alone = asked.but(**dict(zip(names, [*second, torch.ones(1)], strict=True)))
    np.testing.assert_allclose(found.terms, reference(alone).terms, rtol=0, atol=1e-5)
    assert not found.by_scores[0].any()
    assert not found.by_quantiles[0].any()


@every_face
@every_term
def test_a_term_alone(face, term):
    asked = block(3, days=2 if term == "sharpe" else 1, weights=only(term, weight=1.7), ranked=term != "huber")
    found = evaluated(face, asked)
    compare(found, reference(asked), asked)
    assert np.isnan(found.terms).sum() == len(TERMS) - 1
    assert found.loss == pytest.approx(1.7 * found.term(term), rel=1e-6)
    assert found.by_scores.any() == (term != "quantile")
    assert found.by_quantiles.any() == (term == "quantile")


@fast_faces
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.one_of(st.sampled_from([1, 2, 3]), st.integers(4, 150))),
    weights=st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.0, -0.3, 2.0]), min_size=len(TERMS), max_size=len(TERMS)),
    missing=st.sampled_from([0.0, 0.3, 0.9]),
    tau=st.floats(-1.5, 0.3).map(lambda power: 10**power),
    temperature=st.floats(0.2, 5.0),
    levels=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=5),
    shifts=st.integers(1, 20),
    score=st.sampled_from([(1.0, 0.0), (0.01, 0.0), (30.0, 0.0), (1.0, 5.0)]),
    ranked=st.booleans(),
)
def test_any_weights_settings_and_shapes(
    face, seed, shape, weights, missing, tau, temperature, levels, shifts, score, ranked
):
    horizons, days, names = shape
    random = torch.Generator().manual_seed(seed)
    asked = block(
        seed, horizons, days, names, missing, levels, torch.randperm(max(names - 1, 1), generator=random)[:shifts] + 1,
        weights=torch.tensor(weights), horizon_weights=torch.rand(horizons, generator=random) + 0.1,
        tau=torch.tensor(tau), temperature=torch.tensor(temperature), ranked=ranked,
    )  # fmt: skip
    asked = asked.but(scores=asked.scores * score[0] + score[1])
    compare(evaluated(face, asked), reference(asked), asked)


@every_face
@every_term
@pytest.mark.parametrize("ranked", [True, False])
def test_terms_are_their_definitions(face, term, ranked):
    asked, found = small(face, ranked)
    if term == "sharpe":
        (daily,) = daily_returns(asked)
        expected = -np.mean(daily) / np.std(daily)
    else:
        values, names = [], []
        for h, g, scores, targets, _, quantiles in cross_sections(asked):
            hand = by_hand(term, scores, targets, quantiles, asked) if term != "pairwise" else None
            values.append(pairwise_by_hand(asked, h, g) if hand is None else hand)
            names.append(len(scores))
        assert len(set(names)) > 1
        expected = np.average(values, weights=names)
    assert found.term(term) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@every_face
def test_loss_is_the_weighted_sum_of_terms(face):
    asked, found = small(face, True)
    assert found.loss == pytest.approx(found.terms @ to_numpy(asked.weights), rel=1e-6)


@fast_faces
def test_the_order_of_names_and_days_does_not_matter(face):
    asked = block(10, days=3, rotations=range(1, 20))
    names, days = torch.randperm(20), torch.randperm(3)
    arrays = ("scores", "targets", "returns", "mask", "quantiles")
    moved = asked.but(**{name: getattr(asked, name)[:, days][:, :, names] for name in arrays})
    ours, theirs = evaluated(face, asked), evaluated(face, moved)
    np.testing.assert_allclose(theirs.terms, ours.terms, rtol=1e-5)
    within = 1e-5 * np.abs(ours.by_scores).max()
    np.testing.assert_allclose(theirs.by_scores, ours.by_scores[:, days][:, :, names], rtol=0, atol=within)
    np.testing.assert_allclose(theirs.by_quantiles, ours.by_quantiles[:, days][:, :, names], rtol=0, atol=1e-7)


@fast_faces
@pytest.mark.parametrize("mapped", [torch.exp, lambda t: t**3, lambda t: 1e4 * t - 7, torch.arctan])
def test_ranked_only_the_order_of_targets_matters(face, mapped):
    asked = block(11)
    ours, theirs = evaluated(face, asked), evaluated(face, asked.but(targets=mapped(asked.targets)))
    for name, value in vars(ours).items():
        np.testing.assert_array_equal(getattr(theirs, name), value, err_msg=name)
    otherwise = evaluated(face, asked.but(ranked=False))
    assert {NAMES[i] for i in np.flatnonzero(np.abs(otherwise.terms - ours.terms) > 1e-3)} == {
        "ic", "huber", "quantile", "listnet",
    }  # fmt: skip


@fast_faces
def test_scale_and_offset_of_targets_never_matter(face):
    asked = block(12, ranked=False)
    ours, theirs = evaluated(face, asked), evaluated(face, asked.but(targets=8 * asked.targets - 2))
    np.testing.assert_allclose(theirs.terms, ours.terms, rtol=1e-5)
    np.testing.assert_allclose(theirs.by_scores, ours.by_scores, rtol=0, atol=1e-5 * np.abs(ours.by_scores).max())


@fast_faces
def test_scores_of_the_other_sign(face):
    asked = block(13, weights=only("rank_ic", "ic", "sharpe"))
    ours, theirs = evaluated(face, asked), evaluated(face, asked.but(scores=-asked.scores))
    for term in ("rank_ic", "ic"):
        assert theirs.term(term) == pytest.approx(2 - ours.term(term), rel=1e-5)
    assert theirs.term("sharpe") == pytest.approx(-ours.term("sharpe"), rel=1e-4)


@fast_faces
@pytest.mark.parametrize("ranked", [True, False])
def test_the_perfect_order_is_better_than_the_reversed_one(face, ranked):
    targets = torch.linspace(-1.7, 1.7, 40).repeat(1, 3, 1) + 0.01 * torch.randn(1, 3, 1)
    asked = block(14, days=3, names=40, missing=0.0, rotations=(1, 9, 20), targets=targets, ranked=ranked)
    asked = asked.but(returns=targets + 0.1 * torch.randn(1, 3, 40), weights=only(*ORDERED, "sharpe"))
    best, worst = (evaluated(face, asked.but(scores=sign * targets)) for sign in (1, -1))
    for term in (*ORDERED, "sharpe"):
        assert best.term(term) < worst.term(term) - 0.1
    for term, lowest, highest in (("rank_ic", 0, 2), ("ic", 0, 2), ("spearman", 0, 1)):
        assert best.term(term) == pytest.approx(lowest, abs=0.01)
        assert worst.term(term) == pytest.approx(highest, abs=0.04)


@fast_faces
@pytest.mark.parametrize("shifts", [63, 64, 65, 128, 149])
def test_any_number_of_rotations(face, shifts):
    asked = block(15, names=150, weights=only("pairwise"))
    random = torch.Generator().manual_seed(shifts)
    asked = asked.but(rotations=(torch.randperm(149, generator=random)[:shifts] + 1).int())
    compare(evaluated(face, asked), reference(asked), asked)


def test_pairs_far_apart_do_not_overflow():
    """The factors of 64 losses are multiplied before a logarithm is taken; equal scores give the largest, 2 each."""
    asked = block(16, days=1, names=150, missing=0.0, rotations=range(1, 150), weights=only("pairwise"))
    asked = asked.but(targets=torch.arange(150.0).reshape(1, 1, -1))
    equal = evaluated(NUMBA, asked.but(scores=torch.zeros(1, 1, 150)))
    assert equal.loss == pytest.approx(1.0, rel=1e-6)  # a bit a pair
    one_apart = torch.zeros(1, 1, 150)
    one_apart[..., 0] = 1.0  # 12 deviations above the others
    asked = asked.but(scores=one_apart)
    compare(evaluated(NUMBA, asked), reference(asked), asked)


def descended(term, learned="scores", steps=400):
    """Values of a term while Adam moves free scores or quantiles, and the block it ends with."""
    asked = block(17, days=3, names=30, missing=0.1, rotations=range(1, 30), weights=only(term))
    free = getattr(asked, learned).clone().requires_grad_()
    optimiser = torch.optim.Adam([free], 0.05)
    slower = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0, steps)
    values = []
    for _ in range(steps):
        loss, _ = public_objective(asked.but(**{learned: free}))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        slower.step()
        values.append(loss.item())
    return values, asked.but(**{learned: free.detach()})


@pytest.mark.parametrize(
    ("term", "bound"), [("rank_ic", 0.01), ("ic", 0.01), ("spearman", 0.01), ("huber", 0.001), ("quantile", 0.005)]
)
def test_descent_brings_a_term_near_zero(term, bound):
    values, _ = descended(term, "quantiles" if term == "quantile" else "scores")
    assert values[0] > 10 * bound
    assert values[-1] < bound


def test_descent_of_pairwise_ends_no_higher_than_at_the_targets():
    values, asked = descended("pairwise")
    at_targets = float(public_objective(asked.but(scores=asked.targets))[0])
    assert values[0] > at_targets + 0.2
    assert values[-1] < at_targets + 1e-3
    assert reference(asked.but(weights=only("rank_ic"))).term("rank_ic") < 0.1


def test_descent_of_listnet_ends_at_the_entropy_of_what_it_aims_at():
    values, asked = descended("listnet")
    entropies, names = [], []
    for _, _, _, targets, _, _ in cross_sections(asked):
        aimed = softmax(standardised(rankdata(targets)) / float(asked.temperature))
        entropies.append(-(aimed * np.log(aimed)).sum())
        names.append(len(targets))
    least = np.average(entropies, weights=names)
    assert values[0] > least + 0.2
    assert least - 1e-5 < values[-1] < least + 3e-3


def test_descent_raises_the_sharpe_ratio():
    values, _ = descended("sharpe")
    assert values[-1] < values[0] - 1
