"""Values divided by a statistic of the code's whole life: its largest, its last, its mean.

A price over the largest of its life says on every day how far it will rise. Two looks:

Values as they were before any transform (stored with transform "none", or kept in source.arrow): nearly all codes share
one largest value, 1 say, and each attains it exactly once, on days of its own, and not with its first row. Of any
honest feature that is bounded, let a code attain the bound Poisson(m) times; then at most 1/e of the codes do so once,
whatever m is (m = 1). Binomial, by SIZE over features. The smallest value is asked likewise (min-max scaling).

Ranks within the day, where the cache keeps its bars: Spearman's correlation within the day of each feature with close
and dollar volume over the largest, smallest, mean and last of the whole life. It has to be above SAME in size, and
nearer to 1 than the same statistic of the rows so far is: the distance from 1 less than FURTHER of that one's.

S codes, F features
"""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from engine.audit.features.days import LEAST, features_on, spread_days
from engine.audit.finding import Advice, Finding, failed, passed, skipped
from engine.audit.sample import Bool, CacheSample, Float32, ranks
from loaders.panel import Int

ADVICE = Advice(
    "features: scale of whole lives",
    "A value over the largest of its code's whole life tells every day how far it will rise.",
    "Divide by a statistic of rows up to the day, or rank within the day.",
)
SIZE = 1e-5
LEAST_CODES = 20
LEAST_ROWS = 60
LIKE = 1e-6  # relative difference of values that are the same
SAME = 0.9
FURTHER = 0.5
CELLS = 100_000  # of days on which ranks are compared

Float = npt.NDArray[np.float64]


def life_maximum(sample: CacheSample) -> Finding:
    """Features that are scaled by something of the code's whole life."""
    blamed: dict[str, str] = {}
    asked, lines = False, []
    names, extremes = _extremes(sample)
    if len(names):
        asked = True
        shares = [_attained_once(extremes[..., f], len(names)) for f in range(len(names))]
        blamed |= {name: f"{name} ({why})" for name, (_, why) in zip(names, shares, strict=True) if why}
        best = int(np.argmax([share for share, _ in shares]))
        lines.append(f"{names[best]}: {shares[best][0]:.0%} of codes share one extreme and attain it once, honest 37%")
    scales = _scales(sample)
    if scales:
        asked = True
        highest = (0.0, "none")
        for name, what, whole, so_far in _likeness(sample, scales):
            highest = max(highest, (whole, f"{name} {whole:.3f} with {what}"))
            if whole > SAME and 1 - whole < FURTHER * (1 - so_far):
                blamed.setdefault(name, f"{name} (as {what}: {whole:.3f}, of the rows so far {so_far:.3f})")
        lines.append(f"likest to a scale of whole lives: {highest[1]}")
    if not asked:
        return skipped(ADVICE, "the cache keeps neither bars nor values before their ranks")
    if not blamed:
        return passed(ADVICE, "; ".join(lines))
    return failed(ADVICE, "; ".join(lines), list(blamed.values()))


def _raw_of_code(sample: CacheSample) -> tuple[list[str], Iterator[Float32]]:
    """Names [F'] of the features whose values before any transform are at hand, and each code's values [n, F']."""
    manifest, source = sample.panel.manifest, sample.source
    if manifest.transform == "none":
        return manifest.features, (_inside(sample, s) for s in range(len(sample.codes)))
    if source is None:
        return [], iter(())
    columns = [i for i, name in enumerate(source.columns) if name in manifest.features]
    place = {code: s for s, code in enumerate(source.codes)}
    return [source.columns[i] for i in columns], (
        np.asarray(source.values[source.offset[p] : source.offset[p] + source.days[p]])[:, columns]
        for p in (place[code] for code in sample.names if code in place)
    )


def _inside(sample: CacheSample, s: int) -> Float32:
    values = sample.of_code(s).astype(np.float32)
    first = int(sample.panel.first[sample.codes[s]])
    return np.where(sample.present[first : first + len(values), s, None], values, np.nan)


def _extremes(sample: CacheSample) -> tuple[list[str], Float]:
    """Of raw features: largest and smallest of each code, how often attained, and at which row [2, 3, S, F']."""
    names, codes = _raw_of_code(sample)
    found = []
    for values in codes if names else ():
        if len(values) < LEAST_ROWS:
            continue
        both = []
        for signed in (values, -values):
            filled = np.where(np.isfinite(signed), signed, -np.inf)
            most = filled.max(0)
            same = filled >= most - LIKE * np.abs(most)
            both.append(np.stack([most, same.sum(0), same.argmax(0)]).astype(np.float64))
        found.append(np.stack(both))
    if len(found) < LEAST_CODES:
        return [], np.empty(0)
    return names, np.stack(found, 2)


def _attained_once(extremes: Float, features: int) -> tuple[float, str]:
    """The larger share, of largest and smallest, of codes that attain a shared one once; and why that is a fault."""
    best, why = 0.0, ""
    for (value, count, row), which in zip(extremes, ("largest", "smallest"), strict=True):
        known = np.isfinite(value)
        if known.sum() < LEAST_CODES:
            continue
        value, count, row = value[known], count[known], row[known]
        order = np.sort(value)
        starts = np.flatnonzero(np.append(True, np.diff(order) > LIKE * np.maximum(np.abs(order[1:]), 1)))
        run = int(np.argmax(np.diff(np.append(starts, len(order)))))
        shared = np.abs(value - order[starts[run]]) <= 2 * LIKE * max(abs(order[starts[run]]), 1)
        once = shared & (count == 1) & (row > 0)
        own_days = len(np.unique(row[once])) > 0.5 * once.sum()
        share = float(once.mean())
        if share > best:
            best = share
        if own_days and once.sum() >= LEAST_CODES and _binomial_tail(int(once.sum()), len(value)) < SIZE / features / 2:
            why = f"the {which} value is attained once by {share:.0%} of the codes"
    return best, why


def _binomial_tail(hits: int, n: int) -> float:
    """P(at least `hits` of n) where each has 1/e; Chernoff's bound."""
    share, p = hits / n, 1 / math.e
    if share <= p:
        return 1.0
    rest = 0.0 if share == 1 else (1 - share) * math.log((1 - share) / (1 - p))
    return math.exp(-n * (share * math.log(share / p) + rest))


def _scales(sample: CacheSample) -> dict[str, tuple[Float32, Float32]]:
    """Bars over a statistic of the whole life, and of the rows so far, on the days that are looked at [D, S] each."""
    bars, found = sample.bars, {}
    if "close" not in bars:
        return {}
    bases = {"close": bars["close"]}
    if "volume" in bars:
        bases["dollar volume"] = bars["close"] * bars["volume"]
    days = spread_days(sample, CELLS)
    for name, base in bases.items():
        known = np.isfinite(base) & (base > 0)
        if not known.any():
            continue
        low, high = np.where(known, base, np.inf), np.where(known, base, 0)
        count = np.maximum(known.cumsum(0), 1)
        mean = high.cumsum(0, dtype=np.float64) / count
        last = np.where(known, np.arange(sample.days)[:, None], 0).max(0)
        of_last = base[last, np.arange(base.shape[1])]
        so_far = {"largest": np.maximum.accumulate(high, 0), "smallest": np.minimum.accumulate(low, 0), "mean": mean}
        for what, trailing in so_far.items():
            found[f"{name} over the {what} of the life"] = _two(base, known, trailing[-1], trailing[days], days)
        found[f"{name} over the last of the life"] = _two(base, known, of_last, np.ones((len(days), 1)), days)
    return found


def _two(base: Float32, known: Bool, whole: Float, so_far: Float, days: Int) -> tuple[Float32, Float32]:
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.where(known[days], base[days], np.nan)
        return (values / whole).astype(np.float32), (values / so_far).astype(np.float32)


def _likeness(
    sample: CacheSample, scales: dict[str, tuple[Float32, Float32]]
) -> Iterator[tuple[str, str, float, float]]:
    """Of each feature and scale: size of the rank correlation within the day with that of whole lives, and so far."""
    days = spread_days(sample, CELLS)
    inside = sample.scored[days]
    templates = np.stack([ranks(np.where(inside, each, np.nan)) for pair in scales.values() for each in pair], -1)
    complete: Bool = np.asarray(np.isfinite(templates).all(-1))
    templates = np.where(complete[..., None], templates, 0)
    names = sample.panel.manifest.features
    total, used = np.zeros((len(scales) * 2, len(names))), 0
    for i, (feature, _) in enumerate(features_on(sample, days)):
        n = int(complete[i].sum())
        if n >= LEAST:
            total += templates[i].T @ feature / n
            used += 1
    likeness = np.abs(total / max(used, 1)).reshape(len(scales), 2, -1)
    for j, what in enumerate(scales):
        for f, name in enumerate(names):
            yield name, what, float(likeness[j, 0, f]), float(likeness[j, 1, f])
