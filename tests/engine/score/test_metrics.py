"""Every figure against scipy or a loop over days; perfect, reversed, constant, tied and shuffled scores."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft, stats

from engine.score.cross_section import ranks_within_day, samples_of, zscores_within_day
from engine.score.metrics import METRICS, daily_rank_ic, metrics_of, split_metrics


def market(seed=0, days=60, codes=50, ties=False, missing=0.1):
    """Scores, targets (some NaN), day and code of a panel with holes; rows in random order."""
    rng = np.random.default_rng(seed)
    day, code = (x.ravel() for x in np.meshgrid(np.arange(days), np.arange(codes), indexing="ij"))
    keep = rng.permutation(len(day))[: int(0.9 * len(day))]
    day, code = day[keep], code[keep]
    targets = 0.02 * rng.standard_normal(len(day))
    scores = targets * 10 + rng.standard_normal(len(day))
    if ties:
        scores, targets = np.round(scores, 0), np.round(targets, 2)
    targets[rng.random(len(day)) < missing] = np.nan
    return scores, targets, day, code


def by_day(scores, targets, day, code):
    """Lists per day of (scores, targets, codes), samples only, days with fewer than 20 left out."""
    out = []
    for d in np.unique(day):
        rows = np.flatnonzero((day == d) & np.isfinite(targets))
        if len(rows) >= 20:
            out.append((scores[rows], targets[rows], code[rows]))
    return out


def of_mean(x, horizon):
    """Standard error, t and p by the cosine transform and Student's t of scipy."""
    n = len(x)
    cosines = min(int(0.4 * n ** (2 / 3)), n // (3 * horizon))
    se = math.sqrt(np.mean(fft.dct(np.asarray(x), norm="ortho")[1 : cosines + 1] ** 2) / n)
    t = np.mean(x) / se
    return se, t, 2 * stats.t.sf(abs(t), cosines)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("horizon", [1, 5, 10])
def test_correlations_against_scipy(horizon, ties):
    scores, targets, day, code = market(seed=horizon, ties=ties)
    found = split_metrics(scores, targets, day, code, horizon)
    sections = by_day(scores, targets, day, code)
    ic = [stats.pearsonr(s, y).statistic for s, y, _ in sections]
    rank_ic = [stats.spearmanr(s, y).statistic for s, y, _ in sections]
    assert set(found) == set(METRICS)
    assert found["ic"] == pytest.approx(np.mean(ic), abs=1e-12)
    assert found["icir"] == pytest.approx(np.mean(ic) / np.std(ic, ddof=1), rel=1e-9)
    assert found["rank_ic"] == pytest.approx(np.mean(rank_ic), abs=1e-12)
    assert found["rank_icir"] == pytest.approx(np.mean(rank_ic) / np.std(rank_ic, ddof=1), rel=1e-9)
    se, t, p = of_mean(rank_ic, horizon)
    assert found["rank_ic_se"] == pytest.approx(se, rel=1e-9)
    assert found["rank_ic_t"] == pytest.approx(t, rel=1e-9)
    assert found["rank_ic_p"] == pytest.approx(p, rel=1e-6)
    assert math.isnan(found["rank_ic_late"])  # nobody told the later targets
    assert found["days"] == len(sections)
    assert found["samples"] == sum(len(s) for s, _, _ in sections)


@pytest.mark.parametrize("horizon", [1, 5])
def test_portfolio_against_a_loop(horizon):
    scores, targets, day, code = market(seed=3)
    found = split_metrics(scores, targets, day, code, horizon, cost_bps=25)
    books = []
    for s, y, names in by_day(scores, targets, day, code):
        order, k = np.argsort(s), len(s) // 10
        weights = dict.fromkeys(names[order[-k:]], 1 / k) | dict.fromkeys(names[order[:k]], -1 / k)
        books.append((weights, np.mean(y[order[-k:]]) - np.mean(y[order[:k]])))
    assert found["decile_spread"] == pytest.approx(np.mean([r for _, r in books]), rel=1e-9)
    later, ratios = [], {"sharpe": [], "sharpe_net": []}
    for phase in range(horizon):
        held, turnover = {}, []
        for weights, _ in books[phase::horizon]:
            turnover.append(sum(abs(weights.get(c, 0) - held.get(c, 0)) for c in {*weights, *held}) / 2)
            held = weights
        later += turnover[1:]
        gross = np.array([r for _, r in books[phase::horizon]])
        for name, series in (("sharpe", gross), ("sharpe_net", gross - 0.0025 * np.array(turnover))):
            ratios[name].append(series.mean() / series.std(ddof=1) * math.sqrt(252 / horizon))
    assert found["turnover"] == pytest.approx(np.mean(later), rel=1e-9)
    for name, values in ratios.items():
        assert found[name] == pytest.approx(np.mean(values), rel=1e-9)


@pytest.mark.parametrize("ties", [False, True])
def test_samples_made_once_serve_scores_of_any_type(ties):
    """Scores are ordered in their own type; compared with scipy and with counts of places, both in float64."""
    scores, targets, day, code = market(seed=11, ties=ties)
    samples = samples_of(targets, day)
    for s in (scores.astype(np.float32), -scores.astype(np.float16), scores, np.round(scores).astype(np.int8)):
        found = metrics_of(samples, s, code, 5)
        sections = by_day(s.astype(np.float64), targets, day, code)
        assert found["ic"] == pytest.approx(
            np.mean([stats.pearsonr(a, y).statistic for a, y, _ in sections]), abs=1e-12
        )
        rank_ic = np.mean([stats.spearmanr(a, y).statistic for a, y, _ in sections])
        assert found["rank_ic"] == pytest.approx(rank_ic, abs=1e-12)
        spread = np.mean([tenths(a) @ y for a, y, _ in sections])
        assert found["decile_spread"] == pytest.approx(spread, rel=1e-9)


def tenths(scores):
    """Weights of the book: a name's share of the places in the top tenth less that of the bottom tenth, by counting."""
    n = len(scores)
    below, up_to = (scores[None] < scores[:, None]).sum(1), (scores[None] <= scores[:, None]).sum(1)
    k = n // 10
    long = [sum(place >= n - k for place in range(a, b)) / (b - a) for a, b in zip(below, up_to, strict=True)]
    short = [sum(place < k for place in range(a, b)) / (b - a) for a, b in zip(below, up_to, strict=True)]
    return (np.array(long) - np.array(short)) / k


def test_zeros_of_either_sign_tie():
    scores, targets, day, code = market(seed=12, ties=True)
    signed = np.where(scores == 0, np.where(code % 2, -0.0, 0.0), scores).astype(np.float32)
    assert (np.signbit(signed) & (signed == 0)).any()
    assert split_metrics(signed, targets, day, code, 1) == split_metrics(
        np.abs(scores) * np.sign(scores), targets, day, code, 1
    )


def test_perfect_reversed_and_constant():
    _, targets, day, code = market()
    perfect = split_metrics(targets, targets, day, code, 1)
    assert perfect["rank_ic"] == pytest.approx(1)
    assert perfect["ic"] == pytest.approx(1)
    reverse = split_metrics(-targets, targets, day, code, 1)
    assert reverse["rank_ic"] == pytest.approx(-1)
    assert reverse["decile_spread"] == pytest.approx(-perfect["decile_spread"])
    for value in (0.0, 0.1, -1e9, 1 / 3):
        constant = split_metrics(np.full(len(day), value), targets, day, code, 1)
        assert all(math.isnan(constant[name]) for name in METRICS if name not in ("days", "samples")), constant
        assert constant["days"] == 0


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_labels_are_worth_nothing(seed):
    scores, targets, day, code = market(seed, days=250)
    found = split_metrics(scores, np.random.default_rng(seed).permutation(targets), day, code, 1)
    assert abs(found["rank_ic_t"]) < 3
    assert split_metrics(scores, targets, day, code, 1)["rank_ic_t"] > 5


def test_a_score_that_is_not_finite_leaves_no_figure():
    for bad in (np.nan, np.inf):
        scores, targets, day, code = market()
        scores[np.flatnonzero(np.isfinite(targets))[7]] = bad
        assert math.isnan(split_metrics(scores, targets, day, code, 1)["rank_ic"])


def test_rows_without_a_target_count_nowhere():
    scores, targets, day, code = market(missing=0.3)
    known = np.isfinite(targets)
    some = split_metrics(scores[known], targets[known], day[known], code[known], 1)
    scores[~known] = 1e6
    assert split_metrics(scores, targets, day, code, 1) == some


def test_days_with_few_samples_are_skipped():
    scores, targets, day, code = market(days=3, codes=40, missing=0)
    few = np.flatnonzero(day == 1)[19:]
    targets[few] = np.nan
    assert split_metrics(scores, targets, day, code, 1)["days"] == 2
    targets[few[0]] = 0.01
    assert split_metrics(scores, targets, day, code, 1)["days"] == 3
    none = split_metrics(scores[:10], targets[:10], day[:10], code[:10], 1)
    assert none["days"] == none["samples"] == 0
    assert math.isnan(none["rank_ic"])
    assert split_metrics([], [], [], [], 1)["days"] == 0


def test_the_portfolio_does_not_depend_on_the_order_of_tied_rows():
    scores, targets, day, code = market(ties=True)
    order = np.random.default_rng(1).permutation(len(day))
    later = np.where(code % 7 == 0, np.nan, targets[::-1])
    a = split_metrics(scores, targets, day, code, 5, later=later)
    b = split_metrics(scores[order], targets[order], day[order], code[order], 5, later=later[order])
    assert a == pytest.approx(b, rel=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-50, 50))
def test_rank_figures_do_not_change_with_a_rising_transform(seed, scale, shift):
    scores, targets, day, _ = market(seed, days=4, codes=30)
    a = daily_rank_ic(scores, targets, day)
    b = daily_rank_ic(np.arctan(scores) * scale + shift, targets, day)
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_allclose(a[1], b[1], atol=1e-12)


def test_ranks_and_zscores_within_a_day():
    scores, _, day, _ = market(ties=True)
    ranks, z = ranks_within_day(scores, day), zscores_within_day(scores, day)
    for d in np.unique(day):
        here = day == d
        n = here.sum()
        np.testing.assert_allclose(ranks[here], (stats.rankdata(scores[here]) - 0.5) / n - 0.5, atol=1e-12)
        np.testing.assert_allclose(z[here], stats.zscore(scores[here]), atol=1e-9)
    assert not zscores_within_day(np.full(5, 0.1), np.zeros(5, int)).any()
