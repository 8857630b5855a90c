"""The order of an epoch is golden: it must never change with a version of anything."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaders.random_bits import below, mix, permutation, random_bits

MASK = 2**64 - 1


def splitmix64(state, n):
    """Steele, Lea and Flood 2014, in Python's own integers."""
    out = []
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        out.append(z ^ (z >> 31))
    return out


@pytest.mark.parametrize("key", [0, 1, 1234567, MASK])
def test_bits_are_splitmix64(key):
    assert random_bits(key, 20).tolist() == splitmix64(key, 20)


def test_golden():
    assert splitmix64(1234567, 2) == [6457827717110365317, 3203168211198807973]  # the published test vector
    assert permutation(7, 10).tolist() == sorted(range(10), key=splitmix64(7, 10).__getitem__)


@given(st.integers(0, MASK), st.integers(1, 300))
def test_a_permutation_holds_each_number_once(key, n):
    assert sorted(permutation(key, n).tolist()) == list(range(n))


@given(st.integers(0, MASK), st.integers(1, 10**6))
def test_below_is_below(key, n):
    assert 0 <= below(key, n) < n


def test_streams_differ_by_every_part_and_by_their_order():
    keys = [mix(0), mix(1), mix(0, 0), mix(1, 0), mix(0, 1), mix(0, 0, 1), mix(2, 0)]
    assert len(set(keys)) == len(keys)
    assert mix(1, 0) != mix(0, 1)
    firsts = [permutation(mix(0, epoch), 50).tolist() for epoch in range(20)]
    assert len({tuple(p) for p in firsts}) == 20


def test_permutations_are_even():
    """Every number comes first about as often: chi-square of 20,000 draws of 10, 9 degrees of freedom."""
    firsts = np.bincount([permutation(mix(3, i), 10)[0] for i in range(20_000)], minlength=10)
    assert ((firsts - 2000) ** 2 / 2000).sum() < 33.7  # p = 1e-4
