"""Scores as arrays by day and code: against the rows that they came from, and scipy."""

import numpy as np
from scipy.stats import spearmanr

from engine.audit.finding import failed, passed, skipped, warned, worst
from engine.audit.scores.scored import daily_correlation, daily_rank_ic, scored_cache
from engine.audit.scores.shuffles import ADVICE
from loaders.cache.format import SCORED


def test_scores_lie_where_their_rows_are(panel, market, beside):
    drawn = np.random.default_rng(0).normal(size=market.listed.shape)
    scored = beside(panel, drawn[:, [market.codes.index(c) for c in panel.manifest.codes]], start=100)
    assert scored.start == 100
    found = scored.scores(1)
    for s, name in enumerate(scored.sample.names):
        code = panel.manifest.codes.index(name)
        for t in range(0, len(found), 37):
            place = t + 100 - panel.first[code]
            row = panel.offset[code] + place
            inside = 0 <= place < panel.days[code] and panel.presence[row] == SCORED
            expected = drawn[t + 100, market.codes.index(name)] if inside else np.nan
            np.testing.assert_allclose(found[t, s], expected, rtol=1e-6)


def test_rank_correlations_are_scipys():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 9, (6, 40)).astype(np.float32), rng.normal(size=(6, 40)).astype(np.float32)
    a[rng.random(a.shape) < 0.2] = np.nan
    a[4, 15:] = np.nan  # too few
    a[5] = 1  # constant
    found = daily_rank_ic(a, b)
    for t in range(4):
        known = np.isfinite(a[t])
        np.testing.assert_allclose(found[t], spearmanr(a[t][known], b[t][known])[0], atol=1e-6)  # float32
    assert np.isnan(found[4:]).all()


def test_correlations_are_numpys():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 5, 50)).astype(np.float32)
    a[rng.random(a.shape) < 0.3] = np.nan
    a[4, 10:] = np.nan  # too few
    found = daily_correlation(a, b)
    for t in range(4):
        known = np.isfinite(a[t])
        np.testing.assert_allclose(found[t], np.corrcoef(a[t][known], b[t][known])[0, 1], atol=1e-6)  # float32
    assert np.isnan(found[4])


def test_days_ahead_are_those_after(panel, market, beside):
    scored = beside(panel, np.zeros((len(panel.calendar), len(panel.manifest.codes))))
    columns = [market.codes.index(name) for name in scored.sample.names]
    expected = market.returns[:, columns]
    np.testing.assert_allclose(scored.ahead(2)[:-2], expected[2:], atol=1e-5)  # of float32 closes
    assert np.isnan(scored.ahead(2)[-2:]).all()


def test_a_large_panel_is_seen_by_some_of_its_codes(panel, beside):
    whole = beside(panel, np.zeros((len(panel.calendar), len(panel.manifest.codes))))
    some = scored_cache(panel, whole.source, most_cells=60 * len(panel.calendar))
    assert len(some.sample.codes) == 60
    assert some.scores(1).shape == (len(panel.calendar), 60)


def test_the_worst_finding_is_given():
    found = [passed(ADVICE, "a"), warned(ADVICE, "b"), failed(ADVICE, "c"), skipped(ADVICE, "d")]
    assert worst(found, ADVICE, "none in common").figure == "c"
    assert worst([], ADVICE, "none in common").verdict == "skipped"
