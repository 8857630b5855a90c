"""The ranking operators beside their peers and the physical limit, by the number and the length of cross-sections.

Each round times three passes over fresh random blocks, one after the other in this process: the peer's, a memory copy,
and ours. Medians over the rounds are compared, per block. Both get the same blocks: with a tenth of the entries masked
and tied targets, or without masks where the peer supports none. A peer that runs on the CPU alone is timed there, and
`peer_device` names it. After the rounds, one more pass of each measures its memory, and ours is compared with the
definition.

    cells_per_s        entries of the cross-sections, G * N of a block, per second
    ratio              the peer's time over ours
    bytes_per_s        the fewest bytes that an operator moves: its inputs read once, its results written once
    limit_bytes_per_s  of a copy that moves as many; share_of_limit is bytes_per_s over it
    peak_memory_bytes  that a pass adds at its peak; peer_peak_memory_bytes likewise

G cross-sections, N entries, H horizons, Q quantile levels
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench.measurement.clock import DEVICE, synchronise, timed
from bench.measurement.limits import copier
from bench.measurement.memory import peak_memory
from bench.peers import Peer, Unable, installed_peer, peer_names
from bench.peers.ranking.plain_terms import loss as loss_by_terms
from bench.workloads import reference
from bench.workloads.ranking import LEVELS, TAU, Ranking, Sections, fresh_sections, with_gradients
from engine.config import Config, ModelConfig
from engine.model.registry import build_model
from engine.training.objective import draw_rotations, make_objective
from kernels.correlation import spearman
from kernels.rank_objective import rank_objective
from kernels.soft_rank import soft_rank

BLOCKS = 4  # of ours in a pass
PREPARED = 8  # blocks in rotation
ROUNDS = 15
IDLE = 0.02  # seconds before a pass: threads of a parallel loop spin for some ms after it, on cores of the next pass
SLOW = ("all_pairs", "fast_soft_sort", "pairwise")  # a pass takes up to seconds
SLOW_ROUNDS = 5
CHECKED = 2  # cross-sections that are compared with all their pairs
MANY, FROM, TO = 64, 2000, 8000  # G, so large that the fixed cost of a call is negligible, and N of the growth
LARGE = pytest.mark.full


def sizes(*default: tuple[int, int]) -> Any:
    """Every (G, N); those that are not default are marked as large."""
    return pytest.mark.parametrize(
        "size",
        [
            pytest.param((groups, names), id=f"G{groups}-N{names}", marks=() if (groups, names) in default else LARGE)
            for groups in (1, 16, 64)
            for names in (500, 2000, 4000, 8000)
        ],
    )


def peers(task: str) -> Any:
    """The peers of a task."""
    return pytest.mark.parametrize("name", peer_names(task))


SIZES = sizes((1, 4000), (16, 500), (16, 2000), (16, 4000), (16, 8000), (64, 4000))


def our_soft_rank(block: Sections) -> tuple[Tensor, ...]:
    """Soft ranks, and the gradient by the scores; [G, N] each."""
    return with_gradients(partial(soft_rank, mask=block.mask, tau=TAU), block.scores, upstream=block.upstream)


def our_spearman(block: Sections) -> Tensor:
    """Rank correlations of scores and targets, [G]."""
    return spearman(block.scores, block.targets, block.mask)


def our_objective(block: Sections) -> tuple[Tensor, ...]:
    """The loss [], and its gradients by scores [G, N] and quantiles [G, N, Q]."""

    def loss(scores: Tensor, quantiles: Tensor) -> Tensor:
        return rank_objective(
            scores[None], block.targets[None], block.mask[None], block.weights, returns=block.returns[None],
            quantiles=quantiles[None], levels=block.levels, tau=TAU,
        )[0]  # fmt: skip

    return with_gradients(loss, block.scores, block.quantiles)


def our_pairwise(block: Sections) -> tuple[Tensor, ...]:
    """The loss [] of the rotations' pairs, and its gradient by the scores [G, N]."""

    def loss(scores: Tensor) -> Tensor:
        return rank_objective(
            scores[None], block.targets[None], block.mask[None], block.weights, rotations=block.rotations
        )[0]

    return with_gradients(loss, block.scores)


OURS: dict[str, Callable[[Sections], Any]] = {
    "soft_rank": our_soft_rank,
    "spearman": our_spearman,
    "objective": our_objective,
    "pairwise": our_pairwise,
}
MOVED = {  # bytes per entry
    "soft_rank": 4 * 4,  # scores and upstream gradient in, ranks and gradient out
    "spearman": 4 * 2,  # scores and targets in
    "objective": 4 * (4 + 2 * len(LEVELS)),  # scores, targets, returns and quantiles in, two gradients out
    "pairwise": 4 * 3,  # scores and targets in, gradient out
}


@SIZES
@peers("soft_rank")
def test_soft_rank(benchmark: BenchmarkFixture, name: str, size: tuple[int, int]) -> None:
    """Soft ranks, forward and backward."""
    block, (ranks, gradient) = compare(benchmark, "soft_rank", name, Ranking(*size, DEVICE))
    for row in some_rows(block):
        valid = block.mask[row]
        scores, upstream, found, slope = (
            array[row, valid].cpu().numpy() for array in (block.scores, block.upstream, ranks, gradient)
        )
        expected, expected_slope = reference.soft_rank(scores, upstream, TAU)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * size[1])  # some ulp of float32 at rank N
        np.testing.assert_allclose(slope, expected_slope, rtol=0, atol=1e-4 * np.abs(expected_slope).max())


@SIZES
@peers("spearman")
def test_spearman(benchmark: BenchmarkFixture, name: str, size: tuple[int, int]) -> None:
    """Exact rank correlations, ties averaged."""
    block, found = compare(benchmark, "spearman", name, Ranking(*size, DEVICE))
    for row in some_rows(block):
        a, b = (array[row, block.mask[row]].cpu().numpy() for array in (block.scores, block.targets))
        np.testing.assert_allclose(found[row].item(), reference.spearman(a, b), rtol=0, atol=1e-12)


@SIZES
@peers("objective")
def test_objective(benchmark: BenchmarkFixture, name: str, size: tuple[int, int]) -> None:
    """All terms of the objective but `pairwise`, of one horizon, forward and backward."""
    work = Ranking(*size, DEVICE)
    block, found = compare(benchmark, "objective", name, work)
    check_loss(work, block, *found)


@sizes((1, 4000), (16, 500), (16, 2000))
@peers("pairwise")
def test_pairwise(benchmark: BenchmarkFixture, name: str, size: tuple[int, int]) -> None:
    """The term `pairwise` alone, by 16 rotations, forward and backward."""
    work = Ranking(*size, DEVICE, terms=("pairwise",))
    block, found = compare(benchmark, "pairwise", name, work)
    check_loss(work, block, *found)


@pytest.mark.parametrize("operator", ["soft_rank", "spearman", "objective"], ids=f"{{}}-G{MANY}-N{FROM}-N{TO}".format)
def test_growth(benchmark: BenchmarkFixture, operator: str) -> None:
    """Time as a power of N: `growth` is the measured exponent, `n_log_n_growth` that of N log N."""
    small, large = (prepared(Ranking(MANY, names, DEVICE)) for names in (FROM, TO))
    seconds: list[float] = []

    def setup() -> tuple[Any, Any]:
        given = list(islice(small, BLOCKS))
        seconds.append(timed(lambda: passed(operator, given)))
        return (operator, list(islice(large, BLOCKS))), {}

    benchmark.pedantic(passed, setup=setup, rounds=ROUNDS, warmup_rounds=1)
    if benchmark.stats is not None:
        grown = median(benchmark.stats.stats.data) / median(seconds[-ROUNDS:])
        benchmark.extra_info.update(
            cells_per_s=BLOCKS * MANY * TO / median(benchmark.stats.stats.data),
            growth=math.log(grown) / math.log(TO / FROM),
            n_log_n_growth=1 + math.log(math.log(TO) / math.log(FROM)) / math.log(TO / FROM),
        )


def test_step(benchmark: BenchmarkFixture) -> None:
    """A training step of the model `small` in plain torch: 32 days x 512 codes, L=20, 59 features, 2 horizons.

    `share_of_step` is the time of the objective alone, forward and backward, over that of the step.
    """
    config = Config(model=ModelConfig(size="small"))
    days, codes, span = config.data.block_days, config.data.block_codes, config.data.context - 1
    model = build_model(config.model, 59, 2, config.data.context, seed=0).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    random = torch.Generator().manual_seed(0)
    blocks = cycle(
        (
            torch.randn(codes, span + days, 59, generator=random).to(DEVICE),
            torch.randn(codes, days, 2, generator=random).to(DEVICE),
        )
        for _ in range(PREPARED)
    )
    present = torch.ones(codes, span + days, device=DEVICE)
    objective = make_objective(config, 2, DEVICE)
    rotations = draw_rotations(objective, codes, 0, 0, DEVICE)
    alone: list[float] = []

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
            scores, quantiles = model(x, present)
        return scores, quantiles

    def loss(y: Tensor, scores: Tensor, quantiles: Tensor) -> Tensor:
        return objective(scores, quantiles, y, rotations)[0]

    def setup() -> tuple[Any, Any]:
        x, y = next(blocks)
        with torch.no_grad():
            given = forward(x)
        alone.append(timed(lambda: with_gradients(partial(loss, y), *given)))
        return next(blocks), {}

    def step(x: Tensor, y: Tensor) -> None:
        value = loss(y, *forward(x))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip)
        optimizer.step()
        synchronise()

    benchmark.pedantic(step, setup=setup, rounds=ROUNDS, warmup_rounds=1)
    if benchmark.stats is not None:
        whole = median(benchmark.stats.stats.data)
        benchmark.extra_info.update(samples_per_s=days * codes / whole, share_of_step=median(alone[-ROUNDS:]) / whole)


def compare(benchmark: BenchmarkFixture, operator: str, name: str, task: Ranking) -> tuple[Sections, Any]:
    """Run the rounds, record the figures, and return the last block and our result for it."""
    peer, rounds = installed_peer(name), SLOW_ROUNDS if name in SLOW else ROUNDS
    with ExitStack() as stack:
        supported = opened(stack, peer, name, task)
        work = replace(supported, device=DEVICE)
        blocks, theirs = prepared(work), prepared(supported)
        copy = copier(MOVED[operator] * work.cells)
        seconds: dict[str, list[float]] = {"peer": [], "limit": []}

        def setup() -> tuple[Any, Any]:
            given = list(islice(theirs, peer.BLOCKS))
            time.sleep(IDLE)
            seconds["peer"].append(timed(lambda: deque(peer.run(supported, given), 1), supported.device) / peer.BLOCKS)
            seconds["limit"].append(timed(lambda: [copy() for _ in range(BLOCKS)]) / BLOCKS)
            time.sleep(IDLE)
            return (operator, list(islice(blocks, BLOCKS))), {}

        benchmark.pedantic(passed, setup=setup, rounds=rounds, warmup_rounds=1)
        given = [next(theirs)]
        peer_memory = peak_memory(lambda: deque(peer.run(supported, given), 1), supported.device)
    block = next(blocks)
    memory = peak_memory(lambda: passed(operator, [block]), DEVICE)
    if benchmark.stats is not None:  # None with --benchmark-disable: run and checked once, not timed
        mine = median(benchmark.stats.stats.data) / BLOCKS
        peer_s, limit_s = (median(values[-rounds:]) for values in seconds.values())
        nbytes = MOVED[operator] * work.cells
        benchmark.extra_info.update(
            cells_per_s=work.cells / mine,
            bytes_per_s=nbytes / mine,
            peer=name,
            ratio=peer_s / mine,
            limit_bytes_per_s=nbytes / limit_s,
            share_of_limit=limit_s / mine,
            peak_memory_bytes=memory,
            peer_peak_memory_bytes=peer_memory,
        )
        if supported.device != DEVICE:
            benchmark.extra_info["peer_device"] = supported.device.type
    return block, OURS[operator](block)


def opened(stack: ExitStack, peer: Peer, name: str, task: Ranking) -> Ranking:
    """The task that the peer supports; skips the running test, with the reason, where there is none."""
    try:
        supported: Ranking = stack.enter_context(peer.build(task))
    except Unable as reason:
        pytest.skip(f"peer {name}: {reason}")
    return supported


def prepared(work: Ranking) -> Iterator[Sections]:
    """Blocks in rotation, drawn before the clock runs."""
    return cycle(list(islice(fresh_sections(work), PREPARED)))


def passed(operator: str, blocks: list[Sections]) -> Any:
    """A pass of ours, finished on the device too; returns the result of the last block."""
    last = deque(map(OURS[operator], blocks), 1).pop()
    synchronise()
    return last


def some_rows(block: Sections) -> range:
    """The cross-sections that are compared with their definition, pair by pair."""
    return range(min(CHECKED, len(block.scores)))


def check_loss(work: Ranking, block: Sections, loss: Tensor, *gradients: Tensor) -> None:
    """Compare a loss and its gradients with the plain terms in float64, differentiated by autograd."""
    inputs = (block.scores.double(), block.quantiles.double())[: len(gradients)]
    expected, *slopes = with_gradients(partial(loss_by_terms, work.terms, block), *inputs)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    for gradient, slope in zip(gradients, slopes, strict=True):
        torch.testing.assert_close(gradient.double(), slope, rtol=0, atol=1e-4 * float(slope.abs().max()))
