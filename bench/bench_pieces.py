"""The weighted piecewise-linear columns of an embedding beside torch's own operators, values and gradient.

Each round times, one after the other in this process and on fresh random inputs, torch, a memory copy, and ours.
Medians over the rounds are compared. On one thread: each of the trainer's has a model or codes of its own.

    samples_per_s      D S of a block over the time
    ratio              torch's time over ours
    bytes_per_s        bytes that must move at least: inputs read once, columns and gradient written once
    limit_bytes_per_s  of a copy that moves as many; share_of_limit is bytes_per_s over it

S codes, D days, F features, B columns of a feature
"""

from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench.bench_kernels import DEVICE, copier, timed
from engine.model.embedding import Basis
from kernels.pieces import pieces, weighted_pieces

CPU = torch.device("cpu")
DAYS, FEATURES, BINS = 32, 59, 8
ROUNDS = 30
BASIS = Basis(BINS, gaussian=False)
Columns = Callable[..., Tensor]


@pytest.mark.skipif(DEVICE.type == "cuda", reason="the walk, and its limit, are the CPU's")
@pytest.mark.parametrize("codes", [pytest.param(codes, id=f"S{codes}") for codes in (64, 512)])
def test_pieces(benchmark: BenchmarkFixture, codes: int) -> None:
    """Columns of a block of 32 days, and the gradient by the weights."""
    entries = codes * DAYS * FEATURES
    nbytes = 4 * entries * (2 + BINS + BINS + 2)  # x, weight, columns; upstream, x, gradient
    seconds: dict[str, list[float]] = {"peer": [], "limit": []}
    given, copy, threads = fresh(codes), copier(nbytes), torch.get_num_threads()
    torch.set_num_threads(1)
    try:

        def setup() -> tuple[Any, Any]:
            inputs = next(given)
            seconds["peer"].append(timed(lambda: passed(by_torch, *inputs), CPU))
            seconds["limit"].append(timed(copy, CPU))
            return (weighted_pieces, *next(given)), {}

        found = benchmark.pedantic(passed, setup=setup, rounds=ROUNDS, warmup_rounds=2)
    finally:
        torch.set_num_threads(threads)
    assert all(part.isfinite().all() for part in found)
    if benchmark.stats is not None:
        mine = median(benchmark.stats.stats.data)
        peer, limit = (median(values[-ROUNDS:]) for values in seconds.values())
        benchmark.extra_info.update(
            samples_per_s=codes * DAYS / mine,
            peer="torch",
            ratio=peer / mine,
            bytes_per_s=nbytes / mine,
            limit_bytes_per_s=nbytes / limit,
            share_of_limit=limit / mine,
        )


def fresh(codes: int) -> Iterator[tuple[Tensor, ...]]:
    """x, weight, and the upstream gradient, random each time."""
    generator = torch.Generator().manual_seed(0)
    shape = (codes, DAYS, FEATURES)
    while True:
        x, weight = (torch.randn(shape, generator=generator) for _ in range(2))
        yield x, weight.requires_grad_(), torch.randn(*shape, BINS, generator=generator)


def by_torch(x: Tensor, weight: Tensor, *bounds: Tensor) -> Tensor:
    """The rival: the same by torch's operators."""
    return weight[..., None] * pieces(x, *bounds)


def passed(columns: Columns, x: Tensor, weight: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """The columns and the gradient by the weights."""
    out = columns(x, weight, BASIS.edges, BASIS.low, BASIS.high)
    return out.detach(), torch.autograd.grad(out, weight, upstream)[0]
