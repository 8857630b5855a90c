"""Shuffles within the day: the deviation against shuffles that are made."""

import re

import numpy as np
from scipy.stats import rankdata

from engine.audit.scores.shuffles import shuffles


def test_the_deviation_is_that_of_shuffles(panel, beside):
    rng = np.random.default_rng(2)
    scores = rng.integers(0, 5, (len(panel.calendar), len(panel.manifest.codes))).astype(float)
    scored = beside(panel, scores, start=380)
    s, y = scored.scores(1), scored.labels(1)
    drawn = []
    for _ in range(200):
        daily = []
        for a, b in zip(s, y, strict=True):
            known = np.isfinite(a) & np.isfinite(b)
            if known.sum() >= 20:
                daily.append(np.corrcoef(rng.permutation(rankdata(a[known])), rankdata(b[known]))[0, 1])
        drawn.append(np.mean(daily))
    told = float(re.search(r"± ([0-9.]+)", shuffles(scored).figure)[1])
    assert abs(told / np.std(drawn) - 1) < 0.15  # 200 draws: 5%


def test_a_signal_passes_and_a_lucky_t_is_warned_of(panel, market, beside):
    columns = [market.codes.index(name) for name in panel.manifest.codes]
    assert shuffles(beside(panel, market.features["alpha"][:, columns])).verdict == "passed"
    # Of much noise, that of each day whose RankIC is nearest to 0.012: their t is large, and the RankIC is not.
    rng = np.random.default_rng(5)
    labels = np.where(market.scored, market.labels[1], np.nan)[:, columns]
    scores = np.full(labels.shape, np.nan)
    for t in range(40):
        known = np.flatnonzero(np.isfinite(labels[t]))
        noise = rng.normal(size=(60, len(known)))
        each = np.array([np.corrcoef(rankdata(n), rankdata(labels[t, known]))[0, 1] for n in noise])
        scores[t, known] = noise[np.abs(each - 0.012).argmin()]
    found = shuffles(beside(panel, scores))
    assert found.verdict == "warned", found.figure
