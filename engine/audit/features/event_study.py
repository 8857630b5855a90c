"""Filings stamped before they were published: an event study of slow features, from the day on which they change.

A slow feature stays as it is on most days and then jumps: a balance sheet, an estimate, a rating. The market reacts on
the day of publication. So, over the jumps of a feature (Ball and Brown 1968; MacKinlay 1997),

    c(k) = sum of jump x return k days later / root of (sum of jump^2 x sum of return^2),   k = 0..10

peaks at k = 0, or before it where the data come late. A peak at k >= 1 says that the feature knew k days early; the
first
five days are asked together too, since not all filings are as early. Drift after publication is real, and small: a
tenth of the reaction. Returns are standardised as in extreme_moves and clipped, and their mean given the day before is
taken off, by one slope for the panel: in a market with reversal every reaction is followed by a part of itself.

Null: c(k) = 0; errors clustered by code, normal, two-sided by SIZE over all lags and slow features. Floors: LEAST, and
LEAST_SHARE of the reaction at k = 0.

K lags, F features
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from engine.audit.features.extreme_moves import standardised
from engine.audit.finding import Advice, Finding, failed, passed, skipped, warned
from engine.audit.sample import CacheSample, Float32, shifted

ADVICE = Advice(
    "features: event study",
    "A filing that is stamped before its publication lets the model trade on it before anyone could.",
    "Stamp it with the day on which it could first be read, and one later where that was after the close.",
)
LAGS = 11
FIRST = 5  # days after the jump that are asked together
JUMPS = 0.05  # share of a feature's changes that are looked at
SLOW = 0.7  # share of the sum of squared changes that they make up; 0.28 of normal ones
LEAST_JUMPS = 100
CLIP = 6.0
SIZE = 1e-4
LEAST = 0.1  # of c(k)
LEAST_SHARE = 0.2  # of c(0)
PROBE = 200  # codes that decide which features are slow
CERTAIN = 0.2

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Reaction:
    """Of the slow features, an entry for each lag, then one for the first days together, by feature."""

    correlation: Float  # c [K + 1, F]
    z: Float  # [K + 1, F]
    jumps: Float  # with a return [K + 1, F]


def event_study(sample: CacheSample) -> Finding:
    """Features that jump before the market reacts."""
    returns = sample.label_returns if sample.label_returns is not None else sample.close_returns
    if returns is None:
        return skipped(ADVICE, "neither a label of one day nor closes")
    smallest = _smallest_jumps(sample)
    slow = np.flatnonzero(np.isfinite(smallest))
    if not len(slow):
        return skipped(ADVICE, "no feature stays as it is on most days")
    start = 1 + sample.panel.manifest.known_after
    together = f"in the {FIRST} days after"
    reaction = _reaction(sample, _surprises(returns), slow, smallest[slow], range(start, start + FIRST))
    limit = NormalDist().inv_cdf(1 - SIZE / 2 / (LAGS * len(slow)))
    found, highest, certain = [], (0.0, "none"), False
    for i, f in enumerate(slow.tolist()):
        later = np.where(reaction.jumps[start:, i] >= LEAST_JUMPS, reaction.z[start:, i], 0)
        if not len(later):
            continue
        k = start + int(np.argmax(np.abs(later)))
        c, now, z = reaction.correlation[k, i], reaction.correlation[0, i], abs(later[k - start])
        name = sample.panel.manifest.features[f]
        when = f"{k} days on" if k < LAGS else together
        highest = max(highest, (z, f"{name} {c:+.3f} {when}, z {z:.1f}"))
        if z > limit and abs(c) > LEAST and abs(c) > LEAST_SHARE * abs(now):
            found.append((z, f"{name} (reaction {now:+.2f} on the day, {c:+.2f} {when})"))
            certain |= abs(c) > max(CERTAIN, abs(now))
    figure = f"{len(slow)} slow features; largest reaction after the jump: {highest[1]}; limit z {limit:.1f}"
    if not found:
        return passed(ADVICE, figure)
    return (failed if certain else warned)(ADVICE, figure, [line for _, line in sorted(found, reverse=True)])


def _changes(sample: CacheSample, s: int, columns: npt.NDArray[np.int64] | slice) -> tuple[int, Float32, Bool]:
    """Of a code: the first day of its span, changes from row to row [n - 1, F], and which are of the universe."""
    values = sample.of_code(s)[:, columns].astype(np.float32)
    first = int(sample.panel.first[sample.codes[s]])
    inside = sample.scored[first : first + len(values), s]
    return first, np.diff(values, axis=0), inside[1:] & inside[:-1]


def _smallest_jumps(sample: CacheSample) -> Float:
    """Changes of each feature that count as jumps [F]; NaN of a feature that is not slow."""
    codes = np.unique(np.linspace(0, len(sample.codes) - 1, min(PROBE, len(sample.codes))).astype(np.int64))
    changes = [np.abs(each[inside]) for _, each, inside in (_changes(sample, s, slice(None)) for s in codes.tolist())]
    size = np.concatenate(changes) if changes else np.empty((0, 0), np.float32)
    most = int(JUMPS * len(size))
    found = np.full(len(sample.panel.manifest.features), np.nan)
    if most < 1:
        return found
    for f in range(len(found)):
        largest = np.partition(size[:, f], len(size) - most)[-most:].astype(np.float64)
        total = (size[:, f].astype(np.float64) ** 2).sum()
        if total > 0 and (largest**2).sum() > SLOW * total:
            found[f] = 0.25 * np.sqrt((largest**2).mean())
    return found


def _surprises(returns: Float32) -> Float32:
    """Standardised returns [T, S] less their mean given the day before."""
    x = np.clip(standardised(returns), -CLIP, CLIP)
    before = shifted(x, 1)
    both = np.isfinite(x) & np.isfinite(before)
    spread = float((before[both] ** 2).sum())
    slope = float((x[both] * before[both]).sum()) / spread if spread > 0 else 0.0
    return x - np.float32(slope) * np.nan_to_num(before)


def _reaction(
    sample: CacheSample, returns: Float32, slow: npt.NDArray[np.int64], smallest: Float, first_days: range
) -> Reaction:
    product, square, variance, clusters, count = np.zeros((5, LAGS + 1, len(slow)))
    for s in range(len(sample.codes)):
        first, changes, inside = _changes(sample, s, slow)
        jump = np.where((np.abs(changes) >= smallest) & inside[:, None], changes, 0)
        rows = np.flatnonzero(jump.any(1))
        if not len(rows):
            continue
        jump = jump[rows].astype(np.float64)
        together = np.zeros(len(slow))
        for k in range(LAGS):
            day = rows + first + 1 + k
            here = day < sample.days
            later = np.full(len(rows), np.nan)
            later[here] = returns[day[here], s]
            known = np.isfinite(later)[:, None] & (jump != 0)
            later = np.where(known, later[:, None], 0)
            one = (jump * later).sum(0)
            product[k] += one
            clusters[k] += one**2
            square[k] += np.where(known, jump**2, 0).sum(0)
            variance[k] += (later**2).sum(0)
            count[k] += known.sum(0)
            together += one * (k in first_days)
        clusters[LAGS] += together**2
    days = [k for k in first_days if k < LAGS]
    for each in (product, square, variance, count):
        each[LAGS] = each[days].sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.nan_to_num(product / np.sqrt(square * variance))
        return Reaction(correlation, np.nan_to_num(product / np.sqrt(clusters)), count)
