"""The objective where entries are not valid, not numbers, few or constant: what is spoilt by them, and what is not."""

from functools import cache

import numpy as np
import pytest
import torch

from kernels.rank_terms import TERMS
from tests.kernels.faces import FACES, FAST, PLAIN, block, evaluated, only, reference
from tests.kernels.rank_objective.oracle import compare, pairwise_by_hand, small

ORDERED = ("rank_ic", "ic", "spearman", "huber", "pairwise", "listnet")  # lower for the better order
every_face = pytest.mark.parametrize("face", FACES, ids=str)
fast_faces = pytest.mark.parametrize("face", FAST, ids=str)
# Plain torch computes every term, and autograd carries a NaN from one without a weight into the gradient.
fused_faces = pytest.mark.parametrize("face", [face for face in FAST if face is not PLAIN], ids=str)
# numpy's, of NaN and of infinity less infinity, where the interpreter meets them on purpose
numpy_may_warn = pytest.mark.filterwarnings("ignore::RuntimeWarning")


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


@cache
def with_sharpe(face):
    asked = block(9, horizons=2, days=2, names=8, missing=0.0, weights=only("sharpe"))
    return asked, evaluated(face, asked)


@every_face
@numpy_may_warn
@pytest.mark.parametrize("name", ["scores", "returns"])
def test_sharpe_spoils_its_horizon_alone(face, name):
    asked, clean = with_sharpe(face)
    found = evaluated(face, spoiled(asked, name, torch.nan))
    assert np.isnan(found.loss)
    assert np.isnan(found.by_scores[1]).all()
    np.testing.assert_array_equal(found.by_scores[0], clean.by_scores[0])
