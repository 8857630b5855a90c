"""The objective as an operator of torch: types, strides, defaults, refusals, faces, threads, compiling."""

from unittest import mock

import numpy as np
import pytest
import torch

import kernels.cpu.rank_objective
import kernels.cuda.rank_objective
from kernels.limits import LONGEST
from kernels.rank_objective import rank_objective
from kernels.rank_terms import TERMS
from tests.kernels.faces import CUDA, NUMBA, block, evaluated, only, operands, public_objective, reference, to_numpy

NAMES = list(TERMS)
every_device = pytest.mark.parametrize("device", ["cpu", *(["cuda"] if CUDA else [])])


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
    ends = []
    compiled = torch.compile(loss_of, fullgraph=True, backend="aot_eager")
    for call in (compiled, loss_of):
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
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))
