"""Ranking: blocks of random cross-sections.

Scores are fresh random numbers, since the cost of a sort depends on the order of its input. Targets lie on a grid, so
that they tie as real ones do, and a tenth of the entries is not valid.

G cross-sections, N entries, Q quantile levels, K rotations
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch
from torch import Tensor

from kernels.rank_terms import TERMS

TAU = 0.1  # width of the soft rank's kernel in deviations of the scores, as in training
LEVELS = (0.1, 0.5, 0.9)
ROTATIONS = 16
VALID = 0.9  # share of the entries
GRID = 0.01  # of the targets: some 600 different values

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Ranking:
    """The task: an operator on blocks of this shape.

    Args:
        groups: G of a block.
        names: N.
        device: where its blocks lie.
        masked: a tenth of the entries is not valid; else all are valid.
        terms: of the objective, each with a weight of 1.
    """

    groups: int
    names: int
    device: torch.device
    masked: bool = True
    terms: tuple[str, ...] = tuple(term for term in TERMS if term != "pairwise")

    @property
    def cells(self) -> int:
        """Entries of a block, valid or not: G * N."""
        return self.groups * self.names


@dataclass(frozen=True)
class Sections:
    """A block: cross-sections and an operator's other inputs. Entries that are not valid hold finite numbers too."""

    scores: Tensor  # [G, N] float32
    targets: Tensor  # [G, N] float32, tied
    returns: Tensor  # [G, N] float32
    mask: Tensor  # [G, N] bool
    quantiles: Tensor  # [G, N, Q] float32
    levels: Tensor  # [Q] float32
    upstream: Tensor  # [G, N] float32, gradient by the ranks
    weights: Tensor  # [TERMS] float32, of the objective, in the order of TERMS
    rotations: Tensor  # [K] int32, different shifts from 1 to N - 1


def fresh_sections(work: Ranking) -> Iterator[Sections]:
    """Endless blocks, equal on every device; a mask changes no other value."""
    shape = (work.groups, work.names)
    for i in count():
        random = torch.Generator().manual_seed(i)
        normal = partial(torch.randn, generator=random)
        valid = torch.rand(shape, generator=random) < VALID
        block = Sections(
            scores=normal(shape),
            targets=(normal(shape) / GRID).round() * GRID,
            returns=normal(shape),
            mask=valid if work.masked else torch.ones(shape, dtype=torch.bool),
            quantiles=normal((*shape, len(LEVELS))),
            levels=torch.tensor(LEVELS),
            upstream=normal(shape),
            weights=torch.tensor([float(term in work.terms) for term in TERMS]),
            rotations=torch.randperm(work.names - 1, generator=random)[:ROTATIONS].int() + 1,
        )
        yield Sections(**{name: value.to(work.device) for name, value in vars(block).items()})


def with_gradients(
    operator: Callable[..., Tensor], *inputs: Tensor, upstream: Tensor | None = None
) -> tuple[Tensor, ...]:
    """The value of operator(*inputs), and the gradient by each of the inputs.

    Args:
        upstream: gradient by the value, of its shape; None for a scalar's 1.
    """
    leaves = [given.detach().requires_grad_() for given in inputs]
    value = operator(*leaves)
    return value.detach(), *torch.autograd.grad(value, leaves, upstream)
