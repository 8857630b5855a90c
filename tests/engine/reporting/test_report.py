"""The page: its numbers are those of `evaluate --json`, names are escaped, and every kind of source has one."""

import dataclasses
import html
import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from rich.console import Console

import engine
from engine.config_file import load_config
from engine.evaluation.evaluate import evaluate
from engine.evaluation.opened import open_sources
from engine.reporting import looks, page
from engine.reporting import report as reporting
from engine.reporting.sections import decay, deciles, folds, parts, rank_ic
from engine.reporting.subject import Subject
from engine.score.files import write_scores
from engine.score.metrics import METRICS, daily_tenths
from engine.score.predict import load_run, predict_run
from engine.score.rows import to_file
from engine.score.tables import COMPARISON
from engine.training.folds import train_folds
from engine.training.loop import train
from loaders.errors import InputError
from loaders.panel import open_panel
from tests.conftest import SMALL
from tests.panels import rewritten

pytest.importorskip("plotly", reason="the extra `report` is not installed")
pytest.importorskip("jinja2", reason="the extra `report` is not installed")

ODD = "<script>alert(1)</script> & \"`x`'"


class Page(HTMLParser):
    """Elements by name, the texts of tables by their titles, and the figures."""

    def __init__(self, path):
        super().__init__()
        self.names, self.tables, self._title, self._row, self._text = [], {}, "", None, None
        self.text = path.read_text()
        self.feed(self.text)
        self.figures = json.loads(re.search(r'id="figures">(.*?)</script>', self.text, re.DOTALL)[1])

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        if tag == "tr":
            self._row = []
        if tag in ("h3", "th", "td"):
            self._text = ""

    def handle_data(self, data):
        if self._text is not None:
            self._text += data

    def handle_endtag(self, tag):
        if tag == "h3":
            self._title = self._text
        if tag in ("th", "td"):
            self._row.append(self._text)
        if tag in ("h3", "th", "td"):
            self._text = None
        if tag == "tr" and self._row:
            self.tables.setdefault(self._title, []).append(self._row)


@pytest.fixture(autouse=True)
def own_ledger(monkeypatch, tmp_path):
    monkeypatch.setattr(looks, "ledger_of", lambda cache: tmp_path / "own.looks.jsonl")


@pytest.fixture(scope="module")
def rival(small_run, small_cache, tmp_path_factory):
    """The run's own scores with noise."""
    panel = open_panel(small_cache)
    scores = predict_run(load_run(small_run), panel, "test")
    rng = np.random.default_rng(0)
    noisy = {h: (v + rng.standard_normal(len(v))).astype(np.float32) for h, v in scores.values.items()}
    path = tmp_path_factory.mktemp("rival") / "rival.parquet"
    write_scores(path, to_file(panel, dataclasses.replace(scores, values=noisy, run_id="rival")))
    return path


@pytest.fixture(scope="module")
def opened(small_run):
    return open_sources([small_run], "test", None, None)


@pytest.fixture(scope="module")
def subject(small_run, opened):
    return Subject([small_run], None, opened, opened.figures(), None, brief=False)


def as_shown(value, form):
    return "–" if value is None else format(value, form).replace("-", "−")


def test_its_table_is_that_of_evaluate_digit_for_digit(small_run, rival, tmp_path, run_command):
    code, out, _ = run_command("evaluate", small_run, "--against", rival, "--json")
    printed = json.loads(out)
    assert code == 0
    code, out, _ = run_command("report", small_run, "--against", rival, "--out", tmp_path / "r.html")
    assert (code, out.strip()) == (0, f"report: {tmp_path / 'r.html'}")
    found = Page(tmp_path / "r.html")
    expected = [
        [
            metric.label.strip(),
            *(as_shown(metrics[name], metric.form) for metrics in printed["splits"]["test"].values()),
        ]
        for name, metric in METRICS.items()
    ]
    assert found.tables["All figures"][1:] == expected
    compared = [
        [name.strip(), *(as_shown(values[key], form) for values in printed["against"].values())]
        for key, (name, form) in COMPARISON.items()
    ]
    assert found.tables[f"Less {rival}"][1:] == compared
    assert "number 2 at these days, at one model" in found.text


def test_no_part_is_silently_absent(small_run, rival, tmp_path):
    found = Page(engine.report(small_run, tmp_path / "r.html", rival))
    for title in (
        "RankIC by day, 1 day ahead", "Cumulative RankIC", "RankIC by month, 5 days ahead",
        "Return by tenth, 5 days ahead", "Top tenth less bottom tenth", "By days held", "By delay of entry",
        "Risk factors", "Size, liquidity, volatility",
        "Turnover", "Names scored", "RankIC of the parts", "Cumulative difference of RankIC", "Weights of features",
        "Permutation importance", "Calibration of quantiles", "Training loss", "Validation RankIC", "Speed and memory",
    ):  # fmt: skip
        assert title in found.text, title
    graphs = pytest.importorskip("plotly.graph_objects")
    for figure in found.figures:  # plotly's own validation of every property
        figure["layout"].pop("template", None)
        assert graphs.Figure(figure).data


def test_nothing_is_loaded(small_run, tmp_path):
    text = engine.report(small_run, tmp_path / "r.html").read_text()
    own = text.replace(page._plotly(), "")
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!#|data:,)", own)
    assert "http" not in own.replace("http://www.w3.org", "")
    assert len(text) < 6e6


def test_a_score_file_says_what_needs_a_run(rival, small_cache, tmp_path):
    found = Page(engine.report(rival, tmp_path / "s.html", cache=small_cache))
    text = html.unescape(found.text.replace(page._plotly(), ""))
    printed = evaluate([rival], "test", None, small_cache)["splits"]["test"]
    assert found.tables["All figures"][1][1:] == [as_shown(m["rank_ic"], ".4f") for m in printed.values()]
    for title in ("Parts apart", "Weights of features", "Learning curves", "Speed and memory"):
        assert re.search(rf"<strong>{title}\.</strong> Not here: a score file does not say which model made it", text)
    assert "no rival was named" in text


def test_names_are_text(small_cache, small_run, tmp_path):
    """Codes, features, paths and a run's name that would be markup are shown as they are."""
    folder = tmp_path / "<img src=x>"
    panel = open_panel(small_cache)
    codes, features = list(panel.manifest.codes), list(panel.manifest.features)
    codes[0], features[0] = " " + ODD, ODD
    changed = rewritten(panel, folder / "cache", {"codes": codes, "features": features, "targets": ["<b>", "<b>"]})
    run = folder / ODD.replace("/", "")
    train(load_config(None, [*SMALL[:-2], "train.epochs=1"], str(changed.folder)), run, False, Console(quiet=True))
    found = Page(engine.report(run, folder / "r.html"))
    assert found.names.count("script") == 3
    assert not {"img", "b"} & set(found.names)
    assert "alert(1)" in found.text.replace(page._plotly(), "")
    weights = [trace["y"] for figure in found.figures for trace in figure["data"] if trace.get("orientation") == "h"]
    assert any("&lt;script&gt;alert(1)&lt;/script&gt; &amp; \"`x`'" in names for names in weights)
    brief = Page(run / "report.html")  # that the training left
    assert brief.names.count("script") == 3


def test_the_training_leaves_a_brief_page(small_run):
    found = Page(small_run / "report.html")
    summary = json.loads((small_run / "summary.json").read_text())["splits"]["test"]
    assert found.tables["All figures"][1][1:] == [as_shown(m["rank_ic"], ".4f") for m in summary.values()]
    assert "Brief report, written at the end of training" in found.text
    assert "<strong>Permutation importance.</strong> Not here: it takes a forward pass per feature" in found.text


def test_folds_and_their_joined_days(small_cache, tmp_path):
    settings = [*SMALL[:-3], "train.epochs=1", "train.blocks=4", "split.folds=2", "split.valid_fraction=0.15",
                "split.test_fraction=0.15"]  # fmt: skip
    out = train_folds(load_config(None, settings, str(small_cache)), tmp_path / "folds", False, Console(quiet=True))
    summary = json.loads((out / "summary.json").read_text())
    found = Page(out / "report.html")
    rows = found.tables["Folds"][1:]
    expected = [[as_shown(x, ".4f") for x in fold["rank_ic"].values()] for fold in summary["folds"]]
    expected.append([as_shown(m["rank_ic"], ".4f") for m in summary["splits"]["test"].values()])
    assert [row[2:] for row in rows] == expected
    assert "number 2 at these days, at 2 different models" in found.text
    assert "each fold has a model of its own" in found.text
    whole = Page(engine.report(out, tmp_path / "r.html"))
    assert whole.tables["Folds"] == found.tables["Folds"]
    subject = Subject([out], None, None, {}, None, brief=True)  # type: ignore[arg-type]
    (out / "summary.json").unlink()
    assert [item.reason for item in folds.section(subject).items] == [f"{out} has no summary.json yet"]


def test_a_run_without_quantiles_says_so(small_cache, tmp_path):
    settings = [*SMALL[:-3], "train.epochs=1", "train.blocks=2", "model.quantiles=[]", "objective.quantile=0",
                "model.online_weight=0"]  # fmt: skip
    run = train(load_config(None, settings, str(small_cache)), tmp_path / "run", False, Console(quiet=True))
    found = Page(engine.report(run, tmp_path / "r.html"))
    assert "no quantiles: model.quantiles is empty" in found.text
    assert [row[0] for row in found.tables["Figures of the parts"][1:]] == [
        "network",
        "network, neutralised: the score",
    ]


def test_a_failing_report_does_not_fail_its_run(small_cache, tmp_path, monkeypatch):
    monkeypatch.setattr(reporting, "sections_of", lambda subject: 1 / 0)
    lines = []
    console = Console(quiet=True)
    monkeypatch.setattr(console, "print", lambda line="", *_: lines.append(str(line)))
    settings = [*SMALL[:-3], "train.epochs=1", "train.blocks=2"]
    run = train(load_config(None, settings, str(small_cache)), tmp_path / "run", False, console)
    assert (run / "summary.json").exists()
    assert "report: not written (ZeroDivisionError: division by zero)" in lines


def test_without_the_extra(small_run, small_cache, tmp_path, monkeypatch, run_command):
    monkeypatch.setattr(page, "find_spec", lambda name: None if name == "plotly" else object())
    monkeypatch.setattr(reporting, "_told", [])
    code, _, err = run_command("report", small_run)
    assert (code, "plotly is not installed" in err, "pip install 'atft-engine[report]'" in err) == (2, True, True)
    lines = []
    console = Console(quiet=True)
    monkeypatch.setattr(console, "print", lambda line="", *_: lines.append(str(line)))
    for _ in range(2):
        reporting.report_training(small_run, open_panel(small_cache), None, [], None, console)  # type: ignore[arg-type]
    assert lines == ["report: none is written, plotly is not installed (pip install 'atft-engine[report]')"]


def test_bad_input_is_named(tmp_path, run_command):
    code, _, err = run_command("report", tmp_path / "nothing")
    assert (code, str(tmp_path / "nothing") in err) == (2, True)
    with pytest.raises(InputError, match="nothing to report"):
        engine.report([])


def test_tenths_by_loop(opened):
    s = opened.samples(5)
    scores = np.round(s.scores * 4)  # many ties, also across borders
    days, found = daily_tenths(scores, s.targets, s.day)
    for day, tenths in zip(days, found, strict=True):
        score, target = scores[s.day == day], s.targets[s.day == day].astype(float)
        n = len(score)
        shared = np.array([target[score == value].mean() for value in np.sort(score)])
        borders = [i * n // 10 if i <= 5 else n - (10 - i) * n // 10 for i in range(11)]
        expected = [shared[a:b].mean() for a, b in pairwise(borders)]
        np.testing.assert_allclose(tenths, expected, atol=1e-12)
    days, found = daily_tenths(s.scores, s.targets, s.day)
    spread = opened.daily(5)[1].spread
    np.testing.assert_allclose(found[:, 9] - found[:, 0], spread, atol=1e-12)


def test_a_delay_of_one_is_the_metric_of_one_period_later(subject):
    (at_once, _), (later, _) = decay.delayed(subject, 5, (0, 1))
    assert at_once == pytest.approx(subject.metrics["5"]["rank_ic"], abs=1e-12)
    assert later == pytest.approx(subject.metrics["5"]["rank_ic_late"], abs=1e-12)


def test_the_parts_add_up_to_the_score(subject):
    table = parts.section(subject).items[1]
    assert [row[0].text for row in table.rows] == [
        "network", "network, neutralised", "online regression, neutralised", "both: the score",
    ]  # fmt: skip
    assert table.rows[-1][1] == as_shown(subject.metrics["1"]["rank_ic"], ".4f")


def test_figures_hold_the_days_and_values_of_the_metrics(subject):
    when, daily = subject.daily(1)
    by_day, *_ = rank_ic.section(subject).items
    dots = by_day.data[0]
    assert dots["x"] == [str(day) for day in when]
    np.testing.assert_allclose(dots["y"], daily.rank_ic, rtol=1e-5)
    assert np.mean(daily.rank_ic) == pytest.approx(subject.metrics["1"]["rank_ic"], abs=1e-15)
    curve = next(item for item in deciles.section(subject).items if item.title == "Top tenth less bottom tenth")
    assert curve.data[0]["y"][-1] == pytest.approx(daily.spread.sum(), rel=1e-5)
    assert curve.data[1]["y"][-1] == pytest.approx(daily.net.sum(), rel=1e-5)


def test_features_that_are_not_finite_are_named(small_run, small_cache, tmp_path, run_command):
    panel = open_panel(small_cache)
    features = np.where(np.arange(len(panel.features))[:, None] % 37, panel.features, np.nan)
    cache = rewritten(panel, tmp_path / "cache", features=features)
    scores = tmp_path / "scores.parquet"
    assert run_command("baseline", "--arrow", small_cache, "--kind", "reversal", "--out", scores)[0] == 0
    command = ["report", scores, "--arrow", cache.folder, "--out", tmp_path / "page.html"]
    code, _, error = run_command(*command)
    assert (code, error.count("\n")) == (2, 1), error
