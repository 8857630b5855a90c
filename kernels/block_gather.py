"""Gather a block from rows in memory that the device can read: S runs of T rows, cast to float32, absent rows zero.

    row(code s, day t)   lies at   address[s] + (t - first[s]) * row bytes      for first[s] <= t < first[s] + days[s]

A run is contiguous in memory, so there is no index and no search, and a program copies CHUNK consecutive values of one
code. Addresses lie in the device's own memory, or in host memory that is registered with the driver; the same kernel
then reads the rows of the block over PCIe. Each value is read once and written once, at the speed of that memory.

`gather_block` forms one block. `gather_step` forms those of K members at a step; it reads their codes and days from a
table of all steps on the device.

B steps, K members, S codes, D scored days, L context, T = D + L - 1 days read, F features, H horizons
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
def _run(codes, day, step, member_codes, TABLE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Code and first scored day of this program's run: of the block, or of the row `step` of a table."""
    s = tl.program_id(0)
    if TABLE:
        row, runs = tl.load(step), tl.num_programs(0)
        return tl.load(codes + row * runs + s).to(tl.int64), tl.load(day + (row * runs + s) // member_codes)
    else:
        return tl.load(codes + s).to(tl.int64), day


@triton.jit
def _span(first, days, code):  # type: ignore[no-untyped-def]
    """First day and number of days of a code; none where there is no code."""
    return tl.load(first + code, mask=code >= 0, other=0), tl.load(days + code, mask=code >= 0, other=0)


@triton.jit(do_not_specialize=["day"])
def _gather_features(  # type: ignore[no-untyped-def]
    address, first, days, codes, day, step, x, member_codes, context, span, width, HALF: tl.constexpr,
    TABLE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    code, scored_from = _run(codes, day, step, member_codes, TABLE)
    begin = scored_from - context + 1
    start, count = _span(first, days, code)
    low, high = _inside(start, count, begin, span)
    value = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    inside = (value >= low * width) & (value < high * width)
    rows = tl.load(address + code, mask=code >= 0, other=0)
    stored = rows.to(tl.pointer_type(tl.float16)) if HALF else rows.to(tl.pointer_type(tl.float32))
    # The run's first value may lie before the code's first row; the mask keeps loads inside.
    run = (begin - start).to(tl.int64) * width
    values = tl.load(stored + (run + value), mask=inside, other=0.0)
    target = x + tl.program_id(0).to(tl.int64) * span * width + value
    tl.store(target, values.to(tl.float32), mask=value < span * width)


@triton.jit(do_not_specialize=["day"])
def _gather_labels(  # type: ignore[no-untyped-def]
    presence_at, targets_at, first, days, codes, day, step, presence, y, member_codes, context, span, horizons,
    start_day, stop_day, scored, TABLE: tl.constexpr, DAYS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    s = tl.program_id(0).to(tl.int64)
    code, scored_from = _run(codes, day, step, member_codes, TABLE)
    begin = scored_from - context + 1
    start, count = _span(first, days, code)
    low, high = _inside(start, count, begin, span)
    t = tl.program_id(1) * DAYS + tl.arange(0, DAYS)
    row = (begin - start).to(tl.int64) + t
    kinds = tl.load(presence_at + code, mask=code >= 0, other=0).to(tl.pointer_type(tl.uint8))
    kind = tl.load(kinds + row, mask=(t >= low) & (t < high), other=0)
    tl.store(presence + s * span + t, kind, mask=t < span)

    labelled = (kind == scored) & (t >= context - 1) & (begin + t >= start_day) & (begin + t < stop_day)
    h = tl.arange(0, WIDTH)
    stored = tl.load(targets_at + code, mask=code >= 0, other=0).to(tl.pointer_type(tl.float32))
    at = row[:, None] * horizons + h[None, :]
    values = tl.load(stored + at, mask=labelled[:, None] & (h < horizons)[None, :], other=float("nan"))
    target = y + (s * (span - context + 1) + (t - context + 1)[:, None]) * horizons + h[None, :]
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
    if len(codes) != len(x):
        raise ValueError(f"x {tuple(x.shape)} and {len(codes)} codes do not agree")
    _gather(address, first, days, half, codes, day, codes, len(codes), context, part, scored, x, presence, y)


def gather_step(
    address: Tensor,
    first: Tensor,
    days: Tensor,
    half: bool,
    codes: Tensor,
    day: Tensor,
    step: Tensor,
    context: int,
    part: tuple[int, int],
    scored: int,
    x: Tensor,
    presence: Tensor,
    y: Tensor,
) -> None:
    """Fill x, presence and y with the blocks of K members at one step, read from a table of all steps on the device.

    No argument on the host changes between steps, so a CUDA graph can hold the call: it reads the number of the step
    from memory. Other arguments are those of `gather_block`.

    Args:
        codes: int32 or int64 [B, K, S], numbers of codes; -1 for none, which gives x 0, presence 0 and y NaN.
        day: int64 [B, K], first scored day; any where a member has no codes.
        step: int64 [1], the row of the table to read, 0..B-1.
        x: [K, S, T, F] float32, contiguous, as presence uint8 [K, S, T] and y float32 [K, S, D, H].

    Raises ValueError for arrays whose shapes disagree.
    """
    if codes.shape[1:] != x.shape[:2] or day.shape != codes.shape[:2] or step.shape != (1,):
        shapes = f"codes {tuple(codes.shape)}, day {tuple(day.shape)}, step {tuple(step.shape)}, x {tuple(x.shape)}"
        raise ValueError(f"{shapes} do not agree: give [B, K, S], [B, K], [1] and [K, S, T, F]")
    if presence.shape[:2] != x.shape[:2] or y.shape[:2] != x.shape[:2]:
        raise ValueError(f"presence {tuple(presence.shape)}, y {tuple(y.shape)} and x {tuple(x.shape)} do not agree")
    runs = [array.view(-1, *array.shape[2:]) for array in (x, presence, y)]
    _gather(address, first, days, half, codes, day, step, codes.shape[2], context, part, scored, *runs)


def _gather(
    address: Tensor, first: Tensor, days: Tensor, half: bool, codes: Tensor, day: int | Tensor, step: Tensor,
    member_codes: int, context: int, part: tuple[int, int], scored: int, x: Tensor, presence: Tensor, y: Tensor,
) -> None:  # fmt: skip
    """Launch the kernels. day: of the block, which has no step; or a tensor, of the table."""
    n, span, width = x.shape
    horizons, table = y.shape[2], isinstance(day, Tensor)
    if presence.shape != (n, span) or y.shape[:2] != (n, span - context + 1):
        shapes = f"x {tuple(x.shape)}, presence {tuple(presence.shape)}, y {tuple(y.shape)}"
        raise ValueError(f"{shapes} do not agree for a context of {context}")
    grid: Any = (n, triton.cdiv(span * width, CHUNK))
    _gather_features[grid](
        address[0], first, days, codes, day, step, x, member_codes, context, span, width, HALF=half, TABLE=table,
        CHUNK=CHUNK, num_warps=8,
    )  # fmt: skip
    per_program = min(triton.next_power_of_2(span), 256)
    grid = (n, triton.cdiv(span, per_program))
    _gather_labels[grid](
        address[2], address[1], first, days, codes, day, step, presence, y, member_codes, context, span, horizons,
        part[0], part[1], scored, TABLE=table, DAYS=per_program, WIDTH=triton.next_power_of_2(horizons), num_warps=4,
    )  # fmt: skip


def runs_on(device: torch.device) -> bool:
    """Whether the kernel runs there: on CUDA, and on the CPU in Triton's interpreter."""
    return device.type == "cuda" or bool(triton.knobs.runtime.interpret)
