"""Scores of other codes: the deviation against permutations that are made."""

from dataclasses import replace

import numpy as np

from engine.audit.scores.codes import _spread, codes
from engine.audit.scores.scored import both
from tests.audit.faults.scores import ranked
from tests.audit.market import PLAIN, clean_market


def test_the_deviation_is_that_of_permutations():
    rng = np.random.default_rng(3)
    days, n = 50, 40
    static = np.broadcast_to(rng.normal(size=n), (days, n)).astype(np.float32)
    returns = (rng.normal(size=(days, n)) + 0.5 * rng.normal(size=n)).astype(np.float32)
    x, y = both(static, returns)
    count = np.full(days, n)
    drawn = [(x[:, rng.permutation(n)] * y).mean(1).mean() for _ in range(4000)]
    # Without the diagonal, which holds n of the n^2 products, 2.5% of the variance.
    np.testing.assert_allclose(_spread(x, y, count), np.std(drawn), rtol=0.06)


def test_a_signal_passes(panel, market, beside):
    columns = [market.codes.index(name) for name in panel.manifest.codes]
    found = codes(beside(panel, market.features["alpha"][:, columns]))
    assert found.verdict == "passed", found.figure


def test_scores_that_know_each_codes_mean_pass(beside):
    market = clean_market(1, replace(PLAIN, codes=80))
    drift = 0.15 * np.random.default_rng(0).normal(size=market.listed.shape[1])
    factor = np.exp(0.03 * drift * np.arange(len(market.listed))[:, None])  # 3%: a day's deviation
    market = market.with_bars(close=market.bars["close"] * factor)
    scores = ranked(np.broadcast_to(drift, market.listed.shape))
    assert codes(beside(market, scores)).verdict == "passed"
