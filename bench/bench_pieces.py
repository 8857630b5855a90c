"""Weighted piecewise-linear columns times a matrix, values and gradients, beside torch's own operators.

Each round times, one after the other in this process and on fresh random inputs, torch, matrix products as the limit,
and ours. Medians over the rounds are compared. All on one thread, like each thread of a training.

    samples_per_s      D S of a block over the time
    ratio              torch's time over ours
    flops_per_s        floating-point operations of the three products, of values and of both gradients, per second
    limit_flops_per_s  of a product of two large matrices; share_of_limit is flops_per_s over it

S codes, D days, F features, B columns of a feature
"""

from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn import functional

from bench.measurement.clock import DEVICE, timed
from bench.measurement.limits import PRODUCT_FLOPS, products
from engine.model.atft.embedding import Basis
from kernels.pieces import pieces, weighted_pieces

DAYS, FEATURES, BINS, WIDTH = 32, 59, 8, 64
ROUNDS = 30
BASIS = Basis(BINS, gaussian=False)
Weighted = Callable[..., Tensor]


@pytest.mark.skipif(DEVICE.type == "cuda", reason="a kernel of the CPU")
@pytest.mark.parametrize("codes", [pytest.param(codes, id=f"S{codes}") for codes in (64, 512)])
def test_pieces(benchmark: BenchmarkFixture, codes: int) -> None:
    """The static embedding of a block of 32 days, and the gradients by the weights and by the matrix."""
    flops = 3 * 2 * codes * DAYS * FEATURES * BINS * WIDTH
    seconds: dict[str, list[float]] = {"peer": [], "limit": []}
    given, product, threads = fresh(codes), products(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:

        def setup() -> tuple[Any, Any]:
            inputs = next(given)
            seconds["peer"].append(timed(lambda: passed(by_torch, *inputs)))
            seconds["limit"].append(timed(product))
            return (weighted_pieces, *next(given)), {}

        found = benchmark.pedantic(passed, setup=setup, rounds=ROUNDS, warmup_rounds=2)
    finally:
        torch.set_num_threads(threads)
    assert all(part.isfinite().all() for part in found)
    if benchmark.stats is not None:
        mine = median(benchmark.stats.stats.data)
        peer, limit = (median(values[-ROUNDS:]) for values in seconds.values())
        at_most = PRODUCT_FLOPS / limit
        benchmark.extra_info.update(
            samples_per_s=codes * DAYS / mine,
            peer="torch",
            ratio=peer / mine,
            flops_per_s=flops / mine,
            limit_flops_per_s=at_most,
            share_of_limit=flops / mine / at_most,
        )


def fresh(codes: int) -> Iterator[tuple[Tensor, ...]]:
    """x, weight, matrix, and the upstream gradient, random each time."""
    generator = torch.Generator().manual_seed(0)
    shape = (codes, DAYS, FEATURES)
    while True:
        x, weight = (torch.randn(shape, generator=generator) for _ in range(2))
        matrix = torch.randn(WIDTH, FEATURES * BINS, generator=generator)
        upstream = torch.randn(*shape[:-1], WIDTH, generator=generator)
        yield x, weight.requires_grad_(), matrix.requires_grad_(), upstream


def by_torch(x: Tensor, weight: Tensor, matrix: Tensor, *bounds: Tensor) -> Tensor:
    """The peer: the same by torch's operators."""
    return functional.linear((weight[..., None] * pieces(x, *bounds)).flatten(-2), matrix)


def passed(weighted: Weighted, x: Tensor, weight: Tensor, matrix: Tensor, upstream: Tensor) -> tuple[Tensor, ...]:
    """The values, and the gradients by the weights and by the matrix."""
    out = weighted(x, weight, matrix, BASIS.edges, BASIS.low, BASIS.high)
    return out.detach(), *torch.autograd.grad(out, (weight, matrix), upstream)
