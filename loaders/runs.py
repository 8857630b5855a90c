"""Copies of contiguous runs inside compiled loops: addresses in, streaming stores out.

A compiled loop of plain stores reads every cache line of its target before it writes it. Streaming stores do not, which
is most of the difference between such a loop and memory's speed; libc's memcpy uses them for megabytes only, and the
runs of a block are some 30 kB. They also leave the caches to the computation that goes on beside.

Addresses are uintp. A caller that hands its target to another thread calls `fence` first.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.jit.compile import jit

LINE = 64  # bytes of a cache line, and of one streaming store
VALUES = LINE // 4
DISTANCE = 512  # bytes that a copy loads ahead: the processor's own prefetch stops at the border of every page


def _store_line(builder: Any, value: Any, target: Any) -> None:
    line = ir.VectorType(ir.FloatType(), VALUES)
    store = builder.store(value, builder.inttoptr(target, line.as_pointer()), align=LINE)
    store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))


@intrinsic
def copy_bytes(typingctx: Any, target: Any, source: Any, size: Any) -> Any:
    """libc's memcpy of `size` bytes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        to, at = (builder.inttoptr(address, byte) for address in args[:2])
        cgutils.raw_memcpy(builder, to, at, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.uintp), codegen


@intrinsic
def _copy_line(typingctx: Any, target: Any, source: Any) -> Any:
    """16 float32 to a target aligned to a line."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        line = ir.VectorType(ir.FloatType(), VALUES)
        _store_line(builder, builder.load(builder.inttoptr(args[1], line.as_pointer()), align=4), args[0])
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), codegen


@intrinsic
def _widen_line(typingctx: Any, target: Any, source: Any) -> Any:
    """16 float16 to float32 at a target aligned to a line.

    Numba has no float16 on CPUs; LLVM has, and makes this one or two vector instructions (F16C).
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        halves, line = ir.VectorType(ir.HalfType(), VALUES), ir.VectorType(ir.FloatType(), VALUES)
        stored = builder.load(builder.inttoptr(args[1], halves.as_pointer()), align=2)
        _store_line(builder, builder.fpext(stored, line), args[0])
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), codegen


@intrinsic
def _widen_value(typingctx: Any, target: Any, source: Any) -> Any:
    """One float16 to float32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        stored = builder.load(builder.inttoptr(args[1], ir.HalfType().as_pointer()), align=2)
        to = builder.inttoptr(args[0], ir.FloatType().as_pointer())
        builder.store(builder.fpext(stored, ir.FloatType()), to, align=4)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), codegen


@intrinsic
def prefetch(typingctx: Any, source: Any) -> Any:
    """Begin to load the cache line at an address; any address will do."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        read, keep, data = (ir.Constant(number, value) for value in (0, 3, 1))
        builder.call(function, [builder.inttoptr(args[0], byte), read, keep, data])
        return context.get_dummy_value()

    return types.void(types.uintp), codegen


@jit(nogil=True)
def prefetch_run(source, size):  # type: ignore[no-untyped-def]
    """Begin to load the lines of `size` bytes."""
    for at in range(0, size, LINE):
        prefetch(source + at)  # type: ignore[call-arg]


@intrinsic
def fence(typingctx: Any) -> Any:
    """Make streaming stores visible to other threads before anything that follows."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@jit(nogil=True)
def copy_run(target, source, values):  # type: ignore[no-untyped-def]
    """`values` float32 from source to target, both aligned to 4 bytes."""
    head = min(values, (-target % LINE) // 4)
    copy_bytes(target, source, head * 4)  # type: ignore[call-arg]
    lines = (values - head) // VALUES
    target += head * 4
    source += head * 4
    for i in range(lines):
        prefetch(source + i * LINE + DISTANCE)
        _copy_line(target + i * LINE, source + i * LINE)
    done = lines * LINE
    copy_bytes(target + done, source + done, (values - head) * 4 - done)


@jit(nogil=True)
def widen_run(target, source, values):  # type: ignore[no-untyped-def]
    """`values` float16 at source, aligned to 2 bytes, to float32 at target, aligned to 4."""
    head = min(values, (-target % LINE) // 4)
    for i in range(head):
        _widen_value(target + i * 4, source + i * 2)  # type: ignore[call-arg]
    lines = (values - head) // VALUES
    target += head * 4
    source += head * 2
    for i in range(lines):
        prefetch(source + i * 2 * VALUES + DISTANCE)  # type: ignore[call-arg]
        _widen_line(target + i * LINE, source + i * 2 * VALUES)
    for i in range(lines * VALUES, values - head):
        _widen_value(target + i * 4, source + i * 2)  # type: ignore[call-arg]
