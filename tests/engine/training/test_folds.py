"""Folds: their joined scores are those of each, in order of time, and a killed training ends as an unbroken one."""

import itertools
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from scipy import stats

import engine.training.epoch
from engine.checkpoint import BEST, LAST, load_checkpoint
from engine.config_file import load_config, to_toml
from engine.errors import Stopped
from engine.evaluation.evaluate import evaluate
from engine.inputs import make_split
from engine.score.files import read_scores
from engine.score.predict import load_run, predict_run
from engine.score.rows import to_file
from engine.training.folds import fold_settings, train_folds
from engine.training.run import resumed_config
from loaders.errors import InputError
from loaders.panel import open_panel
from tests.engine.training.test_loop import killed
from tests.panels import write_panel

N = 3
SETTINGS = [
    "data.context=8", "data.block_days=8", "data.block_codes=24", "model.spans=[3]", "train.epochs=1", "train.refit=0",
    "split.valid_fraction=0.15", "split.test_fraction=0.15",
]  # fmt: skip
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def cache(small_cache):
    return small_cache


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory):
    """An unbroken training to compare with."""
    return train_folds(config(cache), tmp_path_factory.mktemp("folds") / "whole", False, QUIET)


def config(cache, folds=N, rolling=False):
    return load_config(None, [*SETTINGS, *fold_settings(folds, rolling)], str(cache))


def command(cache, out, *more):
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    return ["train", "--arrow", str(cache), "--out", str(out), *settings, *map(str, more)]


def summary(out: Path) -> dict:
    return json.loads((out / "summary.json").read_text())


def folders(out: Path) -> list[Path]:
    return [out / f"fold-{i}" for i in range(N)]


def split_of(fold: Path, cache: Path):
    return make_split(load_config(fold / "config.toml", []), open_panel(cache))


def same(a: Path, b: Path) -> bool:
    """Whether two trainings ended with the same figures and the same scores to the bit."""
    left, right = read_scores(a / "scores.parquet"), read_scores(b / "scores.parquet")
    lines, others = ([(fold / "metrics.jsonl").read_text() for fold in folders(out)] for out in (a, b))
    assert (lines, summary(a)["splits"]) == (others, summary(b)["splits"])
    assert np.array_equal(left.date, right.date)
    assert np.array_equal(left.code, right.code)
    return all(np.array_equal(left.values[h], right.values[h]) for h in (1, 5))


def test_joined_scores_are_the_union_of_the_folds(cache, whole):
    expected, panel = {}, open_panel(cache)
    for fold in folders(whole):
        scores = to_file(panel, predict_run(load_run(fold), panel, "test"))
        for row in zip(scores.date.tolist(), scores.code.tolist(), scores.values[1], scores.values[5], strict=True):
            assert row[:2] not in expected
            expected[row[:2]] = row[2:]
    table = pq.read_table(whole / "scores.parquet")
    rows = list(zip(*(table[name].to_pylist() for name in ("date", "code", "score_1", "score_5")), strict=True))
    assert [row[:2] for row in rows] == sorted(expected)
    assert {row[:2]: row[2:] for row in rows} == expected
    metadata = read_scores(whole / "scores.parquet").metadata
    runs = [summary(fold)["run_id"] for fold in folders(whole)]
    assert metadata == {"cache_id": open_panel(cache).manifest.cache_id, "split": "test", "run_id": " ".join(runs)}


def test_figures_are_those_of_every_test_day(cache, whole):
    """RankIC of the join by scipy, from the file of scores and the panel's rows."""
    panel, scores = open_panel(cache), read_scores(whole / "scores.parquet")
    codes = {code: i for i, code in enumerate(panel.manifest.codes)}
    days = {}
    for date, code, value in zip(scores.date, scores.code.tolist(), scores.values[5], strict=True):
        s, t = codes[code], int(np.flatnonzero(panel.calendar == date)[0])
        row = panel.offset[s] + t - panel.first[s]
        if panel.presence[row] == 2 and np.isfinite(panel.targets[row, 1]):
            days.setdefault(t, []).append((value, panel.targets[row, 1]))
    daily = [stats.spearmanr(*zip(*pairs, strict=True)).statistic for pairs in days.values() if len(pairs) >= 20]
    figures = summary(whole)["splits"]["test"]["5"]
    assert figures["rank_ic"] == pytest.approx(np.mean(daily), abs=1e-12)
    assert (figures["days"], figures["samples"]) == (len(daily), sum(n for p in days.values() if (n := len(p)) >= 20))
    assert figures["rank_ic"] > 0.2  # the planted signal


def test_folds_follow_one_another_and_nothing_crosses(cache, whole):
    panel = open_panel(cache)
    dates = [str(day) for day in panel.calendar]
    lines = summary(whole)["folds"]
    for line, fold in zip(lines, folders(whole), strict=True):
        own, split = summary(fold), split_of(fold, cache)
        assert line["run_id"] == own["run_id"]
        assert line["rank_ic"] == {h: own["splits"]["test"][h]["rank_ic"] for h in ("1", "5")}
        assert (line["test_start"], line["test_end"]) == (dates[split.test.start], dates[split.test.stop - 1])
        assert split.train.start == 0
        assert split.train.stop + 7 == split.valid.start  # context 8, horizons 1 and 5
        assert split.valid.stop + 7 == split.test.start
    for a, b in itertools.pairwise(lines):
        assert dates.index(a["test_end"]) + 1 == dates.index(b["test_start"])
    assert lines[-1]["test_end"] == dates[-1]


def test_rolling_folds_train_on_equally_many_days(run_command, cache, whole, tmp_path):
    out = tmp_path / "rolling"
    code, stdout, err = run_command(*command(cache, out, "--folds", N, "--rolling"))
    assert code == 0, err
    assert "test RankIC" in stdout
    assert f"{summary(out)['splits']['test']['1']['rank_ic']:.4f}" in stdout
    splits = [split_of(fold, cache) for fold in folders(out)]
    assert [len(split.train) for split in splits] == [len(splits[0].train)] * N
    assert [(s.valid, s.test) for s in splits] == [
        (s.valid, s.test) for s in (split_of(f, cache) for f in folders(whole))
    ]
    ours, others = (
        [predict_run(load_run(fold), open_panel(cache), "test").values[1] for fold in folders(o)] for o in (out, whole)
    )
    assert [np.array_equal(a, b) for a, b in zip(ours, others, strict=True)] == [True, False, False]


def test_evaluate_takes_the_folder(run_command, cache, whole, tmp_path):
    code, stdout, err = run_command("evaluate", whole, "--json")
    assert code == 0, err
    assert json.loads(stdout)["splits"] == summary(whole)["splits"]
    code, stdout, err = run_command("evaluate", whole / "fold-1", "--against", whole, "--json")
    assert code == 0, err
    figures = json.loads(stdout)["against"]["1"]
    assert figures["difference"] == 0.0
    assert figures["days"] == summary(whole / "fold-1")["splits"]["test"]["1"]["days"]
    code, _, err = run_command("evaluate", whole, "--split", "valid")
    assert code == 2
    assert "--split" in err
    part = tmp_path / "part"
    shutil.copytree(whole, part)
    (part / "scores.parquet").unlink()
    with pytest.raises(InputError, match="not all of its folds are trained"):
        evaluate([part], "test", None, None)


def test_killed_inside_a_fold_and_resumed(run_command, cache, whole, tmp_path):
    out, settings = tmp_path / "out", tmp_path / "config.toml"
    last = out / "fold-1" / "checkpoints" / LAST
    of_first = load_checkpoint(whole / "fold-0" / "checkpoints" / LAST)[0].step
    settings.write_text(to_toml(config(cache)))
    assert killed(signal.SIGKILL, of_first + 6, settings, out, "--folds", N).returncode == -signal.SIGKILL
    state = load_checkpoint(last)[0]
    assert state.step == 5
    first = {path: path.stat().st_mtime_ns for path in (out / "fold-0").rglob("*")}

    code, _, err = run_command("train", "--resume", "--out", out)
    assert code == 0, err
    assert same(out, whole)
    assert load_checkpoint(last)[0].run_id == state.run_id
    assert {path: path.stat().st_mtime_ns for path in (out / "fold-0").rglob("*")} == first


def test_a_fold_that_had_hardly_begun_begins_anew(cache, whole, tmp_path):
    """As a kill leaves it before its first checkpoint is followed by its configuration."""
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    for path in (out / "fold-2").iterdir():
        if path.name != "checkpoints":
            path.unlink()
    (out / "fold-2" / "checkpoints" / BEST).unlink()
    train_folds(resumed_config(out, fold_settings(N, False), None), out, True, QUIET)
    assert same(out, whole)
    assert summary(out)["folds"][:2] == summary(whole)["folds"][:2]
    assert summary(out)["folds"][2]["run_id"] != summary(whole)["folds"][2]["run_id"]


def test_stopped_by_a_signal(cache, whole, tmp_path, monkeypatch):
    """The message names the folder of all folds, and no join of earlier folds is left to be taken for this one."""
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "fold-2")
    real = engine.training.epoch.train_step

    def train_step(*arguments, **more):
        os.kill(os.getpid(), signal.SIGTERM)
        monkeypatch.setattr(engine.training.epoch, "train_step", real)
        return real(*arguments, **more)

    monkeypatch.setattr(engine.training.epoch, "train_step", train_step)
    with pytest.raises(Stopped, match=rf"fold 3 of 3. Resume with --resume --out {out}$"):
        train_folds(resumed_config(out, [], None), out, True, QUIET)
    assert not (out / "scores.parquet").exists()
    assert not (out / "summary.json").exists()
    train_folds(resumed_config(out, [], None), out, True, QUIET)
    assert same(out, whole)


def test_bad_input(run_command, cache, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def refused(*more, words, at=out):
        code, _, err = run_command(*command(cache, at, *more))
        assert code == 2, err
        assert len(err.strip().splitlines()) == 1
        for word in ("error: ", *words):
            assert word in err, err

    for number in (0, -1):
        refused("--folds", number, words=["--folds", "1 or more"])
    refused("--rolling", words=["--rolling", "--folds"])
    dates = ("--set", "split.valid_start=2010-05-01", "--set", "split.test_start=2010-07-01")
    refused("--folds", 2, *dates, words=["split.folds", "dates"])
    refused("--folds", 6, words=["train part is empty", "fewer folds"])
    refused("--folds", 2, "--set", "split.test_fraction=0.001", words=["test part is empty"])
    refused("--folds", 2, "--set", "split.valid_fraction=0.03", words=["valid part is empty"])
    refused("--folds", 2, "--set", "split.fold=1", words=["split.fold"])
    refused("--folds", 2, "--resume", words=["no run to resume"])
    refused("--folds", N, at=whole, words=["not empty", "--resume"])
    refused("--folds", N, at=cache, words=["not empty"])
    with monkeypatch.context() as torchrun:
        torchrun.setenv("WORLD_SIZE", "2")
        refused("--folds", 2, words=["--folds", "torchrun"])
    assert not list(tmp_path.iterdir())

    code, _, err = run_command("train", "--out", whole, "--resume", "--folds", N + 1)
    assert (code, "configuration differs" in err) == (2, True)
    code, _, err = run_command("train", "--out", whole, "--resume", "--folds", N, "--rolling")
    assert (code, "configuration differs" in err) == (2, True)
    code, _, err = run_command("train", "--out", whole / "fold-0", "--resume", "--folds", N)
    assert (code, "no folds to resume" in err) == (2, True)
    write_panel(tmp_path / "other", n_codes=60, n_days=160, seed=9)
    code, _, err = run_command("train", "--out", whole, "--resume", "--arrow", tmp_path / "other")
    assert (code, "on cache" in err) == (2, True)
