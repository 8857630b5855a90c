"""Runs and their figures in Python are those of the command line, to the digit."""

import json
import math

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from scipy import stats

from engine import InputError, Run, evaluate, ic, open_panel
from engine.api.frames import naming_arguments
from engine.config_file import load_config
from engine.training.folds import train_folds
from tests.conftest import SMALL


@pytest.fixture(scope="module")
def run(small_run):
    return Run.load(small_run)


@pytest.fixture(scope="module")
def folds(once, small_cache):
    settings = [*SMALL, "train.epochs=1", "train.blocks=2", "split.folds=2", "split.test_fraction=0.15"]

    def make(folder):
        train_folds(load_config(None, settings, str(small_cache)), folder, False, Console(quiet=True))

    return Run.load(once("api-folds", make))


def printed(run_command, *arguments):
    code, out, err = run_command("evaluate", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def as_json(table):
    """A table of the API as `--json` has it."""
    return {str(row.pop("horizon")): row for row in table.iter_rows(named=True)}


def test_metrics_and_summary_of_a_run(run, small_run):
    lines = [json.loads(line) for line in (small_run / "metrics.jsonl").read_text().splitlines()]
    assert run.metrics.height == len(lines) == 3
    for row, line in zip(run.metrics.iter_rows(named=True), lines, strict=True):
        assert row["epoch"] == line["epoch"]
        assert row["best"] is line["best"]
        assert row["train_loss"] == line["train"]["loss"]
        assert row["train_rank_ic"] == line["train"]["rank_ic"]
        assert row["weight_ic"] == line["weights"]["ic"]
        assert row["valid_rank_ic"] == line["valid_rank_ic"]
        assert row["valid_icir_5"] == line["valid"]["5"]["icir"]
        assert row["horizon_weights"] == line["horizon_weights"]
    assert run.metrics.to_pandas().shape == (3, run.metrics.width)
    assert run.summary == json.loads((small_run / "summary.json").read_text())
    assert run.folds == []


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ({}, ()),
        ({"split": "valid"}, ("--split", "valid")),
        ({"start": "2010-07-20", "end": "2010-07-30"}, ("--start", "2010-07-20", "--end", "2010-07-30")),
        (
            {"start": "2010-02-10", "in_sample": True, "member": 0},
            ("--start", "2010-02-10", "--in-sample", "--member", 0),
        ),
    ],
)
def test_predictions_are_those_of_the_file(run, small_run, small_cache, run_command, tmp_path, arguments, options):
    code, _, err = run_command("predict", small_run, "--arrow", small_cache, "--out", tmp_path / "s.parquet", *options)
    assert code == 0, err
    scores = run.predict(**arguments)
    assert scores.equals(pl.read_parquet(tmp_path / "s.parquet"))
    assert scores.dtypes == [pl.Date, pl.String, pl.Float32, pl.Float32]
    assert scores.equals(run.predict(open_panel(small_cache), **arguments))


def test_folds(folds, run_command):
    scores = folds.predict()
    assert scores.equals(pl.read_parquet(folds.folder / "scores.parquet"))
    some = folds.predict(end="2010-07-20")
    assert some.equals(scores.filter(pl.col("date") <= pl.date(2010, 7, 20)))
    assert [r.folder.name for r in folds.folds] == ["fold-0", "fold-1"]
    assert folds.metrics["fold"].to_list() == [0, 1]
    assert len(folds.summary["folds"]) == 2
    expected = printed(run_command, folds.folder)
    assert as_json(evaluate(folds).metrics) == expected["splits"]["test"]
    with pytest.raises(InputError, match=r"Leave cache= and member= out, or ask one of Run\.folds"):
        folds.predict(member=0)
    with pytest.raises(InputError, match="holds the test scores of its folds, and none of valid"):
        folds.predict(split="valid")


def same(found, expected):
    ((split, metrics),) = expected["splits"].items()
    assert found.split == split
    assert as_json(found.metrics) == metrics
    assert (found.days, found.notes) == (expected["days"], expected["notes"])
    assert (found.in_sample, found.periods_per_year) == (expected["in_sample"], expected["periods_per_year"])
    if "against" in expected:
        assert as_json(found.against) == expected["against"]
    else:
        assert found.against is None


def test_evaluations_are_those_of_the_command_line(run, small_run, small_cache, run_command, tmp_path):
    path = tmp_path / "scores.parquet"
    code, _, err = run_command(
        "baseline", "--arrow", small_cache, "--kind", "ridge", "--out", path, "--json", "--set", "data.context=8"
    )
    assert code == 0, err
    same(evaluate(run), printed(run_command, small_run))
    same(evaluate(str(small_run), split="valid"), printed(run_command, small_run, "--split", "valid"))
    same(
        evaluate(run, path, cost_bps=3, periods_per_year=100, cache=open_panel(small_cache)),
        printed(run_command, small_run, path, "--cost-bps", 3, "--periods-per-year", 100, "--arrow", small_cache),
    )
    same(evaluate(run, against=path), printed(run_command, small_run, "--against", path))
    span = {"start": "2010-05-03", "end": "2010-06-30", "in_sample": True}
    same(
        evaluate(run, **span),
        printed(run_command, small_run, "--start", span["start"], "--end", span["end"], "--in-sample"),
    )


FRAMES = {
    "polars": lambda f: f,
    "polars, lazy": lambda f: f.lazy(),
    "pandas": lambda f: f.to_pandas(),
    "pandas, index": lambda f: f.to_pandas().set_index(["date", "code"]),
    "pyarrow": lambda f: f.to_arrow(),
    "duckdb": lambda f: duckdb.from_arrow(f.to_arrow()),
    "reordered": lambda f: f.sample(fraction=1, shuffle=True, seed=0).with_columns(pl.col("code").cast(pl.Categorical)),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_a_frame_of_scores_is_evaluated_like_its_run(kind, run, small_cache):
    scores, own = run.predict(), evaluate(run)
    make = FRAMES[kind]  # anew for each call: DuckDB 1.1 gives the rows of a query once
    assert evaluate(make(scores), cache=small_cache).metrics.equals(own.metrics)
    assert ic(make(scores), cache=small_cache).equals(ic(run))
    compared = evaluate(run, against=make(scores))
    assert compared.against["difference"].to_list() == [0.0, 0.0]
    assert evaluate(make(scores), cache=small_cache, split="valid").split == "valid"  # its name, since it does not say


def test_daily_ic_by_scipy_and_its_means(run, small_run, small_cache):
    daily = ic(run)
    assert daily.schema == {
        "date": pl.Date, "horizon": pl.Int64, "ic": pl.Float64, "rank_ic": pl.Float64, "rank_ic_later": pl.Float64,
        "samples": pl.Int64,
    }  # fmt: skip
    metrics = as_json(evaluate(run).metrics)
    for (horizon,), of in daily.group_by("horizon"):
        expected = metrics[str(horizon)]
        assert of["ic"].mean() == pytest.approx(expected["ic"], abs=1e-12)
        assert of["rank_ic"].mean() == pytest.approx(expected["rank_ic"], abs=1e-12)
        assert of["rank_ic_later"].mean() == pytest.approx(expected["rank_ic_late"], abs=1e-12)
        assert (of.height, of["samples"].sum()) == (expected["days"], expected["samples"])
    rows = open_panel(small_cache).to_polars()
    later = rows.select("code", "target_1", date=pl.col("date")).sort("code", "date")
    calendar = {day: i for i, day in enumerate(open_panel(small_cache).manifest.calendar)}
    place = {(c, calendar[str(d)]): t for c, t, d in later.iter_rows()}
    both = run.predict().join(rows, on=["date", "code"]).filter("scored")
    for date, _, pearson, spearman, entered_later, samples in daily.filter(horizon=1).head(5).iter_rows():
        day = both.filter(pl.col("date") == date, pl.col("target_1").is_not_null())
        assert samples == day.height
        exact = [day[name].cast(pl.Float64) for name in ("score_1", "target_1")]
        assert pearson == pytest.approx(stats.pearsonr(*exact).statistic, abs=1e-9)
        assert spearman == pytest.approx(stats.spearmanr(day["score_1"], day["target_1"]).statistic, abs=1e-9)
        next_day = [place.get((code, calendar[str(date)] + 1)) for code in day["code"]]
        known = [i for i, target in enumerate(next_day) if target is not None]
        expected = stats.spearmanr(day["score_1"].to_numpy()[known], [next_day[i] for i in known]).statistic
        assert entered_later == pytest.approx(expected, abs=1e-9)


def test_scores_that_say_nothing_are_null(run, small_cache):
    constant = run.predict().with_columns(score_1=pl.lit(1.0), score_5=pl.lit(1.0))
    metrics = evaluate(constant, cache=small_cache).metrics
    assert metrics["rank_ic"].to_list() == [None, None]
    assert not any(isinstance(v, float) and math.isnan(v) for row in metrics.iter_rows() for v in row)
    assert ic(constant, cache=small_cache).height == 0


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda r, c: evaluate(), "there are none"),
        (lambda r, c: evaluate(3), "int is no run and holds no scores"),
        (lambda r, c: evaluate(r.predict().drop("score_1", "score_5"), cache=c), "the scores: columns are date, code"),
        (lambda r, c: evaluate(r.predict().with_columns(score_1=None), cache=c), "the scores: score_1 is missing"),
        (
            lambda r, c: evaluate(r, r.predict().vstack(r.predict())),
            "the scores, source 2: holds 2010-0.* twice",
        ),
        (
            lambda r, c: evaluate(r, against=r.predict()[:5].with_columns(pl.col("code") + "X")),
            "against=: 5 rows are not in",
        ),
        (lambda r, c: r.predict(start="2010-02-10"), "in sample.*in_sample="),
        (lambda r, c: r.predict(split="all"), "split=: no part named 'all'"),
        (lambda r, c: r.predict(member=7), "member=: the run has 1 models"),
        (lambda r, c: r.predict(c / "none"), "no cache here"),
        (lambda r, c: ic(r, start="2011-01-01"), "no day of the span"),
        (lambda r, c: Run.load(c), "no run: it has no config.toml"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_by_name(run, small_cache, call, expected):
    with pytest.raises(InputError, match=expected):
        call(run, small_cache)


def test_an_unfinished_run_says_so(run, small_run, tmp_path):
    (tmp_path / "config.toml").write_text((small_run / "config.toml").read_text())
    unfinished = Run.load(tmp_path)
    for name in ("summary", "metrics"):
        with pytest.raises(InputError, match=r"has no (summary\.json|metrics\.jsonl) yet"):
            getattr(unfinished, name)


def test_the_file_of_a_run_keeps_what_it_knows(run, small_run, small_cache, run_command, tmp_path):
    """A file says its days and its cache, which a frame does not."""
    path = tmp_path / "scores.parquet"
    run_command("predict", small_run, "--out", path, "--split", "valid")
    assert pq.read_schema(path).metadata[b"split"] == b"valid"
    assert evaluate(path, cache=small_cache).split == "valid"
    own = evaluate(run, split="valid")
    assert evaluate(path, cache=small_cache).metrics.equals(own.metrics)


def test_messages_name_arguments_and_leave_commands_and_paths():
    with pytest.raises(InputError) as refusal, naming_arguments():
        raise InputError("/data/a--start.parquet", "--min-codes is off (--arrow)", "Run `atft-engine train --resume`")
    expected = "/data/a--start.parquet: min_codes= is off (cache=). Run `atft-engine train --resume`"
    assert str(refusal.value) == expected
