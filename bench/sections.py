"""What a ranking operator is asked for, and the cross-sections that it is asked about.

Scores are fresh random numbers, since what a sort costs depends on the order it finds. Targets lie on a grid, so that
they tie as real ones do, and a tenth of the entries is not valid.

G cross-sections, N entries, Q quantile levels, K rotations
"""

from collections.abc import Iterator
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
    """What a contender has to rank.

    Args:
        groups: G of a block.
        names: N.
        device: where its blocks lie.
        masked: a tenth of the entries is not valid; else all are.
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
    """A block: cross-sections, and what is wanted of them. Values that are not valid are numbers all the same."""

    scores: Tensor  # [G, N] float32
    targets: Tensor  # [G, N] float32, tied
    returns: Tensor  # [G, N] float32
    mask: Tensor  # [G, N] bool
    quantiles: Tensor  # [G, N, Q] float32
    levels: Tensor  # [Q] float32
    upstream: Tensor  # [G, N] float32, gradient by the ranks
    weights: Tensor  # [8] float32, of the objective, in the order of TERMS
    rotations: Tensor  # [K] int32, different shifts from 1 to N - 1


def fresh_sections(work: Ranking) -> Iterator[Sections]:
    """Blocks without end; the same on every device, and with masks the same as without."""
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
