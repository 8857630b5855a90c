"""Soft ranks of every face against the sum over all pairs in float64, and what follows from their definition."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from kernels.ranks import soft_ranks, standardise
from kernels.soft_rank import soft_rank
from tests.kernels.faces import CUDA, EPS, FACES, FAST, PLAIN, SIZES, ranked_by, to_numpy
from tests.kernels.soft_rank.oracle import by_pairs, by_some_pairs, sections

every_face = pytest.mark.parametrize("face", FACES, ids=str)
every_device = pytest.mark.parametrize("device", ["cpu", *(["cuda"] if CUDA else [])])
# numpy's, of NaN and of infinity less infinity, where the interpreter meets them on purpose
numpy_may_warn = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@cache
def of_size(n):
    """A cross-section, sorted in part and with ties, of n names; and what is right."""
    scores, mask, upstream = sections(n, n, rows=1, missing=0.1 if n > 3 else 0.0)
    scores[:, n // 3 : n // 2] = scores[:, n // 3 : n // 2].sort().values
    scores[0, n // 2 :: 3] = scores[0, n // 2].clone()
    oracle = by_pairs if n < 10_000 else by_some_pairs
    return scores, mask, upstream, oracle(scores, mask, 0.1, upstream)


@pytest.mark.parametrize(("face", "n"), SIZES, ids=str)
def test_any_number_of_names(face, n):
    scores, mask, upstream, expected = of_size(n)
    expected.compare(*ranked_by(face, scores, mask, 0.1, upstream), scores, mask, 0.1)


@every_face
@pytest.mark.parametrize(
    ("tau", "grid", "scale", "offset"),
    [(0.01, None, 1.0, 0.0), (3.0, None, 1e-3, 1e3), (0.3, 0.5, 1e3, -3.0), (0.1, None, 1e-6, 0.0)],
)
def test_any_width_scale_and_offset(face, tau, grid, scale, offset):
    scores, mask, upstream = sections(20, 36, 2, 0.1, grid, scale, offset)
    expected = by_pairs(scores, mask, tau, upstream)
    expected.compare(*ranked_by(face, scores, mask, tau, upstream), scores, mask, tau)


@pytest.mark.parametrize("face", FAST, ids=str)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.one_of(st.sampled_from([1, 2, 3, 64, 65, 127, 128, 129]), st.integers(1, 400)),
    tau=st.floats(-2, 0.5).map(lambda power: 10**power),
    missing=st.sampled_from([0.0, 0.3, 0.95]),
    grid=st.sampled_from([None, 0.25, 1.0]),
    scale=st.sampled_from([1.0, 1e-6, 1e-3, 1e3]),
    offset=st.sampled_from([0.0, -3.0, 1e3]),
)
@example(seed=0, n=400, tau=3.0, missing=0.0, grid=None, scale=1e-3, offset=1e3)
def test_ranks_and_gradient_are_those_of_all_pairs(face, seed, n, tau, missing, grid, scale, offset):
    scores, mask, upstream = sections(seed, n, 2, missing, grid, scale, offset)
    expected = by_pairs(scores, mask, tau, upstream)
    expected.compare(*ranked_by(face, scores, mask, tau, upstream), scores, mask, tau)


@every_face
def test_gradient_is_the_difference_quotient(face):
    scores, mask, upstream = sections(1, 30, rows=1)
    direction = torch.randn(scores.shape, generator=torch.Generator().manual_seed(2))
    _, gradient = ranked_by(face, scores, mask, 0.7, upstream)
    step = 0.01  # the quotient is off by the third derivative times step^2, and by the rounding of ranks over step
    moved = torch.cat([scores + step * direction, scores - step * direction])
    ranks, _ = ranked_by(face, moved, mask.expand(2, -1), 0.7)
    quotient = ((ranks[0] - ranks[1]) / (2 * step) * upstream.numpy()).sum()
    assert (gradient * direction.numpy()).sum() == pytest.approx(quotient, rel=1e-3)


def test_gradient_in_float64_passes_gradcheck():
    scores, mask, _ = sections(3, 12, rows=3, grid=0.5)
    scores = scores.double() + torch.linspace(0, 0.1, 12, dtype=torch.float64)  # at ties the second derivative jumps
    mask[2], valid = False, mask.double()

    def ranks(values):
        return soft_ranks(standardise(values, valid), valid, 0.3)

    assert torch.autograd.gradcheck(ranks, scores.requires_grad_())


@every_face
def test_they_become_average_ranks_as_tau_falls(face):
    scores, mask, _ = sections(4, 40, rows=1, grid=0.5)
    tau = 1e-3
    ranks, _ = ranked_by(face, scores, mask, tau)
    valid = mask[0].numpy()
    assert len(np.unique(scores[0][valid])) < valid.sum()
    # Exact, but for plain torch, which takes exponentials of z / tau: off by EPS of some 4 / tau.
    within = 40 * EPS * 4 / tau if face is PLAIN else 0
    np.testing.assert_allclose(ranks[0, valid], rankdata(scores[0].numpy()[valid]), rtol=0, atol=within)


@every_face
def test_sign_order_scale_and_offset_of_the_scores(face):
    scores, mask, _ = sections(5, 20, rows=1, grid=0.125)
    moved = torch.randperm(20, generator=torch.Generator().manual_seed(6))
    n = int(mask.sum())
    # Powers of two and multiples of 1/8 leave float32 scores exact; deviations are not.
    asked = torch.cat([scores, -scores, scores[:, moved], 64 * scores + 24])
    masks = torch.cat([mask, mask, mask[:, moved], mask])
    ranks, gradients = ranked_by(face, asked, masks, 0.3, torch.ones(4, 20) * torch.arange(20.0).square())
    within = n * EPS * 8
    np.testing.assert_allclose(ranks[1], (n + 1 - ranks[0]) * mask[0].numpy(), rtol=0, atol=within)
    np.testing.assert_allclose(ranks[2], ranks[0][moved], rtol=0, atol=within)
    np.testing.assert_allclose(ranks[3], ranks[0], rtol=0, atol=within)
    np.testing.assert_allclose(ranks.sum(-1), n * (n + 1) / 2, rtol=0, atol=n * within)
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=0, atol=1e-5 * np.abs(gradients[0]).max())
    np.testing.assert_allclose(64 * gradients[3], gradients[0], rtol=0, atol=1e-5 * np.abs(gradients[0]).max())


@every_face
@numpy_may_warn
def test_what_is_not_valid_has_no_part_in_it(face):
    scores, mask, upstream = sections(7, 20, rows=1, missing=0.4)
    poison = torch.tensor([[0.0], [torch.nan], [torch.inf], [-torch.inf], [1e30]])
    ranks, gradients = ranked_by(
        face, torch.where(mask, scores, poison), mask.expand(5, -1), 0.2, upstream.expand(5, -1)
    )
    np.testing.assert_array_equal(ranks, ranks[:1].repeat(5, 0))
    np.testing.assert_array_equal(gradients, gradients[:1].repeat(5, 0))
    assert not ranks[:, ~mask[0]].any()
    assert not gradients[:, ~mask[0]].any()


@every_face
@numpy_may_warn
def test_a_value_that_is_no_number_spoils_its_own_cross_section_alone(face):
    scores, mask, upstream = sections(8, 20, rows=5)
    clean = ranked_by(face, scores[::4], mask[::4], 0.2, upstream[::4])
    mask[1:4, 6] = True
    scores[1:4, 6] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    for found, expected in zip(ranked_by(face, scores, mask, 0.2, upstream), clean, strict=True):
        assert np.isnan(found[1:4][mask[1:4]]).all()
        np.testing.assert_array_equal(found[::4], expected)


@every_face
def test_none_one_two_and_equal_scores(face):
    scores, mask, upstream = sections(9, 20, rows=5, missing=0.0)
    mask[0] = False
    mask[1, :] = torch.arange(20) == 7
    mask[2, :] = torch.arange(20) > 17
    scores[3], scores[4] = 0.1, -1000.1  # means that float32 does not hold
    expected = by_pairs(scores, mask, 0.2, upstream)
    ranks, gradients = ranked_by(face, scores, mask, 0.2, upstream)
    np.testing.assert_allclose(ranks, expected.ranks, rtol=0, atol=20 * EPS * 8)
    assert ranks[1].tolist() == [float(i == 7) for i in range(20)]
    assert not gradients[:2].any()
    assert np.isfinite(gradients).all()
    np.testing.assert_allclose(ranks[3:], 10.5, rtol=0, atol=20 * EPS * 8)


@dataclass(frozen=True)
class Kind:
    """A float type of scores; results are float32, gradients have the type of the scores."""

    dtype: torch.dtype
    rounding: float  # of a gradient, beside the largest

    def __str__(self):
        return str(self.dtype).removeprefix("torch.")


# Gradients are computed in float32 and then rounded, to 8 or 11 binary digits; float64 gains none.
KINDS = [
    Kind(torch.bfloat16, 2.0**-8),
    Kind(torch.float16, 2.0**-11),
    Kind(torch.float32, 0),
    Kind(torch.float64, 0),
]


@every_device
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_scores_of_any_float_type(device, kind):
    scores, mask, upstream = sections(10, 300)
    scores = scores.to(kind.dtype)
    given = scores.to(device).requires_grad_()
    ranks = soft_rank(given, mask.to(device), 0.2)
    (gradient,) = torch.autograd.grad(ranks, given, upstream.to(device))
    assert (ranks.dtype, gradient.dtype) == (torch.float32, kind.dtype)
    expected = by_pairs(scores.float(), mask, 0.2, upstream)
    np.testing.assert_allclose(to_numpy(ranks), expected.ranks, rtol=0, atol=300 * EPS * 16)
    largest = np.abs(expected.gradient).max()
    np.testing.assert_allclose(
        to_numpy(gradient), expected.gradient, rtol=0, atol=largest * (kind.rounding * 1.01 + 1e-5)
    )
