"""Codes with the same path of returns: one company under two names."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from engine.audit.copies.every_code import robust_scale
from engine.audit.finding import Advice, Finding, failed, passed, skipped, warned
from engine.audit.sample import CacheSample
from loaders.panel import Panel

ADVICE = Advice(
    "same paths",
    "One company under two codes counts twice, and tells on itself across a split of codes.",
    "Keep one code of each pair: the current ticker, the share class that trades more.",
)
BLOCK = 250  # days that are looked at together
WINDOW = 60  # of them, for correlations
MOST_ALIKE = 4  # codes with one label on one day: more is a grid of prices
MIN_EQUAL = 8  # days
SHARE = 0.1  # of the common days that are not zero
CORRELATION = 0.985  # less the market
CLIP = 4.0  # robust deviations of a code
MOST_CODES = 4000  # for correlations, whose work grows with the square
MIN_DAYS = 50  # of WINDOW, on which both have a label


def same_paths(sample: CacheSample) -> Finding:
    """Whether two codes have the same label, to the last bit, day after day, or nearly the same.

    Same: of each pair the days on which both have a label, other than 0, that no third to fifth code shares. Labels are
    float32 of prices with cents, so two codes agree on a day with a chance of some 1e-3 and less; 8 days and a tenth of
    all common days do not come together by chance: below 1e-9 a pair (binomial). Fails.

    Nearly the same: the correlation over 60 days of each 250, of labels and of labels less their day's median, clipped
    at 4 robust deviations of the code, so that no day counts alone. Fisher's z of independent series has deviation
    1 / sqrt(57); a correlation of 0.985 is 18 of them, and above what two companies with the same business reach. It
    warns, since share classes and funds of one index are pairs that can be right.
    """
    if not sample.horizons:
        return skipped(ADVICE, "no labels")
    panel = sample.panel
    equal: Counter[int] = Counter()
    alike: dict[int, float] = {}
    n = len(panel.manifest.codes)
    chosen = np.unique(np.linspace(0, n - 1, min(n, MOST_CODES)).round().astype(np.int64))
    for labels in _blocks(panel):
        keys, counts = np.unique(_equal_pairs(labels), return_counts=True)
        equal.update(dict(zip(keys.tolist(), counts.tolist(), strict=True)))
        for key, value in _alike(labels[:WINDOW, chosen]):
            pair = int(chosen[key // len(chosen)] * n + chosen[key % len(chosen)])
            alike[pair] = max(alike.get(pair, -1.0), value)
    same = {
        pair: share for pair, count in equal.items()
        if count >= MIN_EQUAL and (share := count / max(_common(panel, pair // n, pair % n), 1)) >= SHARE
    }  # fmt: skip
    near = {pair: value for pair, value in alike.items() if pair not in same}
    told = f"{len(same):,} pairs with the same labels on {MIN_EQUAL} days and {SHARE:.0%} of the days of both"
    told += f", {len(near):,} pairs with a correlation over {CORRELATION} in {WINDOW} days"
    concerned = [_named(panel, pair, n) for found in (same, near) for pair in sorted(found, key=lambda p: -found[p])]
    if same:
        return failed(ADVICE, told, concerned)
    return warned(ADVICE, told, concerned) if near else passed(ADVICE, told)


def _blocks(panel: Panel) -> Iterator[npt.NDArray[np.float32]]:
    """The shortest labels [days, S] of all codes, some days at a time; NaN where there is none."""
    n = len(panel.manifest.codes)
    targets = panel.targets
    for start in range(0, len(panel.calendar), BLOCK):
        stop = min(start + BLOCK, len(panel.calendar))
        found = np.full((stop - start, n), np.nan, np.float32)
        for s in np.flatnonzero((panel.first < stop) & (panel.first + panel.days > start)).tolist():
            rows = panel.rows_of(s, start, stop)
            begin = max(int(panel.first[s]) - start, 0)
            found[begin : begin + rows.stop - rows.start, s] = targets[rows][:, 0]
        yield found


def _equal_pairs(labels: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Pairs of codes, first x S + second, once for each day on which they share a label that few have."""
    n = labels.shape[1]
    order = np.argsort(labels, 1, kind="stable")
    ascending = np.take_along_axis(labels, order, 1)
    counts = ascending != 0
    counts &= np.isfinite(ascending)
    beyond = np.zeros(labels.shape, bool)  # a label that more have
    beyond[:, MOST_ALIKE:] = ascending[:, MOST_ALIKE:] == ascending[:, :-MOST_ALIKE]
    found = []
    for gap in range(1, MOST_ALIKE):
        if gap >= n:
            break
        here = counts[:, gap:] & (ascending[:, gap:] == ascending[:, :-gap]) & ~beyond[:, gap:]
        day, place = np.nonzero(here)
        first, second = order[day, place], order[day, place + gap]  # ascending: the sort is stable
        found.append(first * n + second)
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _alike(labels: npt.NDArray[np.float32]) -> Iterator[tuple[int, float]]:
    """Pairs, first x S + second, whose correlations over the days of both are above CORRELATION, and the lower one.

    Of the labels, and of the labels less their day's median: funds that hardly move share the second alone, and funds
    of the market the first. One product of all pairs finds those that can be, since both have most of the days.
    """
    n = labels.shape[1]
    ascending = np.sort(labels, 1)  # NaN come last
    middle = np.take_along_axis(ascending, np.isfinite(labels).sum(1, keepdims=True).clip(max=n - 1) // 2, 1)
    labels = np.where(labels == 0, np.nan, labels)  # stale prices are another check's
    apart = labels - middle
    most = CLIP * robust_scale(apart, 1e-6).astype(np.float32)
    apart, labels = np.clip(apart, -most, most), np.clip(labels, -most, most)
    enough = np.flatnonzero(np.isfinite(apart).sum(0) >= MIN_DAYS)
    units = np.nan_to_num(apart[:, enough])
    units /= np.maximum(np.sqrt((units**2).sum(0)), 1e-12)
    for start in range(0, len(enough), BLOCK):
        near = units[:, start : start + BLOCK].T @ units > CORRELATION * MIN_DAYS / WINDOW
        for i, j in zip(*np.nonzero(near), strict=True):
            if start + i < j:
                one, other = enough[start + i], enough[j]
                value = min(_correlation(each[:, one], each[:, other]) for each in (apart, labels))
                if value > CORRELATION:
                    yield int(one * n + other), value


def _correlation(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Over the days of both; 0 where these are few, or one does not vary."""
    here = np.isfinite(one) & np.isfinite(other)
    if here.sum() < MIN_DAYS:
        return 0.0
    a, b = (each[here].astype(np.float64) - each[here].mean(dtype=np.float64) for each in (one, other))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0


def _common(panel: Panel, one: int, other: int) -> int:
    """Days on which both have a label other than 0."""
    start = max(int(panel.first[one]), int(panel.first[other]))
    stop = min(int((panel.first + panel.days)[one]), int((panel.first + panel.days)[other]))
    a, b = (panel.targets[panel.rows_of(s, start, stop)][:, 0] for s in (one, other))
    return int((np.isfinite(a) & np.isfinite(b) & (a != 0) & (b != 0)).sum())


def _named(panel: Panel, pair: int, n: int) -> str:
    return f"{panel.manifest.codes[pair // n]} = {panel.manifest.codes[pair % n]}"
