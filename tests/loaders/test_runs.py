"""Copies of runs at every alignment and length: the values arrive, and nothing beside them is touched."""

import numpy as np
import pytest

from loaders.runs import copy_run, widen_run


@pytest.mark.parametrize("copy", [copy_run, widen_run])
def test_every_alignment_and_length(copy):
    rng = np.random.default_rng(0)
    dtype = np.float32 if copy is copy_run else np.float16
    source = rng.standard_normal(200).astype(dtype)
    memory = np.empty(300, np.float32)
    for head in range(17):  # more than a line of 16
        for shift in (0, 1, 7, 15):
            for values in (0, 1, 2, 15, 16, 17, 31, 64, 100, 129):
                memory[:] = -7
                to = memory[head:].ctypes.data
                copy(to, source[shift:].ctypes.data, values)
                np.testing.assert_array_equal(memory[head : head + values], source[shift : shift + values])
                assert (memory[:head] == -7).all()
                assert (memory[head + values :] == -7).all()
