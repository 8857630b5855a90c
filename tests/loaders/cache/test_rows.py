"""Counts of stretches against a loop, at every border of a word."""

import numpy as np
import pytest

from loaders.cache.rows import row_bits, row_set


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 127, 128, 1000])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_counts_are_those_of_a_loop(n, share):
    mask = np.random.default_rng(n).random(n) < share
    rows = row_set(row_bits(mask))
    expected = [int(mask[:r].sum()) for r in range(n + 1)]
    ends = np.arange(n + 1)
    assert rows.between(np.zeros_like(ends), ends).tolist() == expected
    low, high = np.sort(np.random.default_rng(1).integers(0, n + 1, (2, 50)), 0)
    assert rows.between(low, high).tolist() == [int(mask[a:b].sum()) for a, b in zip(low, high, strict=True)]


def test_bits_are_little_endian_and_end_in_a_zero_word():
    mask = np.zeros(130, bool)
    mask[[0, 63, 64, 129]] = True
    assert row_bits(mask).tolist() == [1 | 1 << 63, 1, 2, 0]
