"""Ridge regression of the rank targets on features centred within the day.

It never holds the panel: it streams the rows once per horizon into F x F sums, in float64.

N rows or samples, F features
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from engine.rivals.samples import CHUNK_ROWS, Float, Float32, Int, Problem, chunks, rank_targets
from engine.score.cross_section import ranks_within_day
from loaders.errors import InputError
from loaders.progress import counted

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # relative to the variance of a feature


@dataclass(frozen=True)
class Linear:
    """A linear model; scores of a day are those of least squares but for a constant."""

    coefficients: Float  # [F]
    gaussian: bool  # whether features are normal quantiles of their ranks
    penalty: float = float("nan")  # relative to the variance of a feature; a file does not hold it

    def predict(self, x: Float32, day: Int) -> Float:
        return _regressors(x, day, self.gaussian) @ self.coefficients

    def content(self) -> bytes:
        return json.dumps({"coefficients": self.coefficients.tolist(), "gaussian": self.gaussian}).encode()

    @classmethod
    def of(cls, content: Any) -> "Linear":
        """The model of parsed content. Raises ValueError, KeyError or TypeError where it is none."""
        coefficients = np.array(content["coefficients"], np.float64)
        if coefficients.ndim != 1 or not np.isfinite(coefficients).all() or not isinstance(content["gaussian"], bool):
            raise ValueError("coefficients are no list of numbers")
        return cls(coefficients, content["gaussian"])


def ridge(problem: Problem, seeds: range, like: Sequence[Linear] | None = None) -> list[Linear]:
    """Least squares with the best of PENALTIES by validation RankIC, or that of another model; one, since no seed
    changes it.

    Raises InputError for a part without samples, and for features that are not finite.
    """
    gram, moment, total = _sums(problem)
    if not np.isfinite(gram).all():
        what = "features are not finite, or so large that their squares are not"
        cure = "Build it with --transform rank, or check it with `cache verify`"
        raise InputError(str(problem.panel.folder), what, cure)
    scale = np.sqrt(np.diag(gram) / total)
    scale[scale == 0] = np.inf  # a constant feature has no coefficient
    correlation = gram / total / np.outer(scale, scale)
    covariance = moment / total / scale
    identity = np.eye(len(gram))
    gaussian = problem.options.ridge.gaussian
    penalties = PENALTIES if like is None else tuple(model.penalty for model in like)
    candidates = np.stack([np.linalg.solve(correlation + a * identity, covariance) for a in penalties], 1)
    coefficients = candidates / scale[:, None]
    if like is not None:
        return [Linear(coefficients[:, 0], gaussian, penalties[0])]
    rows, day = problem.valid
    tried = [x @ coefficients for x, _ in _pieces(problem, rows, day, gaussian)]
    figures = [problem.valid_rank_ic(scores) for scores in np.concatenate(tried).T]
    best = int(np.argmax(figures))
    return [Linear(coefficients[:, best], gaussian, penalties[best])]


def _sums(problem: Problem) -> tuple[Float, Float, float]:
    """Weighted sums over the training samples: x'x [F, F], x'r [F], and of the weights."""
    rows, day = problem.train
    gaussian, weights = problem.options.ridge.gaussian, problem.weights(day)
    target = rank_targets(problem, rows, day)
    if gaussian:
        target = quantiles(target)
    width = len(problem.panel.manifest.features)
    gram, moment = np.zeros((width, width)), np.zeros(width)
    pieces = _pieces(problem, rows, day, gaussian)
    for x, piece in counted(pieces, -(-len(day) // CHUNK_ROWS), problem.options.progress, "ridge"):
        starts = np.flatnonzero(np.diff(day[piece], prepend=-1))
        counts = np.diff(np.append(starts, len(x)))
        x -= np.repeat(np.add.reduceat(x, starts, 0) / counts[:, None], counts, 0)
        weighted = x if weights is None else x * weights[piece, None]
        gram += weighted.T @ x
        moment += weighted.T @ target[piece]
    return gram, moment, float(len(rows) if weights is None else weights.sum())


def _pieces(problem: Problem, rows: Int, day: Int, gaussian: bool) -> Iterator[tuple[Float, slice]]:
    """Regressors of whole days' rows, and which of the rows they are."""
    for piece in chunks(day):
        yield _regressors(problem.panel.features[rows[piece]], day[piece], gaussian), piece


def _regressors(x: npt.NDArray[Any], day: Int, gaussian: bool) -> Float:
    if not gaussian:
        return x.astype(np.float64)
    return np.stack([quantiles(ranks_within_day(column, day)) for column in x.astype(np.float64).T], 1)


def quantiles(ranks: Float) -> Float:
    """Normal quantiles of ranks within their day, in (-1/2, 1/2)."""
    return torch.special.ndtri(torch.from_numpy(ranks + 0.5)).numpy()
