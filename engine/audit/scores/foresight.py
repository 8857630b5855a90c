"""Whether scores know the next day: what of them the known features do not explain, held against what comes."""

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.audit.finding import Advice, Finding, failed, passed, skipped, warned
from engine.audit.scores.scored import ScoredCache, daily_rank_ic, mean_and_test, over_horizons
from engine.score.cross_section import MIN_SAMPLES
from loaders.panel import Int

Float32 = npt.NDArray[np.float32]

ADVICE = Advice(
    "foresight",
    "no honest part of a score follows the next day so closely: it was computed with that day's data",
    "rebuild the scores as of a past date and compare; look for a shift by a day, and for labels among the inputs",
)
MOST_VALUES = 1 << 23  # cells x regressors
LEAST_PART = 0.05  # RankIC of a part of the scores that is looked at
BEYOND_HONEST = 0.3  # RankIC with a day's return, of the scores or a part of them
NEWS_LIMITS = 0.12, 0.4  # correlation with the news of a feature from which a part of the scores is odd, and wrong
NOISE = 4.0  # standard errors that come on top
LEAST_CELLS = 500
RIDGE = 1e-4
ROUNDING = 1e-9  # share of the scores that is left of an exact function of the features


def foresight(scored: ScoredCache) -> Finding:
    """Warns where a part of the scores follows the next day's return, or features, as nothing honest does.

    The part is w: normalised ranks of the scores, less their ridge regression on what was known, the day's
    features, their squares, those of the day before, and the scores of the day before. Statistics: the rank correlation
    of w with the next return, and its correlation with the news of each feature, which are the next day's values less
    the same regression. Null of the first: at most that of the whole scores. Scores that weigh uncorrelated parts as
    best they can have a correlation whose square is the sum of the parts' squares (Grinold 1989, "The fundamental law
    of active management"), so none has more than the whole; what leaks in at small weight has. Null of the second: at
    most 0.12, as no one predicts news; 0.4 fails. Four standard errors 1 / sqrt(N) come on top (two-sided p = 6e-5).
    Any of 0.3 or more with a day's return is odd as well (sqrt(h) times that for a label over h days, where there are
    no 1-day returns). Scores that weigh their parts badly can exceed the first: it is a warning.
    """
    return over_horizons(scored, ADVICE, _of_horizon)


def _of_horizon(scored: ScoredCache, h: int) -> Finding:
    s = scored.scores(h)
    cells = _cells(scored, s)
    if cells is None:
        return skipped(ADVICE, f"h={h}: too few days or samples")
    left, news, day, row, share = cells
    following, bound = scored.ahead(1), BEYOND_HONEST
    if not np.isfinite(following).any():
        following, bound = scored.labels(h), min(BEYOND_HONEST * float(np.sqrt(h)), 0.7)
    part, whole, noise = np.full_like(s, np.nan), np.full_like(s, np.nan), NOISE / np.sqrt(len(left))
    part[day, row], whole[day, row] = left, s[day, row]
    of_part, of_whole = (mean_and_test(daily_rank_ic(each, following), h)[0] for each in (part, whole))
    if not (np.isfinite(of_part) and np.isfinite(of_whole)):
        return skipped(ADVICE, f"h={h}: scores or returns do not vary")
    of_news = np.abs(_correlations(left, news))
    names = scored.panel.manifest.features
    largest = float(of_news.max(initial=0))
    figure = (
        f"h={h}: known features leave {1 - share:.1%} of the scores, whose RankIC with the next return is "
        f"{of_part:.3f} (all: {of_whole:.3f}), correlation with news of features up to {largest:.2f}"
    )
    if 1 - share < ROUNDING:
        return passed(ADVICE, figure)
    odd = [names[f] for f in np.argsort(-of_news) if of_news[f] > NEWS_LIMITS[0] + noise]
    if largest > NEWS_LIMITS[1] + noise:
        return failed(ADVICE, figure, odd)
    knows = abs(of_part) > max(abs(of_whole), LEAST_PART) + noise
    if knows or odd or max(abs(of_part), abs(of_whole)) > bound + noise:
        return warned(ADVICE, figure, odd)
    return passed(ADVICE, figure)


def _cells(scored: ScoredCache, s: Float32) -> Any:
    """What the regressors leave of the scores and of the next day's features, places, and the share explained."""
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
    if not x or sum(map(len, y)) < max(LEAST_CELLS, 3 * width) or not np.concatenate(y).any():
        return None
    known = np.concatenate(x)
    right = np.concatenate([np.concatenate(y)[:, None], np.concatenate(ahead)], 1)
    square = (known.T @ known).astype(np.float64)
    square[np.diag_indices_from(square)] += RIDGE * len(known)
    slopes = np.linalg.solve(square, (known.T @ right).astype(np.float64))
    rest = right - known @ slopes.astype(np.float32)
    share = 1 - float(np.square(rest[:, 0], dtype=np.float64).mean() / np.square(right[:, 0], dtype=np.float64).mean())
    return rest[:, 0], rest[:, 1:], np.concatenate(day), np.concatenate(row), share


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
