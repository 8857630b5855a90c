"""Whether scores know the next day: what of them the known features do not explain, held against what comes."""

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.audit.finding import Advice, Finding, failed, passed, skipped, warned
from engine.audit.scores.scored import ScoredCache, daily_rank_ic, over_horizons
from engine.score.cross_section import MIN_SAMPLES
from loaders.panel import Int

Float32 = npt.NDArray[np.float32]

ADVICE = Advice(
    "foresight",
    "no honest part of a score follows the next day so closely: it was computed with that day's data",
    "rebuild the scores as of a past date and compare; look for a shift by a day, and for labels among the inputs",
)
MOST_VALUES = 1 << 24  # cells x regressors
RETURN_LIMITS = 0.2, 0.4  # rank correlation with the next return from which a part of a score is odd, and wrong
FEATURE_LIMITS = 0.3, 0.5  # correlation with the news of a feature
NOISE = 5.0  # standard errors that come on top
LEAST_CELLS = 500
RIDGE = 1e-4


def foresight(scored: ScoredCache) -> Finding:
    """Warns where a part of the scores follows the next day's return, or features, as nothing honest does.

    Statistic: the normalised ranks of the scores, less their ridge regression on what was known: the day's features,
    their squares, those of the day before, and the scores of the day before. What is left, w, is rank-correlated with
    the next return, and correlated with the news of each feature, the next day's values less the same regression. An
    honest w is a part of a prediction and follows neither closely; a score of the next day, however small its share,
    is nearly all of w where the rest is explained. Null: the rank correlation with a day's return is at most 0.2 (0.4:
    failed), sqrt(h) times that for a label over h days where there are no 1-day returns, and that with the news of a
    feature at most 0.3 (0.5: failed); five standard errors 1 / sqrt(N) come on top. These are bounds of effect and
    no test of zero: daily RankICs of published models are below 0.1.
    """
    return over_horizons(scored, ADVICE, _of_horizon)


def _of_horizon(scored: ScoredCache, h: int) -> Finding:
    s = scored.scores(h)
    cells = _cells(scored, s)
    if cells is None:
        return skipped(ADVICE, f"h={h}: too few days or samples")
    known, left, news, day, row, share = cells
    unexplained = np.full_like(s, np.nan)
    unexplained[day, row] = left
    scale = 1.0
    following = scored.ahead(1)
    if not np.isfinite(following).any():
        following, scale = scored.labels(h), float(np.sqrt(h))
    noise = NOISE / np.sqrt(len(left))
    daily = daily_rank_ic(unexplained, following)
    of_return = float(np.nanmean(daily)) if np.isfinite(daily).any() else 0.0
    of_features = _correlations(left, news)
    names = scored.panel.manifest.features
    worst = int(np.abs(of_features).argmax()) if len(names) else 0
    largest = float(of_features[worst]) if len(names) else 0.0
    figure = (
        f"h={h}: {1 - share:.1%} of the scores is not explained by known features; its rank correlation with the next "
        f"return is {of_return:.3f}" + (f", with the news of {names[worst]} {largest:.3f}" if names else "")
    )
    # Float rounding is all that is left of an exact function of the features.
    tiny = 1 - share < 1e-9
    levels = [
        not tiny
        and (abs(of_return) > min(a * scale, 0.7) + noise or abs(largest) > b + noise)
        for a, b in zip(RETURN_LIMITS, FEATURE_LIMITS, strict=True)
    ]
    odd = [names[f] for f in np.argsort(-np.abs(of_features)) if abs(of_features[f]) > FEATURE_LIMITS[0] + noise]
    if levels[1]:
        return failed(ADVICE, figure, odd)
    return warned(ADVICE, figure, odd) if levels[0] else passed(ADVICE, figure)


def _cells(scored: ScoredCache, s: Float32) -> Any:
    """Regressors, what they leave of the scores and of the next day's features, places, and the share explained."""
    width = 3 * len(scored.panel.manifest.features) + 2
    wide = np.flatnonzero(np.isfinite(s).sum(1) >= MIN_SAMPLES)
    wide = wide[(wide >= 1) & (wide + scored.start + 1 < scored.sample.days)]
    if not len(wide):
        return None
    each = np.isfinite(s[wide]).sum(1).mean()
    most = max(int(MOST_VALUES / width / each), 5)
    days = wide[np.unique(np.linspace(0, len(wide) - 1, min(most, len(wide))).round().astype(np.int64))]
    calendar: Int = np.unique(np.concatenate([days + scored.start + lag for lag in (-1, 0, 1)]))
    features = dict(zip(calendar.tolist(), map(_ranked, scored.sample.on_days(calendar)), strict=True))
    x, y, ahead, day, row = [], [], [], [], []
    for t in days.tolist():
        here = np.flatnonzero(np.isfinite(s[t]) & np.isfinite(features[t + scored.start + 1]).any(1))
        if len(here) < MIN_SAMPLES:
            continue
        now, before, after = (np.nan_to_num(features[t + scored.start + lag][here]) for lag in (0, -1, 1))
        own = np.nan_to_num(_ranked(s[[t - 1, t]].T[here]))
        x.append(np.concatenate([now, now**2 - 1, before, own[:, :1], np.ones((len(here), 1), np.float32)], 1))
        y.append(own[:, 1])
        ahead.append(after)
        day.append(np.full(len(here), t))
        row.append(here)
    if not x or sum(map(len, y)) < max(LEAST_CELLS, 3 * width):
        return None
    known = np.concatenate(x)
    right = np.concatenate([np.concatenate(y)[:, None], np.concatenate(ahead)], 1)
    square = (known.T @ known).astype(np.float64)
    square[np.diag_indices_from(square)] += RIDGE * len(known)
    slopes = np.linalg.solve(square, (known.T @ right).astype(np.float64))
    rest = right - known @ slopes.astype(np.float32)
    share = 1 - float(np.square(rest[:, 0], dtype=np.float64).mean() / np.square(right[:, 0], dtype=np.float64).mean())
    return known, rest[:, 0], rest[:, 1:], np.concatenate(day), np.concatenate(row), share


def _ranked(values: Float32) -> Float32:
    """Normalised ranks [S, F] of a day's values, NaN where there is none. Ties in the order of codes: cheap."""
    here = np.isfinite(values)
    count = here.sum(0)
    order = np.argsort(np.argsort(np.where(here, values, np.inf), 0, kind="stable"), 0).astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = ((order + 0.5) / count - 0.5) * np.float32(np.sqrt(12))
    varies = np.nanmax(np.where(here, values, -np.inf), 0) > np.nanmin(np.where(here, values, np.inf), 0)
    return np.where(here & varies, found, np.where(here, 0, np.nan)).astype(np.float32)


def _correlations(left: Float32, news: Float32) -> npt.NDArray[np.float64]:
    """Correlations of what is left of the scores [N] with the news of each feature [N, F]; 0 where it has none."""
    a, b = left.astype(np.float64), news.astype(np.float64)
    a, b = a - a.mean(), b - b.mean(0)
    size = np.sqrt((a**2).sum() * (b**2).sum(0))
    # News of a thousandth of a feature's own deviation are rounding.
    return np.where(b.std(0) > 1e-3, (a @ b) / np.where(size > 0, size, 1), 0.0)
