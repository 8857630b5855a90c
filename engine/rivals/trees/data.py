"""What boosted trees of any library are fitted to: features, targets, weights and days, as their objective wants them.

N samples, F features
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from engine.config import Trees
from engine.rivals.samples import Float, Float32, Int, Problem, features_of, groups, rank_targets
from engine.score.cross_section import zscores_within_day

GRADES = 32  # of relevance that LambdaMART ranks by


@dataclass(frozen=True)
class Data:
    """Samples ordered by day."""

    x: Float32  # [N, F]
    target: Float  # [N] ranks in (-1/2, 1/2), z-scores, or grades
    weight: Float | None  # [N]
    day: Int  # [N]

    @property
    def groups(self) -> Int:
        """Samples of each day [G]."""
        return groups(self.day)

    @property
    def group_weight(self) -> Float | None:
        """Weight of each day [G]."""
        return None if self.weight is None else self.weight[np.cumsum(self.groups) - 1]


def data_of(problem: Problem, name: str, settings: Trees) -> Data:
    """The part "train" or "valid". Raises InputError for one without samples."""
    rows, day = problem.train if name == "train" else problem.valid
    weight = problem.weights(day) if name == "train" else None
    if settings.objective == "huber":
        target = zscores_within_day(problem.targets(rows), day)
    else:
        target = rank_targets(problem, rows, day)
    if settings.objective == "lambdarank":
        target = np.floor((target + 0.5) * GRADES)
    return Data(features_of(problem.panel, rows), target, weight, day)


def settings_of(problem: Problem, rival: str) -> Trees:
    """Settings of a rival."""
    return problem.options.trees.get(rival) or Trees()


def least_of_leaf(settings: Trees, samples: int) -> int:
    """Small panels still split: a leaf asks for a twentieth of the samples at most."""
    return min(settings.min_data_in_leaf, samples // 20)


def cuts(trees: int, most: int) -> list[tuple[int, int]]:
    """The first tree of each of at most so many pieces that follow one another, and the one after its last."""
    borders = np.linspace(0, trees, min(trees, most) + 1).astype(int).tolist()
    return list(pairwise(borders))
