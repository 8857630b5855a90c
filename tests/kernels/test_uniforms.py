"""Uniform numbers on both faces against the loaders' generator in NumPy, bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.cuda import uniforms as cuda
from kernels.uniforms import uniforms
from loaders.random_bits import random_bits
from tests.kernels.faces import CUDA, DEVICE

SEEDS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5)
faces = pytest.mark.parametrize("face", ["numba", "triton"])


def values_of(face, seeds, n):
    """[K, n] on the CPU, where the memory that an operator allocates is NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        of_seeds = torch.tensor(seeds, dtype=torch.int64)
        return uniforms(of_seeds, n) if face == "numba" else cuda.uniforms(of_seeds.to(DEVICE), n).cpu()
    finally:
        torch.use_deterministic_algorithms(False)


@faces
@settings(max_examples=40, deadline=None)
@given(seeds=SEEDS, n=st.one_of(st.integers(0, 40), st.sampled_from([1023, 1024, 1025, 3000])))
def test_they_are_the_top_bits_of_the_loaders_generator(face, seeds, n):
    expected = [(random_bits(seed, n) >> np.uint64(40)).astype(np.float64) / 2**24 for seed in seeds]
    found = values_of(face, seeds, n)
    assert (found.dtype, found.shape) == (torch.float32, (len(seeds), n))
    np.testing.assert_array_equal(found.double().numpy(), np.array(expected).reshape(len(seeds), n))


@faces
def test_the_ends_of_64_bits(face):
    seeds = [0, -1, 2**63 - 1, -(2**63), 1]
    expected = [(random_bits(seed, 70) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24) for seed in seeds]
    found = values_of(face, seeds, 70).numpy()
    np.testing.assert_array_equal(found, expected)
    assert found.min() >= 0
    assert found.max() < 1


@faces
def test_members_and_numbers_of_values_change_nothing(face):
    together = values_of(face, [5, -9, 123456789], 2000)
    for k, seed in enumerate((5, -9, 123456789)):
        assert torch.equal(values_of(face, [seed], 1100)[0], together[k, :1100])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = uniforms(torch.tensor([3, 4, 5]), 200_001)
    finally:
        torch.set_num_threads(before)
    for k, seed in enumerate((3, 4, 5)):
        expected = (random_bits(seed, 200_001) >> np.uint64(40)).astype(np.float32) / np.float32(2**24)
        np.testing.assert_array_equal(found[k].numpy(), expected)


def test_they_spread_evenly():
    values = uniforms(torch.tensor([2024]), 1 << 20)[0].double().numpy()
    counts = np.histogram(values, 64, (0, 1))[0]
    assert ((counts - 2**14) ** 2 / 2**14).sum() < 63 + 5 * np.sqrt(2 * 63)  # chi squared, 5 deviations above its mean
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 5 / 2**10


@pytest.mark.parametrize("seeds", [torch.zeros(2), torch.zeros(2, dtype=torch.int32), torch.zeros(1, 2).long()])
def test_seeds_of_another_type_or_shape_are_refused(seeds):
    with pytest.raises(ValueError, match=r"give int64 \[K\]"):
        uniforms(seeds, 3)


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if CUDA else [])])
def test_the_operator_is_registered_as_torch_asks(device):
    torch.library.opcheck(torch.ops.atft.uniforms.default, (torch.tensor([1, -2], device=device), 7))
    compiled = torch.compile(uniforms, fullgraph=True, backend="aot_eager")
    seeds = torch.tensor([1, -2], device=device)
    assert torch.equal(compiled(seeds, 9), uniforms(seeds, 9))
