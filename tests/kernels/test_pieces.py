"""Weighted piecewise-linear columns: what torch's own operators give, value by value, and their gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.model.embedding import Basis
from kernels.pieces import pieces, weighted_pieces


def drawn(bins, *shape, seed=0):
    """x, weight, and the pieces of that many bins."""
    generator = torch.Generator().manual_seed(seed)
    basis = Basis(bins, gaussian=False)
    x, weight = (2 * torch.randn(shape, generator=generator) for _ in range(2))
    return x, weight.requires_grad_(), basis.edges, basis.low, basis.high


@given(st.integers(2, 20), st.integers(0, 4), st.integers(1, 9), st.integers(1, 7), st.integers(0, 100))
@settings(deadline=None, max_examples=30)
def test_values_are_those_of_torch_to_the_bit(bins, codes, days, features, seed):
    x, weight, *bounds = drawn(bins, codes, days + 2, features, seed=seed)
    x, weight = x[:, 2:], weight[:, 2:]  # not contiguous, as the scored days of a block
    assert torch.equal(weighted_pieces(x, weight, *bounds), weight[..., None] * pieces(x, *bounds))


@pytest.mark.parametrize("bins", [2, 3, 8, 16])
def test_the_gradient_is_that_of_float64(bins):
    x, weight, *bounds = drawn(bins, 5, 4, 3)
    upstream = torch.randn(5, 4, 3, bins)
    (found,) = torch.autograd.grad(weighted_pieces(x, weight, *bounds), weight, upstream)
    (expected,) = torch.autograd.grad(
        weighted_pieces(x.double(), weight.double(), *(one.double() for one in bounds)), weight, upstream.double()
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_feature_that_wants_a_gradient_gets_one():
    x, weight, *bounds = drawn(4, 3, 2, 5)
    x = x.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, weight: weighted_pieces(x, weight, *(one.double() for one in bounds)),
        (x, weight.detach().double().requires_grad_()),
    )
    (by_x,) = torch.autograd.grad(weighted_pieces(x.float(), weight, *bounds).sum(), x)
    assert by_x.abs().sum() > 0


def test_what_is_not_a_number_stays_so():
    x, weight, *bounds = drawn(4, 2, 3)
    x[0, 1] = torch.nan
    columns = weighted_pieces(x, weight, *bounds)
    assert columns[0, 1].isnan().all()
    assert columns.isnan().sum() == 4
    (by_weight,) = torch.autograd.grad(columns.sum(), weight)
    assert by_weight.isnan().nonzero().tolist() == [[0, 1]]
    x[0, 1] = torch.inf
    assert torch.equal(weighted_pieces(x, weight, *bounds), weight[..., None] * pieces(x, *bounds))


def test_compiled_it_is_torchs_own():
    x, weight, *bounds = drawn(4, 2, 3)
    compiled = torch.compile(weighted_pieces, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, weight, *bounds), weighted_pieces(x, weight, *bounds))
