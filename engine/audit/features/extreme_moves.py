"""What knows the size of moves to come. The test that tells a weak leak from a strong honest signal.

A signal acts on a return, r = a f + noise, and the noise has heavy tails: the largest moves are news that no signal
knew. Given r, the mean of the feature is a times the score of the noise, -p'/p, which for tails that are heavier than
exponential does not grow beyond the body (Student's t: (n + 1) r / (n + r^2) falls). A feature that is made of the
return itself, f = b r + noise, has a mean that grows with r for ever. By that asymmetry LiNGAM tells cause from effect
(Shimizu et al. 2006); the body is Huber's least favourable score (1964). So, over days and codes,

    f = a u + b v + e      u = x clipped to +-KNEE, v = x - u, clipped to +-CAP

with x the label less the day's median, in units of the code's and the day's mean absolute label, and f in ranks of
deviation 1. Honest: b a <= 0. Leaked: b near a. The statistic is b / se with errors that are clustered by day and by
code (Cameron, Gelbach and Miller 2011); null b = 0, normal. Two-sided by SIZE, divided by the number of features and
labels. b is also at least LEAST_B and LEAST_SHARE of a, and has its sign in each tail alone: volatile codes have more
large gains than large losses, so that their volatility knows the one tail and errs in the other. Where the tails of x
are not heavier than exponential the test is skipped: it could not tell.

D days, S codes, F features
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from engine.audit.features.days import LEAST, features_on, spread_days
from engine.audit.finding import Advice, Finding, failed, passed, skipped, warned
from engine.audit.sample import CacheSample, Float32

ADVICE = Advice(
    "features: extreme moves",
    "The largest moves are news. A feature that knows how large the next one is was made of it.",
    "Compute it from rows up to its own day; look for a shifted row, a centred window, a join on the wrong day.",
)
KNEE = 1.5  # mean absolute labels
CAP = 8.0
SIZE = 1e-3
LEAST_B = 0.02
LEAST_SHARE = 0.5
LEAST_SIDE = 0.3  # of b, in each tail
CERTAIN = 0.1  # of b: beyond, a signal cannot be honest
LEAST_CELLS = 2000

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Slopes:
    """Of one label, an entry for each feature."""

    body: Float  # a [F]
    excess: Float  # b [F]
    z: Float  # b / se [F]
    sides: Float  # b of gains alone and of losses alone [2, F]


def extreme_moves(sample: CacheSample) -> Finding:
    """Features that know the size of the moves which the label covers."""
    names, found = sample.panel.manifest.features, {}
    for h in sample.horizons:
        slopes = _slopes(sample, h)
        if slopes is not None:
            found[h] = slopes
    if not found:
        return skipped(ADVICE, "no labels with tails heavier than exponential, or too few of them")
    limit = NormalDist().inv_cdf(1 - SIZE / 2 / (len(names) * len(found)))
    blamed: dict[str, tuple[float, str]] = {}
    certain, highest = False, (0.0, "none")
    for h, slopes in found.items():
        for name, a, b, z, (up, down) in zip(names, slopes.body, slopes.excess, slopes.z, slopes.sides.T, strict=True):
            both = min(up / b, down / b) if b else 0.0
            if not a * b > 0 or abs(b) < max(LEAST_B, LEAST_SHARE * abs(a)) or both < LEAST_SIDE:
                continue
            highest = max(highest, (abs(z), f"{name} z {abs(z):.1f} at h={h}"))
            if abs(z) > limit:
                line = f"{name} (h={h}: slope {b:+.3f} in the tails, {a:+.3f} in the body)"
                blamed[name] = max(blamed.get(name, (0.0, "")), (abs(z), line))
                certain |= abs(b) > CERTAIN
    figure = f"largest z of what grows with the move: {highest[1]}; limit {limit:.1f}"
    if not blamed:
        return passed(ADVICE, figure)
    return (failed if certain else warned)(ADVICE, figure, [line for _, line in sorted(blamed.values(), reverse=True)])


def _slopes(sample: CacheSample, h: int) -> Slopes | None:
    """The two slopes of each feature on the label of h. None where it has too few cells, or thin tails."""
    days = spread_days(sample)
    x = standardised(np.where(sample.scored[days], sample.targets[h][days], np.nan))
    if np.isfinite(x).sum() < LEAST_CELLS or not heavy_tails(x):
        return None
    known = np.isfinite(x)
    x = np.where(known, x, 0)
    inner = np.clip(x, -KNEE, KNEE)
    body, excess = _centred(inner, known), _centred(np.clip(x - inner, -CAP, CAP), known)
    across = (body * excess).sum() / (body**2).sum()
    excess -= across * body
    n_features = len(sample.panel.manifest.features)
    by_day, by_day_body = np.zeros((2, len(days), n_features))
    by_code, by_code_body = np.zeros((2, len(sample.codes), n_features), np.float32)
    gains = np.zeros(n_features)
    cells = np.zeros(n_features)
    for i, (feature, _) in enumerate(features_on(sample, days)):
        here = known[i]
        product = feature[here] * excess[i, here, None]
        product_body = feature[here] * body[i, here, None]
        by_day[i], by_day_body[i] = product.sum(0), product_body.sum(0)
        by_code[here] += product
        by_code_body[here] += product_body
        cells += (product**2).sum(0)
        gains += product[x[i, here] > 0].sum(0)
    square, square_body = (excess**2).sum(), (body**2).sum()
    b = by_day.sum(0) / square
    a = by_day_body.sum(0) / square_body  # slope of the body, the excess held as it is
    cross = excess * body
    of_day = by_day - np.outer((excess**2).sum(1), b) - np.outer(cross.sum(1), a)
    of_code = by_code - np.outer((excess**2).sum(0), b) - np.outer(cross.sum(0), a)
    variance = np.maximum((of_day**2).sum(0) + (of_code**2).sum(0) - cells, np.maximum((of_day**2).sum(0), cells))
    se = np.sqrt(variance) / square
    up = gains / (excess**2)[x > 0].sum()
    down = (by_day.sum(0) - gains) / (excess**2)[x <= 0].sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        return Slopes(a - across * b, b, np.where(se > 0, b / se, 0), np.stack([up, down]))


def standardised(label: Float32) -> Float32:
    """[D, S] less the day's median, over the code's mean absolute value and then the day's. NaN where there is none."""
    known = np.isfinite(label)
    enough = known.sum(1) >= LEAST
    x = np.where(known & enough[:, None], label, np.nan)
    x[enough] -= np.nanmedian(x[enough], 1, keepdims=True)
    for axis in (0, 1):
        here = np.isfinite(x)
        count = here.sum(axis, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = np.where(here, np.abs(x), 0).sum(axis, keepdims=True) / count
            x = np.where(scale > 0, x / scale, np.nan)
    return x


def heavy_tails(x: Float32) -> bool:
    """Whether the mean excess of |x| over its 99th percentile is above that over its median; alike if exponential."""
    size = np.abs(x[np.isfinite(x)])
    middle, far = np.quantile(size, [0.5, 0.99])
    return bool((size[size > far] - far).mean() > (size[size > middle] - middle).mean()) if far > middle else False


def _centred(x: Float32, known: npt.NDArray[np.bool_]) -> Float:
    """Less the day's mean over known cells; zero elsewhere."""
    count = np.maximum(known.sum(1, keepdims=True), 1)
    return np.where(known, x - np.where(known, x, 0).sum(1, keepdims=True, dtype=np.float64) / count, 0)
