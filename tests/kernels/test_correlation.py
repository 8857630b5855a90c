"""Exact ranks and correlations against scipy: numba, Triton (in its interpreter without a GPU), torch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, rankdata, spearmanr

from kernels import limits, ranks
from kernels.correlation import average_ranks, pearson, spearman
from kernels.cpu import correlation as cpu
from kernels.cuda import correlation as cuda

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROUNDING = 1e-12  # float64 sums of at most some thousand float32 values or half-integer ranks


@pytest.fixture(autouse=True)
def _several_tiles(monkeypatch):
    """The interpreter is slow: cross-sections are small, and still take several tiles."""
    if DEVICE.type == "cpu":
        monkeypatch.setattr(limits, "TILE", 16)
        monkeypatch.setattr(limits, "SHORTEST", 32)


def on_device(function, *tensors):
    return function(*(tensor.to(DEVICE) for tensor in tensors)).cpu()


def plain_ranks(values, mask):
    return ranks.average_ranks(values, mask.float())


RANKS = {
    "numba": cpu.average_ranks,
    "triton": lambda *tensors: on_device(cuda.average_ranks, *tensors),
    "torch": plain_ranks,
}
PEARSON = {"numba": cpu.pearson, "triton": lambda *tensors: on_device(cuda.pearson, *tensors)}


def rows(seed, n, missing=0.3, ties=True):
    rng = np.random.default_rng(seed)
    draw = (lambda: rng.integers(-4, 5, (4, n)).astype(np.float32)) if ties else (lambda: rng.normal(size=(4, n)))
    a, b = (torch.tensor(draw(), dtype=torch.float32) for _ in range(2))
    mask = torch.tensor(rng.random((4, n)) >= missing)
    mask[1] = False
    mask[1, 0] = True
    a[2] = 3.0
    return a, b, mask


@pytest.mark.parametrize("face", RANKS)
@pytest.mark.parametrize("n", [1, 2, 33])  # 33 is one more than a program of 32 sorts, and three tiles
@pytest.mark.parametrize("ties", [True, False])
def test_ranks_are_scipys(face, n, ties):
    a, _, mask = rows(n, n, ties=ties)
    a[0, 0], a[0, -1] = -0.0, 0.0
    a[3] = torch.where(a[3] > 2, torch.inf, torch.where(a[3] < -2, -torch.inf, a[3]))
    found = RANKS[face](torch.where(mask, a, torch.nan), mask).numpy()
    for row, ours in enumerate(found):
        m = mask[row].numpy()
        np.testing.assert_array_equal(ours[m], rankdata(a[row].numpy()[m]))
        assert not ours[~m].any()


@pytest.mark.parametrize("face", RANKS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_nan_leaves_no_rank_in_its_cross_section_alone(face, sign):
    a, _, mask = rows(0, 20, missing=0.0)
    mask[1] = True
    a[3, 7] = sign * torch.tensor(torch.nan)
    found = RANKS[face](a, mask)
    assert found[3].isnan().all()
    assert not found[:3].isnan().any()


@pytest.mark.parametrize("face", PEARSON)
@pytest.mark.parametrize("n", [1, 2, 33])
def test_correlations_are_scipys(face, n):
    a, b, mask = rows(n, n, ties=False)
    a, b = a * 1e-3 + 5, b * 1e4  # a mean far from zero costs a one-pass formula its digits
    a[2] = 5.1
    ours = PEARSON[face](torch.where(mask, a, torch.nan), b, mask).numpy()
    ranked = PEARSON[face](plain_ranks(a, mask), plain_ranks(b, mask), mask).numpy()
    for row in range(4):
        x, y = (v[row].numpy()[mask[row].numpy()].astype(float) for v in (a, b))
        if len(x) < 2 or row == 2:
            assert np.isnan(ours[row])
            assert np.isnan(ranked[row])
            continue
        assert ours[row] == pytest.approx(pearsonr(x, y)[0], abs=ROUNDING)
        assert ranked[row] == pytest.approx(spearmanr(x, y)[0], abs=ROUNDING)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of infinity - infinity in the interpreter
@pytest.mark.parametrize("face", PEARSON)
def test_perfect_reversed_and_spoiled(face):
    a = torch.arange(40.0).repeat(4, 1)
    b = torch.stack([a[0], -a[0], a[0], a[0]])
    b[2, 5], b[3, 5] = torch.nan, torch.inf
    found = PEARSON[face](a, b, torch.ones_like(a, dtype=torch.bool))
    assert found[:2].tolist() == [1.0, -1.0]
    assert found[2:].isnan().all()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), n=st.integers(2, 400), levels=st.integers(1, 50))
def test_spearman_with_ties_is_scipys(seed, n, levels):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, levels, (2, n)).astype(np.float32)
    mask = torch.tensor(rng.random(n) < 0.8)
    ours = float(spearman(torch.tensor(a), torch.tensor(b), mask))
    x, y = a[mask.numpy()], b[mask.numpy()]
    if len(x) < 2 or len(set(x)) == 1 or len(set(y)) == 1:
        assert np.isnan(ours)
    else:
        assert ours == pytest.approx(spearmanr(x, y)[0], abs=ROUNDING)


def test_any_leading_axes_any_float_type_and_strides():
    a, b, mask = rows(3, 50, ties=False)
    expected = spearman(a, b, mask)
    shaped = [v.reshape(2, 2, 50) for v in (a, b, mask)]
    np.testing.assert_array_equal(spearman(*shaped), expected.reshape(2, 2))
    strided = [v.T.contiguous().T for v in (a, b, mask)]
    np.testing.assert_array_equal(spearman(*strided), expected)
    np.testing.assert_array_equal(spearman(a.double(), b, mask), expected)
    half = a.to(torch.bfloat16)
    np.testing.assert_array_equal(average_ranks(half, mask), average_ranks(half.float(), mask))


def test_shapes_and_types_that_disagree_are_refused():
    a, b, mask = rows(0, 9)
    with pytest.raises(ValueError, match="bool mask of their shape"):
        average_ranks(a, mask.float())
    with pytest.raises(ValueError, match="same shape"):
        pearson(a, b[:2], mask)
    with pytest.raises(ValueError, match="bool mask of their shape"):
        spearman(a, b, mask[:2])


def test_they_compile_without_a_break():
    a, b, mask = rows(5, 60)
    compiled = torch.compile(spearman, fullgraph=True, backend="aot_eager")
    np.testing.assert_array_equal(compiled(a, b, mask), spearman(a, b, mask))
    torch.library.opcheck(torch.ops.atft.average_ranks.default, (a, mask))
    torch.library.opcheck(torch.ops.atft.pearson.default, (a[3:], b[3:], mask[3:]))  # the others give NaN
