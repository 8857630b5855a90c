"""The soft rank as an operator of torch: axes, strides, refusals, memory, which face it takes, threads, compiling."""

import resource
from unittest import mock

import numpy as np
import pytest
import torch

import kernels.cpu.soft_rank
import kernels.cuda.soft_rank
from kernels.limits import LONGEST
from kernels.soft_rank import soft_rank
from tests.kernels.faces import CUDA, NUMBA, ranked_by, to_numpy
from tests.kernels.soft_rank.oracle import by_pairs, sections

every_device = pytest.mark.parametrize("device", ["cpu", *(["cuda"] if CUDA else [])])


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
