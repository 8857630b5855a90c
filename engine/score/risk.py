"""Risk factors: the combinations of features whose payoff varies most from day to day.

How well a feature ranks the returns of one day varies over time: volatile stocks lead for a month and trail in the
next. A few factors w, combinations of features, explain most of that variation: those of the largest

    w' C w / w' G w,    C the covariance over days of each feature's correlation with the day's ranked returns,
                        G the mean over days of the features' correlations with one another, shrunk towards 1,

as in models of risk whose factors are portfolios of characteristics (Kozak, Nagel and Santosh 2020, "Shrinking the
cross-section"). An exposed score is right and wrong with their returns; engine/model/neutral.py removes a share of the
exposure.

N rows, F features, H horizons
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from engine.score.cross_section import MIN_SAMPLES, ranks_within_day
from engine.score.rows import CPU, present_rows
from loaders.by_day import features_by_day
from loaders.cache.format import SCORED
from loaders.errors import InputError
from loaders.panel import Panel
from loaders.split import Days

MOST_DAYS = 504  # evenly spaced over the part: as good as all of them for a few directions
SHRINKAGE = 0.1  # of G towards 1: else the difference of two features that are nearly one could be a direction

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """What risk factors are computed from."""

    returns: Float  # [F, F] C, summed over horizons
    features: Float  # [F, F] G
    noise: float  # the largest w' C w / w' G w that chance makes where returns have nothing in common


def moments_of(panel: Panel, part: Days, device: torch.device = CPU) -> Moments:
    """Moments of a part of a panel, each day's features standardised over its rows of the universe.

    Args:
        device: that computes the products of each day. The host reads the rows.
    """
    chosen = np.unique(np.linspace(part.start, part.stop - 1, MOST_DAYS).astype(np.int64)).tolist()
    of_days = [present_rows(panel, Days(day, day + 1)) for day in chosen]
    rows, day = (np.concatenate(columns) for columns in zip(*((d.rows, d.day) for d in of_days), strict=True))
    here = panel.presence[rows] == SCORED
    rows, day = rows[here], day[here]
    targets = panel.targets[rows]
    ranks = np.zeros(targets.shape)
    for i, column in enumerate(targets.T):
        known = np.isfinite(column)
        ranks[known, i] = ranks_within_day(column[known], day[known]) * np.sqrt(12)  # of variance 1
    starts = np.flatnonzero(np.diff(day, prepend=-1))
    width = panel.features.shape[1]
    of_rows = ranks if device.type == "cpu" else torch.from_numpy(ranks).to(device)
    together: Any = 0.0
    daily, noise = [], []
    borders = np.append(starts, len(day))
    each = features_by_day(panel, rows, borders)
    for start, stop, features in zip(starts, borders[1:], each, strict=True):
        known = np.isfinite(targets[start:stop]).sum(0)
        if known.min() < MIN_SAMPLES:
            continue
        x = features.astype(np.float64) if device.type == "cpu" else torch.from_numpy(features).to(device).double()
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused by `risk_directions`
            square, product = _products(x, of_rows[start:stop])
        together += square
        daily.append(product)
        noise.append(1 / known)
    days = len(daily)
    if days < 2:
        return Moments(np.zeros((width, width)), np.eye(width), np.inf)
    payoffs = torch.stack([torch.as_tensor(product) for product in daily]).cpu().numpy() * np.stack(noise)[:, None]
    centred = payoffs - payoffs.mean(0)
    of_returns = np.einsum("dfh,dgh->fg", centred, centred) / days
    # The largest of F eigenvalues that are all one lies so far above it when estimated (Marchenko and Pastur 1967).
    most = float(np.stack(noise).sum(1).mean()) * (1 + np.sqrt(width / days)) ** 2
    return Moments(of_returns, torch.as_tensor(together).cpu().numpy() / days, most)


def _products(x: Any, ranks: Any) -> tuple[Any, Any]:
    """Of a day's features x [N, F] and ranked returns [N, H]: correlations [F, F] of features, and x'r [F, H].

    Both are arrays, or tensors of one device, float64.
    """
    x = x - x.mean(0)
    scale = (x * x).mean(0) ** 0.5
    constant = scale <= 1e-6
    x *= ~constant / (scale + constant)
    return x.T @ x / len(x), x.T @ ranks


def risk_directions(moments: Moments, most: int, without: list[int]) -> npt.NDArray[np.float32]:
    """The factors [F, R] of the largest variance, R = min(most, F): weights of standardised features, a column each.

    A factor whose variance is not above what chance explains is 0.

    Args:
        without: features that are left out, such as ids.

    Raises InputError for values that are not finite.
    """
    width = len(moments.features)
    if not (np.isfinite(moments.features).all() and np.isfinite(moments.returns).all()):
        what = "features or targets are not finite, or so large that their squares are not"
        raise InputError("model.neutralize", what, "Check the cache with `atft-engine cache verify`, or pass 0")
    used = np.setdiff1d(np.arange(width), without)
    block = np.ix_(used, used)
    root = np.linalg.cholesky((1 - SHRINKAGE) * moments.features[block] + SHRINKAGE * np.eye(len(used)))
    half = np.linalg.solve(root, moments.returns[block])
    values, vectors = np.linalg.eigh(np.linalg.solve(root, half.T))
    vectors = np.linalg.solve(root.T, vectors)[:, ::-1][:, :most] * (values[::-1][:most] > moments.noise)
    found = np.zeros((width, min(most, width)), np.float32)
    found[used, : vectors.shape[1]] = vectors
    return found
