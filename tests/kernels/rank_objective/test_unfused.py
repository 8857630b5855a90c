"""A term that is registered but not fused: its value and gradient in the loss against autograd in float64, by hand."""

import numpy as np
import pytest
import torch

from engine.config import Config, Terms
from engine.training.objective import make_objective
from kernels.rank_objective import rank_objective
from kernels.rank_terms import FUSED, TERMS
from tests.kernels.faces import Outcome, block, only, to_numpy

WEIGHT = 0.7
FUSED_WEIGHTS = only("ic", "sharpe", "huber", "quantile")


@pytest.fixture
def cubic():
    """Registers the term `cubic`, the mean of |z - z_targets|^3, and gives the list of its calls."""
    calls = []

    def term(sections):
        calls.append(sections)
        return sections.mean((sections.z - sections.z_targets).abs() ** 3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TERMS, "cubic", term)
        yield calls


def evaluated(asked, weight=None, call=rank_objective, **settings):
    """Loss, terms and the gradients of twice the loss, where `cubic` is registered and has this weight."""
    weights = FUSED_WEIGHTS if weight is None else torch.cat([FUSED_WEIGHTS, torch.tensor([weight])])
    scores, quantiles = (array.clone().requires_grad_() for array in (asked.scores, asked.quantiles))
    loss, terms = call(
        scores, asked.targets, asked.mask, weights, returns=asked.returns, horizon_weights=asked.horizon_weights,
        quantiles=quantiles, levels=asked.levels, ranked=asked.ranked, **settings,
    )  # fmt: skip
    assert not terms.requires_grad
    return Outcome(*map(to_numpy, (loss, terms, *torch.autograd.grad(2 * loss, (scores, quantiles)))))


def assert_same(found, expected):
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)


def by_hand(asked):
    """The term over all cross-sections, and the gradient of twice its weighted value by the scores; float64."""
    scores = asked.scores.double().requires_grad_()
    total, weights = torch.zeros((), dtype=torch.float64), 0.0
    for h, g in np.ndindex(*asked.mask.shape[:2]):
        valid = asked.mask[h, g]
        weight = float(valid.sum()) * float(asked.horizon_weights[h])
        z, target = (array[h, g][valid].double() for array in (scores, asked.targets))
        z, target = ((x - x.mean()) / x.std(correction=0) for x in (z, target))
        total, weights = total + weight * ((z - target).abs() ** 3).mean(), weights + weight
    value = total / weights
    return value.item(), to_numpy(torch.autograd.grad(2 * WEIGHT * value, scores)[0])


def test_its_value_and_gradient_are_added_to_the_fused_ones(request):
    asked = block(1, horizons=2, days=3, horizon_weights=torch.tensor([1.0, 0.25]), ranked=False)
    fused = evaluated(asked)
    request.getfixturevalue("cubic")
    found, (value, gradient) = evaluated(asked, WEIGHT), by_hand(asked)
    assert found.terms[FUSED] == pytest.approx(value, rel=1e-5)
    assert found.loss == pytest.approx(fused.loss + WEIGHT * value, rel=1e-5)
    within = 1e-5 * np.abs(gradient).max()
    np.testing.assert_allclose(found.by_scores - fused.by_scores, gradient, rtol=0, atol=within)
    np.testing.assert_array_equal(found.by_quantiles, fused.by_quantiles)
    np.testing.assert_array_equal(found.terms[:FUSED], fused.terms)


def test_one_that_is_named_is_computed_and_no_other(cubic):
    asked = block(2, days=3)
    assert_same(evaluated(asked, WEIGHT, unfused=("cubic",)), evaluated(asked, WEIGHT))
    cubic.clear()
    left_out = evaluated(asked, WEIGHT, unfused=())
    assert not cubic
    assert np.isnan(left_out.loss)  # it has a weight
    assert np.flatnonzero(~np.isnan(left_out.terms)).tolist() == np.flatnonzero(FUSED_WEIGHTS).tolist()


def test_without_a_weight_it_leaves_the_others_as_they_are(request):
    asked = block(3, days=3)
    fused = evaluated(asked)
    cubic = request.getfixturevalue("cubic")
    found = evaluated(asked, 0.0, unfused=())
    assert not cubic
    assert np.isnan(found.terms[FUSED])
    assert_same(Outcome(found.loss, found.terms[:FUSED], found.by_scores, found.by_quantiles), fused)


@pytest.mark.usefixtures("cubic")
def test_it_compiles_without_a_break():
    asked = block(4, days=3)
    compiled = torch.compile(rank_objective, fullgraph=True, backend="aot_eager")
    assert_same(evaluated(asked, WEIGHT, compiled, unfused=("cubic",)), evaluated(asked, WEIGHT, unfused=("cubic",)))


def test_the_configuration_has_a_field_for_every_term_in_their_order():
    assert list(Terms.model_fields) == list(TERMS)


@pytest.mark.usefixtures("cubic")
@pytest.mark.parametrize(("weights", "unfused"), [({"ic": 1.0, "cubic": WEIGHT}, ("cubic",)), ({"ic": 1.0}, ())])
def test_training_names_those_that_have_a_weight(monkeypatch, weights, unfused):
    monkeypatch.setattr(Terms, "weights", lambda settings: weights)
    objective = make_objective(Config(), 1, torch.device("cpu"))
    assert objective.unfused == unfused
    asked = block(5, days=3)
    returns = torch.where(asked.mask, asked.returns, torch.nan).permute(2, 1, 0)
    scores, quantiles = asked.scores.permute(2, 1, 0), asked.quantiles.permute(2, 1, 0, 3)
    loss, terms = objective(scores, quantiles, returns, torch.empty(0, dtype=torch.int32))
    named = {
        name: weights.get(name, 0.0) * float(term) for name, term in zip(TERMS, terms, strict=True) if term == term
    }
    assert named.keys() == weights.keys()
    assert float(loss) == pytest.approx(sum(named.values()), rel=1e-6)
