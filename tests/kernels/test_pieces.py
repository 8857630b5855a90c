"""Weighted piecewise-linear columns times a matrix: what torch's own operators give in float64, and their gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from engine.model.atft.embedding import Basis
from kernels.pieces import pieces, weighted_pieces

WIDTH = 6


def drawn(bins, *shape, seed=0):
    """x, weight, matrix, and the pieces of that many bins."""
    generator = torch.Generator().manual_seed(seed)
    basis = Basis(bins, gaussian=False)
    x, weight = (2 * torch.randn(shape, generator=generator) for _ in range(2))
    matrix = torch.randn(WIDTH, shape[-1] * bins, generator=generator)
    return x, weight.requires_grad_(), matrix.requires_grad_(), basis.edges, basis.low, basis.high


def doubled(*values):
    return [value.detach().double().requires_grad_(value.requires_grad) for value in values]


def by_loops(x, weight, matrix, edges, low, high):
    """The sum as its definition reads, in Python's floats, of a row."""
    columns = [
        w * min(max(value - edge, at_least), at_most)
        for value, w in zip(x.tolist(), weight.tolist(), strict=True)
        for edge, at_least, at_most in zip(edges.tolist(), low.tolist(), high.tolist(), strict=True)
    ]
    return [sum(a * b for a, b in zip(columns, row, strict=True)) for row in matrix.tolist()]


@given(st.sampled_from([2, 3, 8, 16]), st.integers(0, 4), st.integers(1, 9), st.integers(1, 7), st.integers(0, 100))
@settings(deadline=None, max_examples=30)
def test_values_are_those_of_float64(bins, codes, days, features, seed):
    x, weight, *others = drawn(bins, codes, days + 2, features, seed=seed)
    x, weight = x[:, 2:], weight[:, 2:]  # not contiguous, as the scored days of a block
    found = weighted_pieces(x, weight, *others)
    assert found.dtype == torch.float32
    assert_close(found.double(), weighted_pieces(*doubled(x, weight, *others)), rtol=1e-5, atol=2e-5)
    if codes:
        assert_close(found[0, 0], torch.tensor(by_loops(x[0, 0], weight[0, 0], *others)), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("bins", [2, 3, 8, 16])
@pytest.mark.parametrize("codes", [1, 8, 25], ids="codes={}".format)
def test_gradients_are_those_of_float64_whatever_the_tiles(bins, codes):
    """Of 4, 32 and 100 rows: less than a tile, one, and several with a rest."""
    given = drawn(bins, codes, 4, 3)
    upstream = torch.randn(codes, 4, WIDTH)
    exact = doubled(*given)
    found = torch.autograd.grad(weighted_pieces(*given), given[1:3], upstream)
    expected = torch.autograd.grad(weighted_pieces(*exact), exact[1:3], upstream.double())
    for mine, theirs in zip(found, expected, strict=True):
        assert_close(mine.double(), theirs, rtol=1e-5, atol=2e-5)


def test_a_gradient_that_is_not_contiguous_is_read_in_its_order():
    given = drawn(4, 5, 4, 3)
    upstream = torch.randn(4, WIDTH, 5).permute(2, 0, 1)
    found = torch.autograd.grad(weighted_pieces(*given), given[1:3], upstream)
    expected = torch.autograd.grad(weighted_pieces(*given), given[1:3], upstream.contiguous())
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def test_a_feature_that_wants_a_gradient_gets_one():
    x, *others = drawn(4, 2, 1, 3)
    exact = doubled(x, *others)
    exact[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda *first: weighted_pieces(*first, *exact[3:]), tuple(exact[:3]))
    x.requires_grad_()
    (by_x,) = torch.autograd.grad(weighted_pieces(x, *others).sum(), x)
    assert by_x.abs().sum() > 0


def test_what_is_not_a_number_stays_so():
    x, weight, *others = drawn(4, 2, 3)
    x[0, 1] = torch.nan
    found = weighted_pieces(x, weight, *others)
    assert found[0].isnan().all()
    assert not found[1].isnan().any()
    (by_weight,) = torch.autograd.grad(found.sum(), weight)
    assert by_weight.isnan().nonzero().tolist() == [[0, 1]]


def test_infinity_is_in_the_outer_pieces_alone():
    x, weight, matrix, *bounds = drawn(4, 2, 3)
    x[0, 1] = torch.inf
    columns = pieces(x, *bounds)
    assert columns.isinf().nonzero().tolist() == [[0, 1, 3]]
    found = weighted_pieces(x, weight, matrix, *bounds)
    assert found[0].isinf().all()
    assert_close(found.double(), weighted_pieces(*doubled(x, weight, matrix, *bounds)), rtol=1e-5, atol=2e-5)


def test_compiled_it_is_torchs_own():
    given = drawn(4, 2, 3)
    compiled = torch.compile(weighted_pieces, fullgraph=True, backend="aot_eager")
    assert_close(compiled(*given), weighted_pieces(*given), rtol=1e-5, atol=1e-5)
