"""What knows the label at its own day: the profile of rank correlations of each feature with the label around it.

    c(k) = mean over days t of Spearman's correlation of the feature of day t with the label of day t + k,  k = -3..10

c(0) is the RankIC of the feature alone. A feature that is made of the label, or of the days that the label covers, has
a c(0) that nothing honest reaches. Grinold's fundamental law (1989) tells why: a RankIC of 0.2 a day over a thousand
stocks would be a Sharpe ratio near a hundred. Single features that were published stay under 0.1 a day. Over h days an
honest RankIC is at most sqrt(h) times that of one day, where the feature stays as it is.

Null: c(0) = 0, by Student's t of the daily correlations (`mean_test`, for autocorrelated days). The limit is far beyond
the null: LIMIT sqrt(h), at most 0.8, of which |c(0)| less four standard errors has to remain above LIMIT sqrt(h) / 2.
It does not depend on how many features there are.

D days, K lags, F features, H horizons
"""

import math

import numpy as np
import numpy.typing as npt

from engine.audit.features.days import LEAST, features_on, spread_days
from engine.audit.finding import Advice, Finding, failed, passed, skipped
from engine.audit.sample import CacheSample, ranks, shifted
from engine.score.standard_error import mean_test

ADVICE = Advice(
    "features: lag profile",
    "A feature that is made of its own label gives a RankIC that no one can trade.",
    "Compute the feature from rows up to its own day, or leave it out.",
)
LAGS = range(-3, 11)
LIMIT = 0.2  # of |c(0)| at h = 1
MOST = 0.8
ERRORS = 4.0

Float = npt.NDArray[np.float64]


def lag_profile(sample: CacheSample) -> Finding:
    """Features whose rank correlation with a label, at the label's own day, is beyond anything honest."""
    if not sample.horizons or not sample.panel.manifest.features:
        return skipped(ADVICE, "the cache has no labels, or no features")
    names, highest = sample.panel.manifest.features, (0.0, "")
    blamed: dict[str, tuple[float, str]] = {}
    asked = False
    for h in sample.horizons:
        limit = min(LIMIT * math.sqrt(h), MOST)
        daily = _profile(sample, h)
        known = np.isfinite(daily).sum(0)  # [K, F]
        own = LAGS.index(0)
        for f, name in enumerate(names):
            if known[own, f] < LEAST:
                continue
            asked = True
            series = daily[np.isfinite(daily[:, own, f]), own, f]
            mean, se = float(series.mean()), float(mean_test(series, h).se)
            share = abs(mean) / limit
            highest = max(highest, (share, f"{name} {mean:+.3f} at h={h}"))
            if share > 1 and abs(mean) - ERRORS * (se if math.isfinite(se) else 0) > limit / 2:
                line = f"{name} (h={h}: {mean:+.2f}, {_at(daily, LAGS.index(min(h, 10)), f):+.2f} {min(h, 10)} days on)"
                blamed[name] = max(blamed.get(name, (0.0, "")), (share, line))
    if not asked:
        return skipped(ADVICE, f"fewer than {LEAST} days with {LEAST} labels in the universe")
    figure = f"largest RankIC of a feature alone: {highest[1]}; limit {LIMIT} sqrt(h)"
    if not blamed:
        return passed(ADVICE, figure)
    return failed(ADVICE, figure, [line for _, line in sorted(blamed.values(), reverse=True)])


def _profile(sample: CacheSample, h: int) -> Float:
    """Rank correlation [D, K, F] of every day with the label of h, NaN on days with too few codes."""
    days = spread_days(sample)
    label = np.where(sample.scored, sample.targets[h], np.nan)
    later = np.stack([ranks(shifted(label, -k)[days]) for k in LAGS], -1)  # [D, S, K]
    found = np.full((len(days), len(LAGS), len(sample.panel.manifest.features)), np.nan)
    for i, (feature, _) in enumerate(features_on(sample, days)):
        known = np.isfinite(later[i]) & sample.scored[days[i]][:, None]
        y, here = np.where(known, later[i], 0), known.astype(np.float32)
        count = here.sum(0)[:, None]
        if count.max(initial=0) < LEAST:
            continue
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_f, mean_y = (here.T @ feature) / count, y.sum(0)[:, None] / count
            spread_f = (here.T @ feature**2) / count - mean_f**2
            spread_y = (y**2).sum(0)[:, None] / count - mean_y**2
            own = ((y.T @ feature) / count - mean_f * mean_y) / np.sqrt(spread_f * spread_y)
        found[i] = np.where((count >= LEAST) & (spread_f > 1e-6) & (spread_y > 1e-6), own, np.nan)
    return found


def _at(daily: Float, k: int, f: int) -> float:
    series = daily[:, k, f]
    series = series[np.isfinite(series)]
    return float(series.mean()) if len(series) else math.nan
