"""Metrics of a device's tables against those of the host, which test_metrics.py compares with scipy and with loops."""

import numpy as np
import pytest
import torch

from engine.score.dense import dense_metrics
from engine.score.part_metrics import part_metrics, part_samples
from loaders.split import Days
from tests.panels import write_panel

PART = Days(30, 110)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    """Some of its days have fewer than 20 samples of five days ahead, and others none."""
    return write_panel(tmp_path_factory.mktemp("dense") / "cache", n_codes=34, n_days=112)


def both(samples, scores, cost_bps=25.0, periods=None):
    """Metrics by the host and by the device."""
    dense = dense_metrics(samples.on(DEVICE), torch.from_numpy(scores).to(DEVICE), cost_bps, periods or 252.0)
    return part_metrics(samples, scores, cost_bps, periods), dense


def random_scores(samples, seed=0):
    return np.random.default_rng(seed).standard_normal((len(samples.present.rows), 2)).astype(np.float32)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("levels", [None, 7, 2])  # of scores that tie, across the borders of both tenths at once too
def test_they_are_the_hosts(panel, late, levels):
    samples = part_samples(panel, PART, late)
    scores = random_scores(samples)
    if levels:
        scores = np.floor(scores * levels / 4)
    expected, found = both(samples, scores)
    counted = len(samples.samples[5].days)
    assert 0 < counted < len(PART)
    assert found.keys() == expected.keys()
    for h in expected:
        assert found[h] == pytest.approx(expected[h], rel=1e-9, abs=1e-12, nan_ok=True)
        assert expected[h]["turnover"] > 0
        assert np.isfinite(found[h]["rank_ic_late"]) == late


def test_days_of_constant_scores_are_left_out(panel):
    samples = part_samples(panel, PART)
    scores = random_scores(samples)
    scores[np.isin(samples.present.day, [40, 41, 55])] = 3.25
    expected, found = both(samples, scores)
    for h in expected:
        assert expected[h]["days"] == len(samples.samples[int(h)].days) - 3
        assert found[h] == pytest.approx(expected[h], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_not_finite_leaves_no_metric(panel, bad):
    samples = part_samples(panel, PART)
    scores = random_scores(samples)
    scores[samples.samples[1].rows[100], 0] = bad
    expected, found = both(samples, scores)
    assert np.isnan(found["1"]["rank_ic"])
    for h in expected:
        assert found[h] == pytest.approx(expected[h], rel=1e-9, abs=1e-12, nan_ok=True)


def test_rows_that_are_no_samples_may_have_no_score(panel):
    samples = part_samples(panel, PART)
    scores = random_scores(samples)
    expected, _ = both(samples, scores)
    for i, h in enumerate(samples.samples):
        scores[np.setdiff1d(np.arange(len(scores)), samples.samples[h].rows), i] = np.nan
    _, found = both(samples, scores)
    for h in expected:
        assert found[h] == pytest.approx(expected[h], rel=1e-9, abs=1e-12)


def test_no_day_counts_where_there_are_few_names(tmp_path):
    panel = write_panel(tmp_path / "cache", n_codes=12, n_days=112)
    samples = part_samples(panel, PART)
    expected, found = both(samples, random_scores(samples))
    for h in expected:
        assert found[h] == pytest.approx(expected[h], nan_ok=True)
        assert found[h]["days"] == 0


def test_samples_are_uploaded_once(panel):
    samples = part_samples(panel, PART)
    assert samples.on(DEVICE) is samples.on(DEVICE)
