"""Gather a block from rows in memory that the device can read: S runs of T rows, cast to float32, absent rows zero.

    row(code s, day t)   lies at   address[s] + (t - first[s]) * row bytes      for first[s] <= t < first[s] + days[s]

A run is contiguous in memory, so there is no index and no search, and a program copies CHUNK consecutive values of one
code. Addresses lie in the device's own memory, or in host memory that is registered with the driver; the same kernel
then reads the rows of the block over PCIe. Each value is read once and written once, at the speed of that memory.

S codes, D scored days, L context, T = D + L - 1 days read, F features, H horizons
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 2048  # values of a program: 8 warps of 32 threads, 8 values each


@triton.jit
def _inside(first, days, begin, span):  # type: ignore[no-untyped-def]
    """The positions [low, high) of a run's days that lie inside the code's span."""
    low = tl.minimum(tl.maximum(first - begin, 0), span)
    return low, tl.maximum(tl.minimum(first + days - begin, span), low)


@triton.jit
def _gather_features(  # type: ignore[no-untyped-def]
    address, first, days, codes, x, begin, span, width, HALF: tl.constexpr, CHUNK: tl.constexpr
):
    s = tl.program_id(0)
    code = tl.load(codes + s)
    start = tl.load(first + code)
    low, high = _inside(start, tl.load(days + code), begin, span)
    value = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    inside = (value >= low * width) & (value < high * width)
    rows = tl.load(address + code)
    stored = rows.to(tl.pointer_type(tl.float16)) if HALF else rows.to(tl.pointer_type(tl.float32))
    # The run's first value may lie before the code's first row; the mask keeps loads inside.
    run = (begin - start).to(tl.int64) * width
    values = tl.load(stored + (run + value), mask=inside, other=0.0)
    target = x + s.to(tl.int64) * span * width + value
    tl.store(target, values.to(tl.float32), mask=value < span * width)


@triton.jit
def _gather_labels(  # type: ignore[no-untyped-def]
    presence_at, targets_at, first, days, codes, presence, y, begin, span, context, horizons, start_day, stop_day,
    scored, DAYS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    s = tl.program_id(0)
    code = tl.load(codes + s)
    start = tl.load(first + code)
    low, high = _inside(start, tl.load(days + code), begin, span)
    t = tl.program_id(1) * DAYS + tl.arange(0, DAYS)
    row = (begin - start).to(tl.int64) + t
    kinds = tl.load(presence_at + code).to(tl.pointer_type(tl.uint8))
    kind = tl.load(kinds + row, mask=(t >= low) & (t < high), other=0)
    tl.store(presence + s.to(tl.int64) * span + t, kind, mask=t < span)

    day = begin + t
    labelled = (kind == scored) & (t >= context - 1) & (day >= start_day) & (day < stop_day)
    h = tl.arange(0, WIDTH)
    stored = tl.load(targets_at + code).to(tl.pointer_type(tl.float32))
    at = row[:, None] * horizons + h[None, :]
    values = tl.load(stored + at, mask=labelled[:, None] & (h < horizons)[None, :], other=float("nan"))
    target = y + (s.to(tl.int64) * (span - context + 1) + (t - context + 1)[:, None]) * horizons + h[None, :]
    tl.store(target, values, mask=((t >= context - 1) & (t < span))[:, None] & (h < horizons)[None, :])


def gather_block(
    address: Tensor,
    first: Tensor,
    days: Tensor,
    half: bool,
    codes: Tensor,
    day: int,
    context: int,
    part: tuple[int, int],
    scored: int,
    x: Tensor,
    presence: Tensor,
    y: Tensor,
) -> None:
    """Fill x, presence and y with the block of the given codes whose first scored day is `day`.

    On CUDA it returns at once, the work queued on the current stream.

    Args:
        address: int64 [3, C], of every code's first row: its features, targets (float32) and presence (uint8).
        first, days: int64 [C], first day and number of days of every code.
        half: features are stored as float16; else as float32.
        codes: int64 [S], numbers of codes.
        context: L.
        part: targets are given on days part[0]..part[1]-1 only, NaN elsewhere.
        scored: the presence of rows that have targets.
        x: [S, T, F] float32, contiguous, as presence uint8 [S, T] and y float32 [S, D, H].

    All tensors are on one device. On the CPU it runs in Triton's interpreter only. Raises ValueError for arrays whose
    shapes disagree.
    """
    n, span, width = x.shape
    horizons = y.shape[2]
    if presence.shape != (n, span) or y.shape[:2] != (n, span - context + 1) or len(codes) != n:
        shapes = f"x {tuple(x.shape)}, presence {tuple(presence.shape)}, y {tuple(y.shape)}, {len(codes)} codes"
        raise ValueError(f"{shapes} do not agree for a context of {context}")
    begin = day - context + 1
    grid: Any = (n, triton.cdiv(span * width, CHUNK))
    _gather_features[grid](
        address[0], first, days, codes, x, begin, span, width, HALF=half, CHUNK=CHUNK, num_warps=8
    )  # fmt: skip
    per_program = min(triton.next_power_of_2(span), 256)
    grid = (n, triton.cdiv(span, per_program))
    _gather_labels[grid](
        address[2], address[1], first, days, codes, presence, y, begin, span, context, horizons, part[0], part[1],
        scored, DAYS=per_program, WIDTH=triton.next_power_of_2(horizons), num_warps=4,
    )  # fmt: skip


def runs_on(device: torch.device) -> bool:
    """Whether the kernel runs there: on CUDA, and on the CPU in Triton's interpreter."""
    return device.type == "cuda" or bool(triton.knobs.runtime.interpret)
