"""The objective of every face against rank_terms in float64, its terms against their definitions, and what follows."""

import math
from functools import cache
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import huber, log_softmax, softmax
from scipy.stats import pearsonr, rankdata

import kernels.cpu.rank_objective
import kernels.cuda.rank_objective
from kernels.limits import LONGEST
from kernels.rank_objective import rank_objective
from kernels.rank_terms import EPSILON, SHARPE, TERMS
from tests.kernels.faces import (
    CUDA,
    EPS,
    FACES,
    FAST,
    NUMBA,
    PLAIN,
    SIZES,
    block,
    evaluated,
    only,
    operands,
    public_objective,
    reference,
    to_numpy,
)

ORDERED = ("rank_ic", "ic", "spearman", "huber", "pairwise", "listnet")  # lower for the better order
NAMES = list(TERMS)
every_face = pytest.mark.parametrize("face", FACES, ids=str)
fast_faces = pytest.mark.parametrize("face", FAST, ids=str)
# Plain torch computes every term, and autograd carries a NaN from one without a weight into the gradient.
fused_faces = pytest.mark.parametrize("face", [face for face in FAST if face is not PLAIN], ids=str)
every_term = pytest.mark.parametrize("term", TERMS)
every_device = pytest.mark.parametrize("device", ["cpu", *(["cuda"] if CUDA else [])])
# numpy's, of NaN and of infinity less infinity, where the interpreter meets them on purpose
numpy_may_warn = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def compare(found, expected, asked, upstream=2.0):
    """With tolerances for results in float32: 64 EPS of what a result is made of.

    Terms are sums of numbers of their own size or of 1. A gradient is compared with the largest of its cross-section,
    and with what a term may give a score before its parts along 1 and z are taken out, which may leave nothing of it;
    z itself has fewer digits the further the scores' mean is from 0.
    The daily returns of `sharpe` cancel: a digit is lost for each that their deviation lies below the returns.
    """
    lost = lost_digits(asked)
    terms = 64 * EPS * np.maximum(np.nan_to_num(np.abs(expected.terms)), 1)
    terms[SHARPE] *= lost * (1 + np.abs(np.nan_to_num(expected.terms[SHARPE])))
    np.testing.assert_array_less(np.nan_to_num(np.abs(found.terms - expected.terms)), terms, err_msg="terms")
    np.testing.assert_array_equal(np.isnan(found.terms), np.isnan(expected.terms), err_msg="terms")
    weights = np.abs(to_numpy(asked.weights))
    np.testing.assert_allclose(found.loss, expected.loss, rtol=0, atol=weights @ terms, err_msg="loss")
    names = to_numpy(asked.mask.sum(-1)).clip(1)
    # An entry is one of all, in `sharpe` one of its day, and days count alike.
    share = to_numpy(asked.horizon_weights)[:, None] / np.minimum(names.sum(), names.shape[1] * names)
    mean, deviation = moments(asked)
    size = upstream * weights.sum() * share * (1 + np.abs(mean) / deviation) / deviation / float(asked.tau)
    for h, g in np.ndindex(size.shape):
        outside = ~asked.mask[h, g].numpy()
        for kind in ("by_scores", "by_quantiles"):
            ours, theirs = getattr(found, kind)[h, g], getattr(expected, kind)[h, g]
            within = 64 * EPS * lost * (np.abs(theirs).max(initial=0) + size[h, g])
            where = f"{kind} of horizon {h}, day {g}"
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=within, err_msg=where)
            assert not ours[outside].any(), where


def cross_sections(asked):
    """Each that counts: its horizon, day, and valid scores, targets, returns and quantiles in float64."""
    for h, g in np.ndindex(*asked.mask.shape[:2]):
        valid = asked.mask[h, g].numpy()
        arrays = (asked.scores, asked.targets, asked.returns, asked.quantiles)
        if valid.sum() >= 2:
            yield h, g, *(to_numpy(array[h, g])[valid] for array in arrays)


def moments(asked):
    """Mean and deviation, with its floor, of the scores; [H, G] each, 0 and 1 where there are fewer than two."""
    mean, deviation = np.zeros(asked.mask.shape[:2]), np.ones(asked.mask.shape[:2])
    for h, g, s, *_ in cross_sections(asked):
        mean[h, g], deviation[h, g] = s.mean(), np.sqrt(s.var() + EPSILON**2)
    return mean, deviation


def daily_returns(asked):
    """Of each horizon: the returns of portfolios of the standardised scores."""
    found = [[] for _ in asked.mask]
    for h, _, s, _, r, _ in cross_sections(asked):
        z = standardised(s)
        found[h].append((z * r).sum() / max(np.abs(z).sum(), EPSILON))
    return found


def lost_digits(asked):
    if asked.weights[SHARPE] == 0:
        return 1.0
    largest = float(asked.returns[asked.mask].abs().max()) if asked.mask.any() else 0.0
    return max([1.0, *(largest / np.std(daily) for daily in daily_returns(asked) if len(daily) > 1 and np.std(daily))])


def standardised(values):
    return (values - values.mean()) / np.sqrt(values.var() + EPSILON**2)


@pytest.mark.parametrize(("face", "n"), SIZES, ids=str)
def test_any_number_of_names(face, n):
    asked = block(n, days=1 if 100 < n < 500 else 2, names=n, missing=0.1 if n > 3 else 0.0, rotations=(1, 2, 7, 1999))
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
    asked = block(3, weights=only(term, weight=1.7), ranked=term != "huber")
    found = evaluated(face, asked)
    compare(found, reference(asked), asked)
    assert np.isnan(found.terms).sum() == len(TERMS) - 1
    assert found.loss == pytest.approx(1.7 * found.term(term), rel=1e-6)
    assert found.by_scores.any() == (term != "quantile")
    assert found.by_quantiles.any() == (term == "quantile")


@fast_faces
@settings(max_examples=40, deadline=None)
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


@cache
def small(face, ranked):
    """What a face makes of a block of days that differ in their number of names."""
    asked = block(4, horizons=1, days=2, names=14, missing=0.25, rotations=(1, 4, 13), ranked=ranked)
    return asked, evaluated(face, asked)


def by_hand(term, scores, targets, quantiles, asked):
    """A term of one cross-section as its definition says, in float64."""
    z, ranks = standardised(scores), rankdata(targets)
    aims = standardised(ranks if asked.ranked else targets)
    u = (z[:, None] - z) / float(asked.tau)
    soft = 0.5 + np.where(u >= 0, 1 - np.exp(-np.abs(u)) / 2, np.exp(-np.abs(u)) / 2).sum(1)
    if term == "rank_ic":
        return 1 - pearsonr(soft, ranks)[0]
    if term == "ic":
        return 1 - pearsonr(scores, aims)[0]
    if term == "spearman":
        return ((soft - ranks) ** 2).mean() * 3 / (len(z) ** 2 - 1)
    if term == "huber":
        return huber(1, scores - aims).mean()
    if term == "quantile":
        levels, total = to_numpy(asked.levels), 0.0
        for aim, outputs in zip(aims, quantiles, strict=True):
            for level, output in zip(levels, outputs, strict=True):
                total += level * (aim - output) if aim > output else (1 - level) * (output - aim)
        return total / quantiles.size
    assert term == "listnet"
    return -(softmax(aims / float(asked.temperature)) * log_softmax(scores)).sum()


def pairwise_by_hand(asked, h, g):
    """In bits, over pairs of valid names whose targets differ."""
    valid, targets = asked.mask[h, g].tolist(), asked.targets[h, g].tolist()
    scores = to_numpy(asked.scores[h, g])
    z = (scores - scores[valid].mean()) / scores[valid].std()
    losses = []
    for shift in asked.rotations.tolist():
        for i in range(len(valid)):
            j = (i + shift) % len(valid)
            if valid[i] and valid[j] and targets[i] > targets[j]:
                losses.append(math.log2(1 + math.exp(z[j] - z[i])))
            if valid[i] and valid[j] and targets[i] < targets[j]:
                losses.append(math.log2(1 + math.exp(z[i] - z[j])))
    return np.mean(losses)


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


@every_face
@numpy_may_warn
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_what_is_not_valid_has_no_part_in_it(face, poison):
    asked, expected = small(face, True)
    poisoned = {
        name: torch.where(asked.mask, value, poison)
        for name, value in vars(asked).items()
        if name in ("scores", "targets", "returns")
    }
    poisoned["quantiles"] = torch.where(asked.mask[..., None], asked.quantiles, poison)
    found = evaluated(face, asked.but(**poisoned))
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)
    assert not found.by_scores[~asked.mask.numpy()].any()
    assert not found.by_quantiles[~asked.mask.numpy()].any()


@every_face
def test_quantiles_without_a_weight_get_no_gradient(face):
    asked = block(29, missing=0.0, weights=only("ic"))
    np.testing.assert_array_equal(evaluated(face, asked).by_quantiles, np.zeros(asked.quantiles.shape))


@every_face
@pytest.mark.parametrize("ranked", [True, False])
def test_few_names_and_constant_ones(face, ranked):
    asked = block(5, days=6, missing=0.0, ranked=ranked)
    asked.mask[0, 0] = False
    asked.mask[0, 1] = torch.arange(20) == 3
    asked.mask[0, 2] = (torch.arange(20) == 3) | (torch.arange(20) == 4)
    asked.scores[0, 3] = 0.5
    asked.targets[0, 4], asked.quantiles[0, 4] = -2.0, 0.0  # every quantile is what it should be, the loss's kink
    asked.scores[0, 5] = asked.targets[0, 5] = 1.0
    found = evaluated(face, asked)
    assert np.isfinite(found.loss)
    assert np.isfinite(found.by_scores).all()
    compare(found, reference(asked), asked)
    assert not found.by_scores[0, :2].any()


@every_face
def test_a_day_of_one_name_beside_memory_that_holds_anything(face, monkeypatch):
    """Such a day is left out early: nothing that it did not fill may reach the gradient."""
    asked = block(10, days=3, missing=0.1)
    asked.mask[0, 1] = False
    asked.mask[0, 1, 4] = True
    expected, empty = reference(asked), np.empty

    def filled(shape, dtype=np.float64):
        array = empty(shape, dtype)
        array[...] = np.nan if array.dtype.kind == "f" else 77
        return array

    monkeypatch.setattr(np, "empty", filled)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    try:
        found = evaluated(face, asked)
    finally:
        torch.use_deterministic_algorithms(False)
    compare(found, expected, asked)


@every_face
def test_constants_that_float32_does_not_hold(face):
    asked = block(6, days=2, missing=0.0, weights=only("rank_ic", "ic", "spearman", "pairwise", "listnet"))
    asked.scores[0, 0] = 1000.1
    asked.targets[0, 1] = 0.1
    found = evaluated(face, asked)
    np.testing.assert_allclose(found.terms, reference(asked).terms, rtol=1e-5)
    assert np.isfinite(found.by_scores).all()


@every_face
def test_without_a_valid_entry_there_is_nothing_to_learn(face):
    asked = block(7, names=9, missing=2.0)
    found = evaluated(face, asked)
    assert found.loss == 0
    np.testing.assert_array_equal(found.terms, np.zeros(len(TERMS)))
    assert not found.by_scores.any()
    assert not found.by_quantiles.any()


@cache
def spoilable(face, ranked):
    """Cross-sections of two horizons, of which all entries of one are valid, and what a face makes of them."""
    local = only(*(term for term in TERMS if term != "sharpe"))
    asked = block(8, horizons=2, days=1, missing=0.0, weights=local, ranked=ranked)
    return asked, evaluated(face, asked)


def spoiled(asked, name, value):
    array = getattr(asked, name).clone()
    array[1, 0, 6] = value
    return asked.but(**{name: array})


@every_face
@numpy_may_warn
@pytest.mark.parametrize(
    ("name", "value"),
    [("scores", torch.nan), ("scores", -torch.inf), ("targets", torch.nan), ("quantiles", torch.nan)],
)
def test_a_valid_entry_that_is_no_number_spoils_the_loss_and_its_own_cross_section(face, name, value):
    asked, clean = spoilable(face, True)
    found = evaluated(face, spoiled(asked, name, value))
    assert not np.isfinite(found.loss)
    np.testing.assert_array_equal(found.by_scores[0], clean.by_scores[0])
    np.testing.assert_array_equal(found.by_quantiles[0], clean.by_quantiles[0])
    if name != "quantiles":
        assert np.isnan(found.by_scores[1]).all()


@fast_faces
@pytest.mark.parametrize("term", [term for term in TERMS if term not in ("sharpe", "quantile")])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_score_that_is_no_number_spoils_every_term(face, term, value):
    asked, _ = spoilable(face, False)
    asked = asked.but(weights=only(term))
    found = evaluated(face, spoiled(asked, "scores", value))
    assert not np.isfinite(found.loss)
    assert np.isnan(found.by_scores[1]).all()
    np.testing.assert_array_equal(found.by_scores[0], evaluated(face, asked).by_scores[0])


@fast_faces
@pytest.mark.parametrize("term", [term for term in TERMS if term not in ("sharpe", "pairwise")])
@pytest.mark.parametrize("ranked", [True, False])
def test_a_target_that_is_nan_spoils_the_terms_that_read_it(face, term, ranked):
    asked, _ = spoilable(face, ranked)
    found = evaluated(face, spoiled(asked.but(weights=only(term)), "targets", torch.nan))
    assert np.isnan(found.loss)
    assert np.isfinite(found.by_scores[0]).all()


@fused_faces
@pytest.mark.parametrize("ranked", [True, False])
def test_a_target_that_is_nan_has_no_pairs(face, ranked):
    asked, _ = spoilable(face, ranked)
    asked = spoiled(asked.but(weights=only("pairwise")), "targets", torch.nan)
    found = evaluated(face, asked)
    expected = np.mean([pairwise_by_hand(asked, h, 0) for h in range(2)])
    assert found.loss == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(found.by_scores).all()


@fused_faces
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("ranked", [True, False])
def test_an_infinite_target_is_the_first_or_last_in_order(face, sign, ranked):
    asked, _ = spoilable(face, ranked)
    by_order = ("rank_ic", "spearman", "pairwise")
    asked = asked.but(weights=only(*by_order, *(ORDERED if ranked else ()), *(("quantile",) if ranked else ())))
    infinite, large = (evaluated(face, spoiled(asked, "targets", sign * value)) for value in (torch.inf, 1e3))
    for name, value in vars(large).items():
        np.testing.assert_array_equal(getattr(infinite, name), value, err_msg=name)


@fast_faces
@pytest.mark.parametrize("term", ["ic", "huber", "quantile", "listnet"])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_infinite_target_spoils_the_terms_that_aim_at_targets(face, term, sign):
    asked, _ = spoilable(face, False)
    found = evaluated(face, spoiled(asked.but(weights=only(term)), "targets", sign * torch.inf))
    assert not np.isfinite(found.loss)


@every_face
@numpy_may_warn
@pytest.mark.parametrize("name", ["scores", "returns"])
def test_sharpe_spoils_its_horizon_alone(face, name):
    asked = block(9, horizons=2, days=2, names=8, missing=0.0, weights=only("sharpe"))
    found = evaluated(face, spoiled(asked, name, torch.nan))
    assert np.isnan(found.loss)
    assert np.isnan(found.by_scores[1]).all()
    np.testing.assert_array_equal(found.by_scores[0], evaluated(face, asked).by_scores[0])


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


@pytest.mark.parametrize("face", FAST, ids=str)
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


@every_device
@pytest.mark.parametrize(
    ("dtype", "rounding"),  # of a gradient, beside the largest: it is computed in float32
    [(torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11), (torch.float32, 0), (torch.float64, 0)],
    ids=str,
)
def test_scores_of_any_float_type(device, dtype, rounding):
    asked = block(18)
    arrays = ("scores", "targets", "returns", "quantiles")
    given = asked.but(**{name: getattr(asked, name).to(dtype) for name in arrays}).moved(device)
    expected = reference(asked.but(**{name: getattr(given, name).float().cpu() for name in arrays}), 1.0)
    scores, quantiles = given.scores.requires_grad_(), given.quantiles.requires_grad_()
    loss, terms = public_objective(given)
    assert (loss.dtype, terms.dtype) == (torch.float32, torch.float32)
    assert (loss.shape, terms.shape) == ((), (len(TERMS),))
    np.testing.assert_allclose(to_numpy(terms), expected.terms, rtol=1e-5)
    for found, theirs in zip(
        torch.autograd.grad(loss, (scores, quantiles)), (expected.by_scores, expected.by_quantiles), strict=True
    ):
        assert found.dtype == dtype
        within = np.abs(theirs).max() * (rounding * 1.01 + 1e-5)
        np.testing.assert_allclose(to_numpy(found), theirs, rtol=0, atol=within)


@every_device
def test_any_strides(device):
    asked = block(19, horizons=2).moved(device)
    arrays = {name: value for name, value in vars(asked).items() if name in ("scores", "targets", "returns", "mask")}
    strided = {name: value.permute(2, 1, 0).contiguous().permute(2, 1, 0) for name, value in arrays.items()}
    strided["quantiles"] = asked.quantiles.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
    assert not any(value.is_contiguous() for value in strided.values())
    results = []
    for each in (asked, asked.but(**strided)):
        learned = (each.scores.requires_grad_(), each.quantiles.requires_grad_())
        loss, terms = public_objective(each)
        results.append([loss, terms, *torch.autograd.grad(loss, learned)])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(to_numpy(theirs), to_numpy(ours))


@every_device
def test_what_may_be_left_out(device):
    asked = block(20).moved(device)
    weights = only(*(term for term in TERMS if term not in ("quantile", "pairwise"))).to(device)
    short, _ = rank_objective(asked.scores, asked.targets, asked.mask, weights)
    whole = asked.but(returns=asked.targets, weights=weights, tau=0.1, temperature=1.0)
    assert float(short) == float(public_objective(whole)[0])
    as_tensors = whole.but(tau=torch.tensor(0.1, device=device), temperature=torch.tensor(1.0, device=device))
    assert float(short) == float(public_objective(as_tensors)[0])


@every_device
def test_terms_are_for_logging(device):
    asked = block(21, weights=only("rank_ic", "huber")).moved(device)
    loss, terms = public_objective(asked.but(scores=asked.scores.requires_grad_()))
    assert loss.requires_grad
    assert not terms.requires_grad
    assert [NAMES[i] for i in (~terms.isnan()).nonzero()[:, 0]] == ["rank_ic", "huber"]
    (first,) = torch.autograd.grad(loss, asked.scores, retain_graph=True)
    (tripled,) = torch.autograd.grad(3 * loss, asked.scores)
    torch.testing.assert_close(tripled, 3 * first)


@every_device
def test_shapes_and_types_that_disagree_are_refused(device):
    asked = block(22).moved(device)
    scores, targets, mask, weights = asked.scores, asked.targets, asked.mask, asked.weights
    with pytest.raises(ValueError, match=r"scores \(2, 20\).*\[H, G, N\]"):
        rank_objective(scores[0], targets[0], mask[0], weights)
    with pytest.raises(ValueError, match=r"targets \(1, 2, 19\)"):
        rank_objective(scores, targets[..., 1:], mask, weights)
    with pytest.raises(ValueError, match=r"mask torch\.bool \(1, 1, 20\)"):
        rank_objective(scores, targets, mask[:, 1:], weights)
    with pytest.raises(ValueError, match=r"mask torch\.float32 .* as bool"):
        rank_objective(scores, targets, mask.float(), weights)
    with pytest.raises(ValueError, match=r"weights \(7,\): give one per term, in the order rank_ic, ic"):
        rank_objective(scores, targets, mask, weights[:7])
    for some in (
        {"quantiles": asked.quantiles},
        {"levels": asked.levels},
        {"quantiles": asked.quantiles, "levels": asked.levels[:2]},
    ):
        with pytest.raises(ValueError, match=r"quantiles \[H, G, N, Q\] together with their levels"):
            rank_objective(scores, targets, mask, weights, **some)


@pytest.mark.parametrize(("term", "lacking"), [("quantile", "quantiles"), ("pairwise", "rotations")])
def test_on_cpus_a_term_that_lacks_its_inputs_is_refused(term, lacking):
    asked = block(23)
    with pytest.raises(ValueError, match=rf"{term}.*{lacking}"):
        rank_objective(asked.scores, asked.targets, asked.mask, only(term))
    rank_objective(asked.scores, asked.targets, asked.mask, only("ic"))


@pytest.mark.skipif(not CUDA, reason="needs CUDA")
@pytest.mark.parametrize("term", ["quantile", "pairwise"])
@pytest.mark.parametrize("n", [20, LONGEST + 1])
def test_on_cuda_a_term_that_lacks_its_inputs_is_nan(term, n):
    asked = block(23, names=n, weights=only("ic", term)).moved("cuda")
    loss, terms = rank_objective(asked.scores, asked.targets, asked.mask, asked.weights)
    assert loss.isnan()
    assert terms[NAMES.index(term)].isnan()
    assert not terms[NAMES.index("ic")].isnan()


def test_cpu_tensors_take_the_compiled_loops():
    asked = block(24)
    with spied(kernels.cpu.rank_objective) as ours, spied(kernels.cuda.rank_objective) as other:
        loss, _ = public_objective(asked.but(scores=asked.scores.requires_grad_()))
        loss.backward()
    assert (ours.call_count, other.call_count) == (1, 0)


@pytest.mark.skipif(not CUDA, reason="needs CUDA")
@pytest.mark.parametrize(("n", "programs"), [(LONGEST, 1), (LONGEST + 1, 0)])
def test_cuda_tensors_take_programs_as_long_as_one_holds_them(n, programs):
    asked = block(25, names=n)
    given = asked.moved("cuda")
    scores, quantiles = given.scores.requires_grad_(), given.quantiles.requires_grad_()
    with spied(kernels.cuda.rank_objective) as ours, spied(kernels.cpu.rank_objective) as other:
        loss, terms = public_objective(given)
    assert (ours.call_count, other.call_count) == (programs, 0)
    expected = reference(asked)
    np.testing.assert_allclose(to_numpy(terms), expected.terms, rtol=1e-4)
    (by_scores, by_quantiles) = torch.autograd.grad(2 * loss, (scores, quantiles))
    for ours, theirs in ((by_scores, expected.by_scores), (by_quantiles, expected.by_quantiles)):
        np.testing.assert_allclose(to_numpy(ours), theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.skipif(not CUDA, reason="needs CUDA")
def test_beyond_the_longest_program_a_nan_target_has_no_pairs():
    asked = block(25, names=LONGEST + 1, weights=only("pairwise"))
    targets = asked.targets.clone()
    targets[0, 0, asked.mask[0, 0].nonzero()[0]] = torch.nan
    asked = asked.but(targets=targets)
    loss, _ = public_objective(asked.moved("cuda"))
    np.testing.assert_allclose(to_numpy(loss), reference(asked).loss, rtol=1e-4)


def spied(module):
    return mock.patch.object(module, "rank_objective", wraps=module.rank_objective)


def test_threads_change_nothing():
    asked = block(26, horizons=2, days=5, names=100)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 16):
            torch.set_num_threads(threads)
            found.append(evaluated(NUMBA, asked))
    finally:
        torch.set_num_threads(before)
    for outcome in found[1:]:
        for name, value in vars(found[0]).items():
            np.testing.assert_array_equal(getattr(outcome, name), value, err_msg=name)


@every_device
def test_the_operator_is_registered_as_torch_asks(device):
    torch.library.opcheck(torch.ops.atft.rank_objective.default, operands(block(27).moved(device)))


@every_device
def test_a_compiled_step_is_the_eager_one_and_is_compiled_once(device):
    asked = block(28, horizons=1, days=3).moved(device)
    features = torch.randn(1, 3, 20, 5, generator=torch.Generator().manual_seed(0)).to(device)

    def loss_of(weight, weights, tau, rotations):
        scores, *quantiles = (features @ weight).unbind(-1)
        given = asked.but(
            scores=scores, quantiles=torch.stack(quantiles, -1), weights=weights, tau=tau, rotations=rotations
        )
        return public_objective(given)

    settings = [
        (
            torch.linspace(0.1, 0.8, len(TERMS), device=device) * (i + 1),
            torch.tensor(tau, device=device),
            asked.rotations + i,
        )
        for i, tau in enumerate((0.1, 0.4, 1.5))
    ]
    begin = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).to(device)
    assert torch._dynamo.explain(loss_of)(begin, *settings[0]).graph_break_count == 0
    torch._dynamo.reset()
    ends = []
    for call in (torch.compile(loss_of, fullgraph=True), loss_of):
        weight = begin.clone().requires_grad_()
        optimiser = torch.optim.SGD([weight], 0.1)
        for i, setting in enumerate(settings):
            with torch.compiler.set_stance("fail_on_recompile" if i else "default"):
                loss, terms = call(weight, *setting)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        ends.append((loss.detach(), terms, weight.detach()))
    for ours, theirs in zip(*ends, strict=True):
        # A product of matrices may be summed in another order.
        np.testing.assert_allclose(to_numpy(ours), to_numpy(theirs), rtol=1e-4, atol=1e-5)
