"""Soft ranks of every face against the sum over all pairs in float64, and what follows from their definition."""

import resource
from dataclasses import dataclass
from functools import cache
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

import kernels.cpu.soft_rank
import kernels.cuda.soft_rank
from kernels.limits import LONGEST
from kernels.rank_terms import EPSILON, soft_ranks, standardise
from kernels.soft_rank import soft_rank
from tests.kernels.faces import CUDA, EPS, FACES, FAST, NUMBA, PLAIN, SIZES, ranked_by, to_numpy

CHUNK = 512  # names compared with all others at a time: of 20,000, 82 MB a matrix
every_face = pytest.mark.parametrize("face", FACES, ids=str)
every_device = pytest.mark.parametrize("device", ["cpu", *(["cuda"] if CUDA else [])])
# numpy's, of NaN and of infinity less infinity, where the interpreter meets them on purpose
numpy_may_warn = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@dataclass(frozen=True)
class Expected:
    ranks: np.ndarray
    gradient: np.ndarray
    largest: np.ndarray  # [R] of the gradients by z, and of one between equal scores, over the deviation

    def compare(self, ranks, gradient, scores, mask, tau):
        """With tolerances for results in float32.

        Ranks have an ulp of 2 EPS n at most. They are sums over the names within the kernel's width, `near` at most.
        z is off by EPS of a few deviations, so differences of z / tau by EPS of 4 / tau; and every decay between
        neighbours by EPS, of which the furthest of a sum have taken `near`.

        Gradients are compared with the largest one by z, since taking out its parts along 1 and z may leave nothing of
        it, as of two names. z has its rounding and that of the mean of scores that lie far from 0.
        """
        for row, valid in enumerate(mask.numpy()):
            values = scores[row].double().numpy()[valid]
            n, deviation = len(values), np.sqrt(values.var() + EPSILON**2) if len(values) else 1.0
            z = np.sort(values / deviation)
            near = (np.searchsorted(z, z + tau, "right") - np.searchsorted(z, z - tau)).max(initial=0)
            away = np.abs(values / deviation).max(initial=0)
            within = EPS * (4 * n + 4 / tau * near + near**2)
            np.testing.assert_allclose(ranks[row], self.ranks[row], rtol=0, atol=within, err_msg=f"ranks of row {row}")
            within = self.largest[row] * EPS * (16 + 4 / tau + near + 4 * away)
            np.testing.assert_allclose(
                gradient[row], self.gradient[row], rtol=0, atol=within, err_msg=f"gradient of row {row}"
            )
            assert not ranks[row, ~valid].any()
            assert not gradient[row, ~valid].any()


def by_pairs(scores, mask, tau, upstream=None):
    """The definition for all pairs in float64, and its gradient by autograd, through the deviations as well."""
    scores = torch.where(mask, scores.double(), 0).requires_grad_()
    upstream = torch.ones_like(scores) if upstream is None else upstream.double()
    tau = float(np.float32(tau))
    n = mask.sum(-1, keepdim=True).clamp(min=1)
    centred = torch.where(mask, scores - scores.sum(-1, keepdim=True) / n, 0)
    deviation = (centred.square().sum(-1, keepdim=True) / n + EPSILON**2).sqrt()
    z = centred / deviation
    ranks, by_z = torch.zeros_like(scores), torch.zeros_like(scores)
    leaf = z.detach().requires_grad_()
    for row, valid in enumerate(mask):
        for some in valid.nonzero()[:, 0].split(CHUNK):
            u = (leaf[row, some, None] - leaf[row, valid]) / tau
            cdf = torch.where(u >= 0, 1 - torch.exp(-u.clamp(min=0)) / 2, torch.exp(u.clamp(max=0)) / 2)
            part = 0.5 + cdf.sum(-1)
            ranks[row, some] = part.detach()
            by_z += torch.autograd.grad((part * upstream[row, some]).sum(), leaf)[0]
    (gradient,) = torch.autograd.grad(z, scores, by_z)
    largest = torch.maximum(by_z.abs(), torch.where(mask, upstream.abs(), 0) / (2 * tau)).amax(-1)
    return Expected(*map(to_numpy, (ranks, gradient, largest / deviation[:, 0])))


def by_some_pairs(scores, mask, tau, upstream):
    """For too many names: rank_terms in float64, with the ranks of fifty names checked by the definition."""
    values, tau = scores.double().requires_grad_(), float(np.float32(tau))
    z = standardise(torch.where(mask, values, 0), mask.double())
    ranks = soft_ranks(z, mask.double(), tau)
    gradient, by_z = torch.autograd.grad(ranks, (values, z), upstream.double())
    for row, valid in enumerate(mask):
        others = to_numpy(z[row, valid])
        u = (others[::400, None] - others) / tau
        cdf = np.where(u >= 0, 1 - np.exp(-np.abs(u)) / 2, np.exp(-np.abs(u)) / 2)
        np.testing.assert_allclose(to_numpy(ranks[row, valid])[::400], 0.5 + cdf.sum(-1), rtol=1e-12)
    deviation = values.detach()[mask].std(correction=0)
    return Expected(*map(to_numpy, (ranks, gradient, by_z.abs().amax(-1) / deviation)))


def sections(seed, n, rows=2, missing=0.2, grid=None, scale=1.0, offset=0.0):
    """Scores, their mask and an upstream gradient; with a grid, scores tie."""
    random = torch.Generator().manual_seed(seed)
    scores, upstream = torch.randn((2, rows, n), generator=random)
    if grid:
        scores = (scores / grid).round() * grid
    return (scores + offset) * scale, torch.rand((rows, n), generator=random) >= missing, upstream


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
@settings(max_examples=40, deadline=None)
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


@every_device
def test_any_leading_axes_and_strides(device):
    scores, mask, upstream = (array.to(device) for array in sections(11, 50, rows=6))
    expected = soft_rank(scores, mask, 0.2)
    for shape in ((2, 3, 50), (1, 6, 1, 50), (6, 50)):
        np.testing.assert_array_equal(
            soft_rank(scores.reshape(shape), mask.reshape(shape), 0.2).cpu(), expected.reshape(shape).cpu()
        )
    np.testing.assert_array_equal(soft_rank(scores[2], mask[2], 0.2).cpu(), expected[2].cpu())
    assert soft_rank(scores[:0], mask[:0]).shape == (0, 50)
    strided = scores.T.contiguous().requires_grad_()
    given, mask_strided = strided.T, mask.T.contiguous().T
    assert not given.is_contiguous()
    ranks = soft_rank(given, mask_strided, 0.2)
    np.testing.assert_array_equal(ranks.detach().cpu(), expected.cpu())
    dense = scores.clone().requires_grad_()
    (by_dense,) = torch.autograd.grad(soft_rank(dense, mask, 0.2), dense, upstream)
    (by_strided,) = torch.autograd.grad(ranks, strided, upstream.T.contiguous().T)
    np.testing.assert_array_equal(by_strided.T.cpu(), by_dense.cpu())


@every_device
def test_width_as_a_tensor_is_the_width_as_a_number(device):
    scores, mask, _ = (array.to(device) for array in sections(12, 50))
    as_number = soft_rank(scores, mask, 0.37)
    np.testing.assert_array_equal(soft_rank(scores, mask, torch.tensor(0.37, device=device)).cpu(), as_number.cpu())
    double = torch.tensor(0.37, dtype=torch.float64, device=device)
    np.testing.assert_array_equal(soft_rank(scores, mask, double).cpu(), as_number.cpu())
    assert not torch.equal(soft_rank(scores, mask), as_number)


@every_device
def test_masks_that_do_not_fit_are_refused(device):
    scores = torch.zeros(2, 5, device=device)
    with pytest.raises(ValueError, match=r"mask is torch\.bool \(2, 4\), scores are \(2, 5\)"):
        soft_rank(scores, torch.ones(2, 4, dtype=torch.bool, device=device))
    with pytest.raises(ValueError, match=r"mask is torch\.float32 \(2, 5\)"):
        soft_rank(scores, torch.ones(2, 5, device=device))


@every_device
@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_no_entries_are_refused(device, shape):
    with pytest.raises(ValueError, match="at least one entry"):
        soft_rank(torch.zeros(shape, device=device), torch.ones(shape, dtype=torch.bool, device=device))


@every_device
def test_memory_grows_with_names_not_with_pairs(device):
    n = 20_000  # 1.6 GB for all pairs in float32
    scores, mask, upstream = (array.to(device) for array in sections(13, n, rows=1))
    kept = []
    scores.requires_grad_()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = peak_bytes(device)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.nbytes) or tensor, lambda t: t):
        ranks = soft_rank(scores, mask)
    ranks.backward(upstream)
    assert peak_bytes(device) - before < 100e6
    assert sum(kept) < 400 * n
    assert float(ranks.detach().double().sum()) == pytest.approx(float(mask.sum() * (mask.sum() + 1) / 2), rel=1e-6)


def peak_bytes(device):
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_cpu_tensors_take_the_compiled_loops():
    scores, mask, upstream = sections(14, 20)
    with (
        spied(kernels.cpu.soft_rank, "forward") as forward,
        spied(kernels.cpu.soft_rank, "backward") as backward,
        spied(kernels.cuda.soft_rank, "forward") as other,
    ):
        soft_rank(scores.requires_grad_(), mask).backward(upstream)
    assert (forward.call_count, backward.call_count, other.call_count) == (1, 1, 0)


@pytest.mark.skipif(not CUDA, reason="needs CUDA")
@pytest.mark.parametrize(("n", "programs"), [(LONGEST, 1), (LONGEST + 1, 0)])
def test_cuda_tensors_take_programs_as_long_as_one_holds_them(n, programs):
    scores, mask, upstream = sections(15, n)
    given = scores.cuda().requires_grad_()
    with (
        spied(kernels.cuda.soft_rank, "forward") as forward,
        spied(kernels.cuda.soft_rank, "backward") as backward,
        spied(kernels.cpu.soft_rank, "forward") as other,
    ):
        ranks = soft_rank(given, mask.cuda())
        ranks.backward(upstream.cuda())
    assert (forward.call_count, backward.call_count, other.call_count) == (programs, programs, 0)
    expected = by_pairs(scores, mask, 0.1, upstream)
    expected.compare(to_numpy(ranks), to_numpy(given.grad), scores, mask, 0.1)


def spied(module, name):
    return mock.patch.object(module, name, wraps=getattr(module, name))


def test_threads_change_nothing():
    scores, mask, upstream = sections(16, 200, rows=7)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 9):
            torch.set_num_threads(threads)
            found.append(ranked_by(NUMBA, scores, mask, 0.2, upstream))
    finally:
        torch.set_num_threads(before)
    for ranks, gradient in found[1:]:
        np.testing.assert_array_equal(ranks, found[0][0])
        np.testing.assert_array_equal(gradient, found[0][1])


@every_device
def test_the_operator_is_registered_as_torch_asks(device):
    scores, mask, _ = (array.to(device) for array in sections(17, 30))
    torch.library.opcheck(
        torch.ops.atft.soft_rank.default, (scores.requires_grad_(), mask, torch.tensor(0.1, device=device))
    )


@every_device
def test_it_compiles_without_a_break_and_once_for_all_widths(device):
    scores, mask, upstream = (array.to(device) for array in sections(18, 60))

    def loss(scores, tau):
        return (soft_rank(scores * 2, mask, tau) * upstream).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = []
    for i, tau in enumerate((0.1, 0.5, 2.0)):
        with torch.compiler.set_stance("fail_on_recompile" if i else "default"):
            for call in (compiled, loss):
                given = scores.clone().requires_grad_()
                value = call(given, torch.tensor(tau, device=device))
                found.append((value.detach(), *torch.autograd.grad(value, given)))
            np.testing.assert_array_equal(found[-1][0].cpu(), found[-2][0].cpu())
            np.testing.assert_array_equal(found[-1][1].cpu(), found[-2][1].cpu())
