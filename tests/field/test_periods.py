"""Calendars that are not daily: Sharpe ratios by the calendar's periods, on every phase, told beside the figures."""

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from engine.cli.app import main
from engine.evaluation.evaluate import evaluate
from engine.score.files import write_scores
from engine.score.metrics import split_metrics
from engine.score.part_metrics import part_metrics, part_samples
from engine.score.rows import present_rows, row_scores, to_file
from engine.score.tables import metrics_table
from loaders.split import Days
from tests.panels import rewritten, write_panel

PART = Days(30, 110)


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    return write_panel(tmp_path_factory.mktemp("periods") / "cache", n_codes=60, n_days=120)


def scores_of(panel):
    rows, _, _ = present_rows(panel, PART)
    signal = panel.features[rows].mean(1, keepdims=True)
    return (signal + np.random.default_rng(0).standard_normal((len(rows), 2))).astype(np.float32)


@pytest.mark.parametrize("periods", [12.0, 52.0, 365.25])
def test_a_monthly_panel_is_not_read_as_a_daily_one(panel, tmp_path, periods):
    """Of 252 periods a month's Sharpe is sqrt(21) times too large."""
    daily = part_metrics(part_samples(panel, PART), scores_of(panel))
    other = rewritten(panel, tmp_path / "cache", {"periods_per_year": periods, "period": "other"})
    found = part_metrics(part_samples(other, PART), scores_of(panel))
    for h in ("1", "5"):
        for name, value in daily[h].items():
            factor = math.sqrt(periods / 252) if name.startswith("sharpe") else 1
            assert found[h][name] == pytest.approx(value * factor, rel=1e-12), name


def test_eras_of_unknown_length_have_no_sharpe(panel, tmp_path):
    other = rewritten(panel, tmp_path / "cache", {"periods_per_year": None, "period": "era"})
    found = part_metrics(part_samples(other, PART), scores_of(panel))["1"]
    assert math.isnan(found["sharpe"])
    assert math.isnan(found["sharpe_net"])
    assert math.isfinite(found["decile_spread"])
    told = part_metrics(part_samples(other, PART), scores_of(panel), periods_per_year=252)["1"]
    assert told == part_metrics(part_samples(panel, PART), scores_of(panel))["1"]
    text = io.StringIO()
    Console(width=120, file=text).print(metrics_table("eras", {"1": found}, None))
    assert "--periods-per-year" in text.getvalue()


def test_periods_stand_beside_the_figures(panel, tmp_path, monkeypatch, capsys):
    path, other = (
        tmp_path / "s.parquet",
        rewritten(panel, tmp_path / "cache", {"periods_per_year": 12.0, "period": "month"}),
    )
    write_scores(path, to_file(other, row_scores(other, PART, scores_of(panel), "test", "")))

    def shown(*options):
        command = ["atft-engine", "evaluate", path, "--arrow", other.folder, *options]
        monkeypatch.setattr("sys.argv", list(map(str, command)))
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
        return capsys.readouterr().out

    assert "Sharpe: 12 periods a year; costs: 10 bp of turnover, half of what is traded" in shown()
    assert "Sharpe: 252 periods a year; costs: 25 bp" in shown("--periods-per-year", 252, "--cost-bps", 25)
    own, told = (json.loads(shown("--json", *more)) for more in ((), ("--periods-per-year", "252")))
    assert (own["periods_per_year"], told["periods_per_year"]) == (12, 252)
    ratio = told["splits"]["test"]["5"]["sharpe"] / own["splits"]["test"]["5"]["sharpe"]
    assert ratio == pytest.approx(math.sqrt(21), rel=1e-9)
    assert evaluate([path], "test", None, other.folder)["periods_per_year"] == 12


def test_no_phase_decides():
    """A book that earns on one day of five alone: by that phase it is worth a lot, by the others nothing."""
    rng = np.random.default_rng(3)
    days, names, h = 400, 30, 5
    day, code = (a.ravel() for a in np.meshgrid(np.arange(days), np.arange(names), indexing="ij"))
    scores = rng.standard_normal(len(day))
    targets = np.where(day % h == 2, 0.5, 0.0) * scores + rng.standard_normal(len(day))
    found = [split_metrics(scores, targets, day + shift, code, h)["sharpe"] for shift in range(h)]
    assert found == pytest.approx([found[0]] * h)
    rolled = [split_metrics(*(x[day >= d] for x in (scores, targets, day, code)), h)["sharpe"] for d in range(h)]
    assert max(rolled) / min(rolled) < 1.1
    alone = []
    for phase in range(h):
        here = day % h == phase
        series = split_metrics(scores[here], targets[here], day[here], code[here], 1)["sharpe"]
        alone.append(series / math.sqrt(h))
    assert max(alone) / max(np.median(alone), 0.1) > 3
    assert found[0] == pytest.approx(np.mean(alone), rel=1e-9)


@pytest.mark.parametrize("h", [1, 5])
def test_a_wholly_new_book_has_turnover_two_and_trades_four(h):
    """Two sets of names take turns, each h days: 10 bp of turnover 2 are 5 bp of each of the 4 that are traded."""
    rng = np.random.default_rng(4)
    days, names = 40, 40
    day, code = (a.ravel() for a in np.meshgrid(np.arange(days), np.arange(names), indexing="ij"))
    spread = np.where(code < 20, np.arange(len(code)) % names - 9.5, 0.0)
    other = np.where(code >= 20, np.arange(len(code)) % names - 29.5, 0.0)
    scores = np.where((day // h) % 2 == 0, spread, other)
    targets = rng.standard_normal(len(day))
    cheap, dear = (split_metrics(scores, targets, day, code, h, cost_bps=bps) for bps in (0, 1e4))
    assert cheap["turnover"] == 2
    assert cheap["sharpe"] == cheap["sharpe_net"] == dear["sharpe"]
    books = spread[:names], other[:names]
    weights = [(np.argsort(np.argsort(b)) >= 36) / 4.0 - (np.argsort(np.argsort(b)) < 4) / 4.0 for b in books]
    assert np.abs(weights[0] - weights[1]).sum() == 4
    ratios = []
    for phase in range(h):
        steps = range(phase, days, h)
        gross = np.array([weights[(t // h) % 2] @ targets[day == t] for t in steps])
        net = gross - np.array([1.0] + [2.0] * (len(gross) - 1))
        ratios.append(net.mean() / net.std(ddof=1) * math.sqrt(252 / h))
    assert dear["sharpe_net"] == pytest.approx(np.mean(ratios), rel=1e-9)


def test_phases_of_one_rebalance_do_not_count():
    scores, targets = np.random.default_rng(5).standard_normal((2, 7 * 30))
    day, code = np.repeat(np.arange(7), 30), np.tile(np.arange(30), 7)
    found = split_metrics(scores, targets, day, code, 5)["sharpe"]
    # Days 0 and 5, 1 and 6 are two phases; 2, 3 and 4 are alone.
    pairs = []
    for first in (0, 1):
        here = np.isin(day, (first, first + 5))
        pairs.append(split_metrics(scores[here], targets[here], day[here], code[here], 1)["sharpe"] / math.sqrt(5))
    assert found == pytest.approx(np.mean(pairs), rel=1e-9)
    assert math.isnan(split_metrics(scores, targets, day, code, 7)["sharpe"])
