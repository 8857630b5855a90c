"""The larger and the smaller of floats, where a NaN stays one: hardware's own maximum and minimum drop it."""

import triton
import triton.language as tl


@triton.jit
def larger(a, b):  # type: ignore[no-untyped-def]
    """The larger of two numbers, NaN where one is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def smaller(a, b):  # type: ignore[no-untyped-def]
    """The smaller of two numbers, NaN where one is."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def largest(values):  # type: ignore[no-untyped-def]
    """The largest of a vector, NaN where one is."""
    return tl.reduce(values, 0, larger)


@triton.jit
def smallest(values):  # type: ignore[no-untyped-def]
    """The smallest of a vector, NaN where one is."""
    return tl.reduce(values, 0, smaller)
