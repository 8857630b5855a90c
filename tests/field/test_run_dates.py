"""A run is scored on its own days, whatever the cache: what a calendar, a path or a span may change is told or refused.

Expected days come from NumPy's weekdays, and expected figures from scipy on the dates of a score file.
"""

import json
import os
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from safetensors.torch import save_file
from scipy import stats

from engine.checkpoint import BEST, LAST, load_checkpoint
from engine.config_file import load_config
from engine.training.loop import train
from loaders.panel import open_panel
from tests.conftest import SMALL
from tests.panels import write_panel

WEEKDAYS = np.busday_offset("2010-01-04", np.arange(400), "forward")
TRAIN, VALID, TEST = WEEKDAYS[:97], WEEKDAYS[104:121], WEEKDAYS[128:160]  # of 160 days: 0.15 and 0.2 of them, gap 7
LATER_VALID, LATER_TEST = WEEKDAYS[128:137], WEEKDAYS[144:160]  # of the fractions 0.1 and 0.1
LATER = [*SMALL, "split.valid_fraction=0.1", "split.test_fraction=0.1", "train.epochs=1", "train.blocks=4"]


@pytest.fixture
def figures(run_command):
    """The JSON of `evaluate`."""

    def run(*arguments):
        code, out, err = run_command("evaluate", *arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return run


@pytest.fixture
def refused(run_command):
    """Asserts that a command ends with one line of these words and exit code 2."""

    def run(*arguments, words):
        code, _, err = run_command(*arguments)
        assert code == 2, err
        assert len(err.strip().splitlines()) == 1
        assert [word for word in words if word not in err] == [], err

    return run


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """Caches that hold the days of the small one and more: of earlier and later history, and with other holidays."""
    root = tmp_path_factory.mktemp("longer")
    write_panel(root / "later", n_codes=60, n_days=200, seed=1)
    write_panel(root / "earlier", n_codes=60, n_days=220, seed=2, start="2009-11-02")
    write_panel(root / "holidays", n_codes=60, n_days=200, seed=3, holidays=[str(TEST[0]), str(TEST[9]), str(TEST[-1])])
    return root


@pytest.fixture(scope="module")
def later_run(small_cache, tmp_path_factory):
    """A run whose validation lies inside the test of `small_run`; its cache was named by a relative path."""
    root = tmp_path_factory.mktemp("work")
    (root / "cache").symlink_to(small_cache)
    before = os.getcwd()
    os.chdir(root)
    try:
        return root / train(load_config(None, LATER, "cache/"), None, False, Console(quiet=True))
    finally:
        os.chdir(before)


def span(days):
    return {"first": str(days[0]), "last": str(days[-1]), "days": len(days)}


def by_scipy(scores, cache, h):
    """Mean RankIC over the days of a score file with 20 samples or more."""
    panel, table = open_panel(cache), pq.read_table(scores)
    codes = {code: i for i, code in enumerate(panel.manifest.codes)}
    days = {}
    for date, code, value in zip(*(table[name].to_pylist() for name in ("date", "code", f"score_{h}")), strict=True):
        s, t = codes[code], int(np.flatnonzero(panel.calendar == np.datetime64(date))[0])
        row = panel.offset[s] + t - panel.first[s]
        target = panel.targets[row, panel.manifest.horizons.index(h)]
        if panel.presence[row] == 2 and np.isfinite(target):
            days.setdefault(date, []).append((value, target))
    daily = [stats.spearmanr(*zip(*pairs, strict=True)).statistic for pairs in days.values() if len(pairs) >= 20]
    return np.mean(daily)


def dates_in(scores):
    return np.unique(pq.read_table(scores)["date"].to_numpy()).astype("datetime64[D]").tolist()


def test_checkpoints_and_summary_hold_the_days_and_the_source(small_cache, small_run):
    for name in (BEST, LAST):
        state, _ = load_checkpoint(small_run / "checkpoints" / name)
        assert state.split == {
            name: [str(part[0]), str(part[-1])] for name, part in (("train", TRAIN), ("valid", VALID), ("test", TEST))
        }
        assert state.source == str(small_cache)
    summary = json.loads((small_run / "summary.json").read_text())
    assert summary["days"] == {"train": span(TRAIN), "valid": span(VALID), "test": span(TEST)}
    assert summary["source"] == str(small_cache)
    assert load_config(small_run / "config.toml", []).data.arrow == str(small_cache)


@pytest.mark.parametrize("cache", ["later", "earlier", "holidays"])
@pytest.mark.parametrize("part", ["test", "valid"])
def test_a_part_has_the_same_days_in_any_cache(figures, run_command, small_run, longer, tmp_path, cache, part):
    days = {"test": TEST, "valid": VALID}[part]
    if cache == "holidays":
        days = np.setdiff1d(days, TEST[[0, 9, -1]])
    found = figures(small_run, "--arrow", longer / cache, "--split", part)
    assert found["days"] == {part: span(days)}
    assert not found["in_sample"]
    (note,) = found["notes"]
    ids = (open_panel(load_config(small_run / "config.toml", []).data.arrow), open_panel(longer / cache))
    assert [panel.manifest.cache_id in note for panel in ids] == [True, True]
    scores = tmp_path / "s.parquet"
    code, out, err = run_command("predict", small_run, "--arrow", longer / cache, "--split", part, "--out", scores)
    assert code == 0, err
    assert note in out
    assert dates_in(scores) == days.tolist()
    for h in (1, 5):
        assert found["splits"][part][str(h)]["rank_ic"] == pytest.approx(by_scipy(scores, longer / cache, h), abs=1e-9)


def test_a_cache_without_all_of_the_days_is_told_and_one_without_any_refused(figures, refused, small_run, tmp_path):
    write_panel(tmp_path / "shorter", n_codes=60, n_days=140)
    found = figures(small_run, "--arrow", tmp_path / "shorter")
    assert found["days"] == {"test": span(WEEKDAYS[128:140])}
    assert f"the test is {TEST[0]}..{TEST[-1]}" in found["notes"][-1]
    assert f"covers {WEEKDAYS[0]}..{WEEKDAYS[139]}" in found["notes"][-1]
    write_panel(tmp_path / "before", n_codes=60, n_days=128)
    write_panel(tmp_path / "after", n_codes=60, n_days=60, start=str(WEEKDAYS[160]))
    for name in ("before", "after"):
        for command in (["evaluate", small_run], ["predict", small_run, "--out", tmp_path / "s.parquet"]):
            words = [str(small_run), str(TEST[0]), str(TEST[-1]), str(tmp_path / name)]
            refused(*command, "--arrow", tmp_path / name, words=words)
    assert not (tmp_path / "s.parquet").exists()


def test_a_relative_path_never_finds_another_cache(figures, refused, later_run, longer, tmp_path, monkeypatch):
    (tmp_path / "cache").symlink_to(longer / "later")
    monkeypatch.chdir(tmp_path)
    summary = json.loads((later_run / "summary.json").read_text())
    found = figures(later_run)
    assert (found["splits"]["test"], found["notes"]) == (summary["splits"]["test"], [])
    assert found["days"] == {"test": span(LATER_TEST)}
    assert load_checkpoint(later_run / "checkpoints" / LAST)[0].source == str(later_run.parents[1] / "cache")


def test_the_same_path_with_more_history(figures, refused, later_run, longer):
    link = later_run.parents[1] / "cache"
    own = link.readlink()
    link.unlink()
    link.symlink_to(longer / "later")
    try:
        found = figures(later_run)
        assert found["days"] == {"test": span(LATER_TEST)}  # which ended on the last day of the cache
        assert [note.split(":")[0] for note in found["notes"]] == ["cache"]
        refused("train", "--resume", "--out", later_run, words=["began on cache"])
    finally:
        link.unlink()
        link.symlink_to(own)


def test_a_span_begins_after_the_last_validation_day(figures, refused, run_command, small_run, tmp_path):
    border, after = str(VALID[-1]), str(WEEKDAYS[121])
    for first in (border, str(np.datetime64(border) - 1), "2010-01-01"):
        refused("evaluate", small_run, "--start", first, words=[str(small_run), border])
        refused("predict", small_run, "--start", first, "--out", tmp_path / "no.parquet", words=[border])
    assert not (tmp_path / "no.parquet").exists()
    found = figures(small_run, "--start", after)
    assert found["days"] == {"span": span(WEEKDAYS[121:160])}
    assert (found["in_sample"], found["notes"]) == (False, [])
    found = figures(small_run, "--end", TEST[9])  # from the first test day
    assert found["days"] == {"span": span(TEST[:10])}
    found = figures(small_run, "--start", TEST[3], "--end", TEST[9])
    assert found["days"] == {"span": span(TEST[3:10])}
    scores, part = tmp_path / "span.parquet", tmp_path / "test.parquet"
    assert run_command("predict", small_run, "--start", after, "--out", scores)[0] == 0
    assert run_command("predict", small_run, "--out", part)[0] == 0
    in_span, in_test = pq.read_table(scores), pq.read_table(part)
    same = in_span.filter(pa.compute.greater_equal(in_span["date"], TEST[0].item()))
    for name in ("date", "code"):
        assert same[name].to_pylist() == in_test[name].to_pylist()
    np.testing.assert_allclose(same["score_5"].to_numpy(), in_test["score_5"].to_numpy(), atol=1e-5)


def test_days_in_sample_are_told_with_every_figure(figures, refused, run_command, small_run, small_cache, tmp_path):
    line = f"reach back to {VALID[-1]}, trained until {VALID[-1]}"
    found = figures(small_run, "--start", VALID[-1], "--in-sample")
    assert found["days"] == {"span": span(WEEKDAYS[120:160])}
    assert found["in_sample"]
    assert any(note.startswith("in sample") and line in note for note in found["notes"])
    scores = tmp_path / "s.parquet"
    for command in (["evaluate"], ["predict", "--out", scores]):
        code, out, err = run_command(*command, small_run, "--start", VALID[-1], "--in-sample")
        assert code == 0, err
        assert line in out
        assert f"{VALID[-1]}..{TEST[-1]} (40 days)" in out
    metadata = pq.read_schema(scores).metadata
    assert (metadata[b"trained_until"], metadata[b"in_sample"]) == (str(VALID[-1]).encode(), line.encode())
    refused("evaluate", scores, "--arrow", small_cache, words=[str(scores), str(VALID[-1])])
    assert figures(scores, "--arrow", small_cache, "--in-sample")["in_sample"]
    found = figures(scores, "--arrow", small_cache, "--start", WEEKDAYS[121])
    assert (found["days"], found["in_sample"]) == ({"span": span(WEEKDAYS[121:160])}, False)


def test_a_part_that_is_named_is_allowed_and_says_its_days(figures, run_command, small_run):
    for part, days in (("train", TRAIN), ("valid", VALID)):
        code, out, err = run_command("evaluate", small_run, "--split", part)
        assert code == 0, err
        assert out.startswith(f"{small_run} · {part} {days[0]}..{days[-1]} ({len(days)} days)\n")
        assert not figures(small_run, "--split", part)["in_sample"]


def test_an_average_is_out_of_sample_for_all(figures, refused, small_run, later_run):
    found = figures(small_run, later_run, "--arrow", load_config(small_run / "config.toml", []).data.arrow)
    assert found["days"] == {"test": span(LATER_TEST)}
    assert any(str(small_run) in note and f"{TEST[0]}..{TEST[-1]} (32 days)" in note for note in found["notes"])
    assert not found["in_sample"]
    both = [small_run, later_run, "--arrow", load_config(small_run / "config.toml", []).data.arrow]
    refused("evaluate", *both, "--start", TEST[0], words=[str(later_run), str(LATER_VALID[-1])])
    refused("evaluate", *both, "--start", LATER_VALID[-1], words=[str(later_run), str(LATER_VALID[-1])])
    refused("evaluate", small_run, "--against", *both[1:], "--start", TEST[0], words=[str(later_run)])
    found = figures(*both, "--start", WEEKDAYS[137])
    assert (found["days"], found["in_sample"]) == ({"span": span(WEEKDAYS[137:160])}, False)
    found = figures(*both, "--start", TEST[0], "--in-sample")
    told = [note for note in found["notes"] if note.startswith("in sample")]
    assert len(told) == 1
    assert str(later_run) in told[0]
    assert f"reach back to {TEST[0]}, trained until {LATER_VALID[-1]}" in told[0]


def test_score_files_keep_their_days(figures, refused, run_command, small_run, small_cache, tmp_path):
    ours, ridge, foreign = (tmp_path / f"{name}.parquet" for name in ("ours", "ridge", "foreign"))
    assert run_command("predict", small_run, "--out", ours)[0] == 0
    code, out, err = run_command(
        "baseline", "--arrow", small_cache, "--json", "--out", ridge, *(f"--set={s}" for s in SMALL)
    )
    assert code == 0, err
    assert json.loads(out)["days"] == {"valid": span(VALID), "test": span(TEST)}
    for path in (ours, ridge):
        assert pq.read_schema(path).metadata[b"trained_until"] == str(VALID[-1]).encode()
    found = figures(ours, "--against", ridge, "--arrow", small_cache)
    assert found["days"] == {"test": span(TEST), "against": span(TEST)}
    found = figures(ours, "--start", TEST[2], "--end", TEST[7], "--arrow", small_cache)
    assert found["days"] == {"span": span(TEST[2:8])}
    pq.write_table(pq.read_table(ours).replace_schema_metadata(None), foreign)
    found = figures(foreign, small_run)
    assert (found["days"], found["notes"]) == ({"test": span(TEST)}, [])
    refused("evaluate", ours, "--end", VALID[0], "--arrow", small_cache, words=[str(ours), str(TEST[0]), str(TEST[-1])])


def test_bad_days(refused, small_run):
    refused("evaluate", small_run, "--start", "2010-13-01", words=["--start", "2010-13-01", "YYYY-MM-DD"])
    refused("evaluate", small_run, "--end", "20100901", words=["--end", "20100901", "YYYY-MM-DD"])
    refused("evaluate", small_run, "--start", TEST[5], "--end", TEST[4], words=["--end", str(TEST[4])])
    refused("evaluate", small_run, "--split", "valid", "--start", TEST[5], words=["--split", "valid"])
    refused("evaluate", small_run, "--start", "2031-01-01", words=["2031-01-01", str(TEST[-1])])


def test_a_run_of_an_earlier_version_is_refused(refused, small_run, small_cache, tmp_path):
    """Such as one without dates."""
    old = tmp_path / "old"
    (old / "checkpoints").mkdir(parents=True)
    (old / "config.toml").write_text((small_run / "config.toml").read_text())
    for name in (BEST, LAST):
        state, tensors = load_checkpoint(small_run / "checkpoints" / name)
        state = {key: value for key, value in asdict(state).items() if key not in ("split", "source")}
        save_file(tensors, old / "checkpoints" / name, {"state": json.dumps(state)})
    for command in (["evaluate", old], ["train", "--resume", "--out", old]):
        refused(*command, "--arrow", small_cache, words=["earlier version", "Train the run again"])
