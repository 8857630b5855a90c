"""RankIC one period later: the same scores against the next day's target of the same code, by polars and scipy."""

import math

import numpy as np
import polars as pl
import pytest
from scipy import stats

from engine.evaluation.evaluate import evaluate
from engine.score.files import write_scores
from engine.score.part_metrics import part_metrics, part_samples
from engine.score.rows import later_targets, present_rows, row_scores, to_file
from loaders.cache.format import ABSENT, SCORED
from loaders.split import Days
from tests.panels import rewritten, write_panel

PART = Days(30, 110)


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    return write_panel(tmp_path_factory.mktemp("late") / "cache", n_codes=60, n_days=120)


def random_scores(panel, seed=0):
    rows, _, _ = present_rows(panel, PART)
    signal = panel.features[rows].mean(1, keepdims=True)
    return (signal + np.random.default_rng(seed).standard_normal((len(rows), 2))).astype(np.float32)


def table_of(panel):
    """Every row of the cache: code, day, presence and targets, by the manifest alone."""
    first, days = panel.manifest.first, panel.manifest.days
    return pl.DataFrame(
        {
            "code": np.repeat(np.arange(len(days)), days),
            "day": np.concatenate([np.arange(f, f + n) for f, n in zip(first, days, strict=True)]),
            "presence": panel.presence,
            "1": panel.targets[:, 0],
            "5": panel.targets[:, 1],
        }
    )


def by_polars(panel, scores, h, part=PART):
    """Mean RankIC against the target of (code, day + 1), joined by key, over samples with both."""
    _, day, code = present_rows(panel, part)
    table = table_of(panel)
    later = table.select("code", pl.col("day") - 1, pl.col(h).alias("later"))
    frame = pl.DataFrame({"code": code, "day": day, "score": scores})
    frame = frame.join(table, on=["code", "day"]).join(later, on=["code", "day"])
    frame = frame.filter((pl.col("presence") == SCORED) & pl.col(h).is_not_nan() & pl.col("later").is_not_nan())
    daily = [stats.spearmanr(d["score"], d["later"]).statistic for _, d in frame.group_by("day") if len(d) >= 20]
    return np.mean(daily)


def test_against_a_join_by_code_and_day(panel):
    scores = random_scores(panel)
    found = part_metrics(part_samples(panel, PART), scores)
    for i, h in enumerate(("1", "5")):
        assert found[h]["rank_ic_late"] == pytest.approx(by_polars(panel, scores[:, i], h), abs=1e-12)
    tied = np.round(scores)
    found = part_metrics(part_samples(panel, PART), tied)
    assert found["1"]["rank_ic_late"] == pytest.approx(by_polars(panel, tied[:, 0], "1"), abs=1e-12)


def test_the_next_row_is_the_next_day_of_the_same_code(panel):
    rows = np.arange(panel.manifest.rows)
    found = later_targets(panel, rows, panel.code_of(rows))
    table = table_of(panel)
    shifted = table.select(pl.col("1", "5").shift(-1).over("code", order_by="day")).to_numpy()
    np.testing.assert_array_equal(found, np.where(np.isnan(shifted), np.nan, shifted).astype(np.float32))
    ends = panel.offset + panel.days - 1
    assert np.isnan(found[ends]).all()


def test_a_code_that_does_not_trade_on_the_next_day_counts_today_alone(panel, tmp_path):
    """Everyone is absent on day 51: day 50 has a RankIC and no later one."""
    day = table_of(panel)["day"].to_numpy()
    presence, targets = panel.presence.copy(), panel.targets.copy()
    presence[day == 51], targets[day == 51] = ABSENT, np.nan
    gap = rewritten(panel, tmp_path / "gap", presence=presence, targets=targets)
    alone = Days(50, 51)
    rows, _, _ = present_rows(gap, alone)
    found = part_metrics(part_samples(gap, alone), np.random.default_rng(0).standard_normal((len(rows), 2)))
    assert math.isfinite(found["1"]["rank_ic"])
    assert math.isnan(found["1"]["rank_ic_late"])


def test_a_signal_of_one_day_is_gone_one_day_later(panel):
    """Scores that know today's noise: +1 at the headline entry, nothing later; of tomorrow's: the reverse."""
    rows, _, code = present_rows(panel, PART)
    today, tomorrow = np.nan_to_num(panel.targets[rows]), np.nan_to_num(later_targets(panel, rows, code))
    prepared = part_samples(panel, PART)
    found = part_metrics(prepared, today)["1"]
    assert found["rank_ic"] == pytest.approx(1)
    assert abs(found["rank_ic_late"]) < 0.05
    found = part_metrics(prepared, tomorrow)["1"]
    assert found["rank_ic_late"] == pytest.approx(1)
    assert abs(found["rank_ic"]) < 0.05


def test_evaluate_shows_it_for_files_and_their_average(panel, tmp_path):
    paths, zscores = [], []
    rows, day, _ = present_rows(panel, PART)
    sample = (panel.presence[rows] == SCORED) & np.isfinite(panel.targets[rows, 0])
    for seed in (0, 1):
        scores = random_scores(panel, seed)
        paths.append(tmp_path / f"{seed}.parquet")
        write_scores(paths[-1], to_file(panel, row_scores(panel, PART, scores, "test", "")))
        z = np.zeros(len(rows))
        for d in np.unique(day):
            z[sample & (day == d)] = stats.zscore(scores[sample & (day == d), 0].astype(float))
        zscores.append(z)
    alone = evaluate(paths[:1], "test", None, panel.folder)["splits"]["test"]["1"]
    assert alone["rank_ic_late"] == pytest.approx(by_polars(panel, random_scores(panel)[:, 0], "1"), abs=1e-12)
    both = evaluate(paths, "test", None, panel.folder)["splits"]["test"]["1"]
    assert both["rank_ic_late"] == pytest.approx(by_polars(panel, np.mean(zscores, 0), "1"), abs=1e-9)
