"""The online regression: against weighted least squares, blind to what is not known yet, and its part of scores."""

import numpy as np
import pytest
import torch
from scipy import stats

from engine.config_file import load_config
from engine.model.ensemble import Ensemble, build_ensemble
from engine.rivals.fit import run_baseline
from engine.score.metrics import daily_rank_ic
from engine.score.online import features as online
from engine.score.online.features import online_scores, online_slopes
from engine.score.predict import score_part, weighted_online_scores
from engine.score.rows import present_rows
from loaders.cache.format import SCORED
from loaders.panel import open_panel
from loaders.split import Days, Split
from loaders.tiers.choose import open_source
from tests.panels import rewritten, write_panel

PART = Days(60, 90)
HALF_LIFE, EXPECTED = 250, 0.06  # of the samples' weights in days; RankIC that the prior expects


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("online") / "cache"
    write_panel(folder, n_codes=60, n_days=120)
    return folder


def columns(panel, rows):
    """Features and squares of one day's rows in float64, standardised over the scored ones."""
    scored, x = panel.presence[rows] == SCORED, panel.features[rows].astype(np.float64)
    z = (x - x[scored].mean(0)) / x[scored].std(0)
    squares = z**2
    return np.hstack([z, (squares - squares[scored].mean(0)) / squares[scored].std(0)])


def expected_slopes(panel, day: int, i: int, without=()):
    """By lstsq on all known samples, stacked with the prior."""
    h, width = panel.manifest.horizons[i], 2 * len(panel.manifest.features)
    stacked, aims = [np.sqrt(width) / EXPECTED * np.eye(width)], [np.zeros(width)]
    for u in range(day - h + 1):
        rows, _, _ = present_rows(panel, Days(u, u + 1))
        rows = rows[panel.presence[rows] == SCORED]
        target = panel.targets[rows, i]
        known = np.isfinite(target)
        x = columns(panel, rows)
        x[:, [*without, *(len(panel.manifest.features) + w for w in without)]] = 0
        rank = (stats.rankdata(target[known]) - 0.5) / known.sum() - 0.5
        weight = np.sqrt(0.5 ** ((day - h - u) / HALF_LIFE))
        stacked.append(weight * x[known])
        aims.append(weight * rank * np.sqrt(12))
    return np.linalg.lstsq(np.vstack(stacked), np.concatenate(aims), rcond=None)[0] / EXPECTED


@pytest.mark.parametrize("without", [[], [0, 3]])
def test_slopes_are_those_of_weighted_least_squares(cache, without):
    panel = open_panel(cache)
    found = online_slopes(panel, PART, without)
    assert found.shape == (30, 10, 2)
    assert found.dtype == np.float32
    for day in (60, 71, 89):
        for i in (0, 1):
            expected = expected_slopes(panel, day, i, without)
            np.testing.assert_allclose(found[day - PART.start, :, i], expected, atol=1e-4)
            assert np.abs(expected).max() > 0.5


@pytest.mark.parametrize("days", [1, 7, 30])
def test_days_solved_together_have_the_slopes_of_each(cache, monkeypatch, days):
    """Matrices of 2 horizons x 10 x 10 columns, 8 bytes each."""
    expected = online_slopes(open_panel(cache), PART, [])
    seen, solve = [], torch.linalg.solve
    monkeypatch.setattr(torch.linalg, "solve", lambda a, b: (seen.append(len(a)), solve(a, b))[1])
    monkeypatch.setattr(online, "SOLVED_BYTES", days * 1600)
    np.testing.assert_allclose(online_slopes(open_panel(cache), PART, []), expected, rtol=0, atol=1e-6)
    assert max(seen) == days
    assert sum(seen) == len(PART)


def days_of(panel):
    return np.concatenate([np.arange(f, f + n) for f, n in zip(panel.first, panel.days, strict=True)])


def changed(cache, folder, horizon: int, first: int):
    """The panel with other targets of a horizon from a day on."""
    panel = open_panel(cache)
    targets = panel.targets.copy()
    late = days_of(panel) >= first
    targets[late, horizon] = np.random.default_rng(1).standard_normal(late.sum())
    return rewritten(panel, folder, targets=targets)


@pytest.mark.parametrize(("i", "h"), [(0, 1), (1, 5)])
def test_a_return_counts_from_the_day_on_that_it_is_known(cache, tmp_path, i, h):
    """Targets from day 70 on: slopes up to day 70 + h - 1 know none of them, those of the next day know the first."""
    expected = online_slopes(open_panel(cache), PART, [])
    found = online_slopes(changed(cache, tmp_path / "changed", i, 70), PART, [])
    known = 70 + h - PART.start
    np.testing.assert_array_equal(found[:known], expected[:known])
    assert not np.allclose(found[known, :, i], expected[known, :, i], atol=1e-3)
    np.testing.assert_array_equal(found[..., 1 - i], expected[..., 1 - i])


def test_rows_after_the_part_and_outside_the_universe_change_nothing(cache, tmp_path):
    expected = online_slopes(open_panel(cache), PART, [])
    panel = open_panel(cache)
    features = panel.features.copy()
    features[(days_of(panel) >= PART.stop) | (panel.presence != SCORED)] = 1e3
    other = rewritten(panel, tmp_path / "other", features=features)
    np.testing.assert_array_equal(online_slopes(other, PART, []), expected)


def test_a_panel_has_no_slopes_before_it_has_returns(cache):
    found = online_slopes(open_panel(cache), Days(0, 10), [])
    assert not found[0].any()
    assert not found[:5, :, 1].any()
    assert found[1:, :, 0].any(1).all()
    assert found[5:, :, 1].any(1).all()
    # From few samples only small ones.
    assert np.abs(found[1]).max() < 0.2 * np.abs(online_slopes(open_panel(cache), PART, [])).max()


def test_it_follows_a_market_that_turns(cache, tmp_path):
    panel = open_panel(cache)
    day = days_of(panel)
    targets = panel.targets * np.where(day < 40, -1, 1)[:, None].astype(np.float32)
    panel = rewritten(panel, tmp_path / "turned", targets=targets)
    part = Days(100, 115)
    rows, of_row, _ = present_rows(panel, part)
    scores = online_scores(panel, part, online_slopes(panel, part, []), None)
    sample = (panel.presence[rows] == SCORED) & np.isfinite(targets[rows, 0])
    assert daily_rank_ic(scores[sample, 0], targets[rows[sample], 0], of_row[sample])[1].mean() > 0.2


def columns_of(panel, part):
    """`columns` of all present rows of a part, and the days of those."""
    rows, day, _ = present_rows(panel, part)
    return np.concatenate([columns(panel, rows[day == d]) for d in np.unique(day)]), rows, day


def test_scores_are_columns_times_the_days_slopes(cache):
    panel = open_panel(cache)
    slopes = online_slopes(panel, PART, [])
    x, _, day = columns_of(panel, PART)
    expected = np.einsum("nc,nch->nh", x, slopes[day - PART.start])
    np.testing.assert_allclose(online_scores(panel, PART, slopes, None), expected, atol=1e-4)
    assert expected.std() > 0.1


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_share_of_them_is_added_to_the_models_deviations(cache, seeds):
    """Both held back alike: by all that follows the first feature."""
    panel = open_panel(cache)
    settings = [
        f"train.seeds={seeds}",
        "model.online_weight=0.4",
        "model.neutralize=1",
        "model.risk_factors=1",
        "data.scoring_days=13",
    ]
    config = load_config(None, settings)
    model = build_ensemble(config, 5, 2)
    model.neutral.directions[0] = 1
    online = weighted_online_scores(config, panel, PART, model.neutral)
    with open_source(panel, torch.device("cpu")) as source:
        found = score_part(model, source, PART, config).numpy()
        own = score_part(model, source, PART, config, online=np.zeros_like(online)).numpy()
        model.neutral.directions.zero_()
        members = [Ensemble([member], model.neutral, True) for member in model.members]
        members = [score_part(member, source, PART, config, online=np.zeros_like(online)).numpy() for member in members]
    np.testing.assert_allclose(found - own, online, atol=1e-5)
    x, rows, day = columns_of(panel, PART)
    slopes = online_slopes(panel, PART, [])
    whole = np.mean(members, 0) + 0.4 * np.einsum("nc,nch->nh", x, slopes[day - PART.start])
    for d in np.unique(day):
        here, scored = day == d, panel.presence[rows] == SCORED
        for member in members:
            np.testing.assert_allclose(member[here & scored].std(0), 1, atol=1e-3)
        slope = np.mean(x[here & scored, :1] * whole[here & scored], 0)
        np.testing.assert_allclose(found[here], whole[here] - x[here, :1] * slope, atol=1e-3)


def test_without_a_weight_it_is_not_computed(cache):
    config = load_config(None, ["model.online_weight=0"])
    model = build_ensemble(config, 5, 2)
    assert weighted_online_scores(config, open_panel(cache), PART, model.neutral) is None
    assert not model.deviations


def test_the_baseline_is_the_regression_alone(cache):
    panel, split = open_panel(cache), Split(Days(0, 30), Days(40, 60), PART)
    found = run_baseline(panel, split, "online")
    for name in ("valid", "test"):
        part = split.part(name)
        expected = online_scores(panel, part, online_slopes(panel, part, []), None)
        np.testing.assert_array_equal(found[name], expected)


def test_a_constant_feature_has_no_slope(cache, tmp_path):
    panel = open_panel(cache)
    features = panel.features.copy()
    features[:, 2] = 7
    found = online_slopes(rewritten(panel, tmp_path / "constant", features=features), PART, [])
    assert not found[:, [2, 7]].any()
    assert found[:, [0, 1, 3, 4, 5, 6, 8, 9]].any(0).all()
