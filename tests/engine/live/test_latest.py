"""Day by day from caches of 40 days: the scores of one evaluation over the whole history, whatever was kept between."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from engine.config_file import load_config
from engine.live import latest as module
from engine.live import state as states
from engine.live.comparison import compare
from engine.live.latest import predict_latest
from engine.score.online.features import fit_online
from engine.score.predict import features_used, load_run, predict_days
from engine.training.folds import train_folds
from engine.training.loop import train
from loaders.errors import InputError
from loaders.panel import open_panel
from loaders.split import Days
from tests.panels import cut, rewritten, write_panel

CODES, DAYS, KNOWN, SPAN, CONTEXT, WAIT = 40, 220, 150, 40, 8, 7
SETTINGS = [
    f"data.context={CONTEXT}", "data.block_days=8", "data.block_codes=24", "train.epochs=1", "train.blocks=4",
    "train.seeds=2", "train.device=cpu", "split.valid_fraction=0.2", "split.test_fraction=0.2",
    "model.online_weight=1", "model.online_features=4", "model.neutralize=0.5", "model.risk_factors=2",
]  # fmt: skip


def tolerance(values):
    """1e-5 of scores of deviation about 1."""
    return {"rtol": 0, "atol": 1e-5 * max(float(np.std(values)), 1.0)}


def whole_in(folder):
    """All days, labels known a day after their horizon, of which a run knows the first KNOWN."""
    panel = write_panel(folder / "plain", CODES, DAYS, 6, signal=0.3)
    return rewritten(panel, folder / "whole", {"known_after": WAIT - 5})


def trained_on(whole, *more):
    """A run folder as training left it."""
    cache = cut(whole, whole.folder.with_name("first"), 0, KNOWN)
    config = load_config(None, [*SETTINGS, *more], str(cache.folder))
    return train(config, whole.folder.with_name("trained"), False, Console(quiet=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return whole_in(tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def trained(whole):
    """Never to be scored."""
    return trained_on(whole)


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(scope="module")
def expected(whole, trained):
    """{date: (codes, {horizon: scores})} of all days after training, evaluated at once on the whole history."""
    days = Days(KNOWN - 20, DAYS)
    scores = predict_days(load_run(trained), whole, days, "span")
    code = whole.code_of(scores.rows)
    day = scores.rows - whole.offset[code] + whole.first[code]
    names = np.array(whole.manifest.codes)
    return {
        whole.manifest.calendar[t]: (names[code[day == t]], {h: v[day == t] for h, v in scores.values.items()})
        for t in range(days.start, days.stop)
    }


def check(day, expected):
    codes, scores = expected[day.date]
    assert day.codes.tolist() == codes.tolist()
    for h, values in scores.items():
        np.testing.assert_allclose(day.scores[h], values, **tolerance(values))


def caches(whole, tmp_path):
    """folder(start, stop): a cache of these days."""

    def folder(start, stop):
        path = tmp_path / f"{start}-{stop}"
        return path if path.exists() else cut(whole, path, start, stop).folder

    return folder


def test_every_day_from_the_last_days_alone(whole, run, expected, tmp_path):
    of = caches(whole, tmp_path)
    assert len(expected) - 20 >= 60
    for stop in range(KNOWN, DAYS + 1):
        found = predict_latest(run, of(stop - SPAN, stop))
        assert found.today.date == whole.manifest.calendar[stop - 1]
        assert found.before is not None
        check(found.today, expected)
        check(found.before, expected)
        shutil.rmtree(of(stop - SPAN, stop))


def test_a_grown_cache_some_days_later_and_the_same_day_again(whole, run, expected, tmp_path):
    of = caches(whole, tmp_path)
    for start, stop in ((0, KNOWN + 3), (0, KNOWN + 20), (KNOWN + 20 - SPAN, KNOWN + 20), (KNOWN, KNOWN + 40)):
        first, again = (predict_latest(run, of(start, stop)) for _ in range(2))
        check(first.today, expected)
        for h in first.horizons:
            np.testing.assert_array_equal(first.today.scores[h], again.today.scores[h])
        check(again.before, expected)


def test_an_earlier_day_by_history_or_refused(whole, run, expected, tmp_path):
    of, calendar = caches(whole, tmp_path), whole.manifest.calendar
    check(predict_latest(run, of(0, KNOWN + 50)).today, expected)
    kept = (run / states.LIVE / states.ONLINE).read_bytes()
    earlier = calendar[KNOWN - 10]  # before the state that training left
    check(predict_latest(run, of(0, KNOWN + 50), earlier).today, expected)
    with pytest.raises(InputError, match=f"{earlier}.*later day") as refusal:
        predict_latest(run, of(KNOWN - SPAN, KNOWN), earlier)
    assert "\n" not in str(refusal.value)
    between = calendar[KNOWN + 10]  # after it, and before the newest
    check(predict_latest(run, of(KNOWN - SPAN, KNOWN + 50), between).today, expected)
    assert (run / states.LIVE / states.ONLINE).read_bytes() == kept


def test_missing_days_are_named(whole, run, tmp_path):
    of, calendar = caches(whole, tmp_path), whole.manifest.calendar
    with pytest.raises(InputError, match=f"after {calendar[KNOWN - 2]}.*before {calendar[KNOWN + 20]} are missing"):
        predict_latest(run, of(KNOWN + 20, KNOWN + 60))
    # The state's day is there, and not all days whose returns it waits for.
    with pytest.raises(InputError, match=f"returns from {calendar[KNOWN - 1 - WAIT]} on.*before {calendar[KNOWN - 5]}"):
        predict_latest(run, of(KNOWN - 5, KNOWN + 35))
    other = rewritten(
        open_panel(of(KNOWN - 20, KNOWN + 20)), tmp_path / "holiday",
        {"calendar": [d for d in calendar[KNOWN - 21 : KNOWN + 20] if d != calendar[KNOWN - 4]]},
    )  # fmt: skip
    with pytest.raises(InputError, match=f"{calendar[KNOWN - 4]} is a day of the kept state alone"):
        predict_latest(run, other.folder)


def test_too_little_context(whole, run, tmp_path, run_command):
    of, calendar = caches(whole, tmp_path), whole.manifest.calendar
    short = of(KNOWN - CONTEXT + 1, KNOWN)
    with pytest.raises(InputError, match=f"{calendar[KNOWN - 1]} needs {CONTEXT} days up to it.*has {CONTEXT - 1}"):
        predict_latest(run, short)
    exact = predict_latest(run, of(KNOWN - CONTEXT, KNOWN))  # the day, and not the day before
    assert exact.before is None
    assert any(f"no comparison with {calendar[KNOWN - 2]}" in note for note in exact.notes)
    cache = of(KNOWN - SPAN, KNOWN)
    span = ["--start", calendar[KNOWN - 20], "--out", tmp_path / "s.parquet", "--arrow", cache]
    code, _, err = run_command("predict", run, *span)
    assert (code, err.count("\n")) == (2, 1)  # no state that early, no history


def test_a_span_of_a_short_cache_writes_its_days_alone(whole, run, expected, tmp_path, run_command):
    of, calendar = caches(whole, tmp_path), whole.manifest.calendar
    cache, out = of(KNOWN - 20, KNOWN + 20), tmp_path / "s.parquet"
    chosen = calendar[KNOWN : KNOWN + 10]
    code, _, err = run_command(
        "predict", run, "--arrow", cache, "--start", chosen[0], "--end", chosen[-1], "--out", out
    )
    assert code == 0, err
    table = pq.read_table(out)
    dates = np.array([str(d) for d in table["date"].to_pylist()])
    assert sorted(set(dates)) == chosen
    for date in chosen:
        codes, scores = expected[date]
        assert table["code"].to_numpy()[dates == date].tolist() == codes.tolist()
        for h, values in scores.items():
            np.testing.assert_allclose(table[f"score_{h}"].to_numpy()[dates == date], values, **tolerance(values))


class Killed(BaseException):
    """What nothing catches."""


def test_a_kill_leaves_the_old_state_or_the_new_and_either_scores_the_same(
    whole, run, expected, tmp_path, run_command, monkeypatch
):
    def killed(*_, **__):
        raise Killed

    of = caches(whole, tmp_path)
    first, second, out = of(KNOWN - 20, KNOWN + 20), of(KNOWN, KNOWN + 40), tmp_path / "s.parquet"
    command = ["predict", run, "--date", "latest", "--out", out, "--arrow"]
    with monkeypatch.context() as patched:  # between the state and the scores
        patched.setattr("engine.score.files.write_scores", killed)
        with pytest.raises(Killed):
            run_command(*command, first)
    assert not out.exists()
    newest = (run / states.LIVE / states.ONLINE).read_bytes()
    check(predict_latest(run, first).today, expected)
    state = load_run(run).state
    latest, trained = states.kept_states(run, state)
    for step in ("replace", "fsync"):  # while a state is written
        with monkeypatch.context() as patched:
            patched.setattr(f"os.{step}", killed)
            with pytest.raises(Killed):
                states.keep_state(run, latest, state)
        assert (run / states.LIVE / states.ONLINE).read_bytes() == newest
    assert states.keep_state(run, trained, state) is None  # by a prediction that was asked for an earlier day
    assert (run / states.LIVE / states.ONLINE).read_bytes() == newest
    assert run_command(*command, second)[0] == 0
    assert (run / states.LIVE / states.ONLINE).read_bytes() != newest
    check(predict_latest(run, second).today, expected)


def test_folds_are_scored_by_the_last(whole, tmp_path):
    cache = cut(whole, tmp_path / "cache", 0, KNOWN)
    settings = [s for s in SETTINGS if not s.startswith(("split", "train.seeds"))]
    settings += ["split.folds=2", "split.valid_fraction=0.1", "split.test_fraction=0.1"]
    folds = train_folds(load_config(None, settings, str(cache.folder)), tmp_path / "folds", False, Console(quiet=True))
    newer = cut(whole, tmp_path / "newer", KNOWN - SPAN + 2, KNOWN + 2)
    found = predict_latest(folds, newer.folder)
    assert found.run == folds / "fold-1"
    assert any("fold-1" in note for note in found.notes)
    days = Days(KNOWN + 1, KNOWN + 2)
    for h, values in predict_days(load_run(folds / "fold-1"), whole, days, "span").values.items():
        np.testing.assert_allclose(found.today.scores[h], values, **tolerance(values))


def test_a_run_that_cannot_be_written_is_told(whole, run, expected, tmp_path):
    of = caches(whole, tmp_path)
    (run / states.LIVE).write_text("in the way")
    found = predict_latest(run, of(KNOWN - 20, KNOWN + 20))
    check(found.today, expected)
    assert sum("cannot be written" in note for note in found.notes) == 1


@pytest.mark.parametrize("name", [states.ONLINE, f"{states.LIVE}/{states.ONLINE}"])
def test_a_damaged_state_is_refused(whole, run, tmp_path, name):
    of = caches(whole, tmp_path)
    predict_latest(run, of(KNOWN - 20, KNOWN + 20))
    content = bytearray((run / name).read_bytes())
    content[-9] ^= 1
    (run / name).write_bytes(content)
    with pytest.raises(InputError, match="checksum differs"):
        predict_latest(run, of(KNOWN - 20, KNOWN + 20))
    (run / name).write_bytes(content[:100])
    with pytest.raises(InputError, match="not readable as safetensors"):
        predict_latest(run, of(KNOWN - 20, KNOWN + 20))


def test_a_run_of_an_earlier_release_takes_the_history(whole, run, tmp_path, expected):
    of = caches(whole, tmp_path)
    (run / states.ONLINE).unlink()
    with pytest.raises(InputError, match="keeps no state"):
        predict_latest(run, of(KNOWN - 20, KNOWN + 20))
    check(predict_latest(run, of(0, KNOWN + 20)).today, expected)
    check(predict_latest(run, of(KNOWN - 20, KNOWN + 21)).today, expected)  # by the state that it left


def test_returns_that_come_late_are_waited_for(whole, run, tmp_path, expected):
    of = caches(whole, tmp_path)
    panel = open_panel(of(KNOWN - 20, KNOWN + 20))
    day = np.concatenate([np.arange(f, f + n) for f, n in zip(panel.first, panel.days, strict=True)])
    targets = panel.targets.copy()
    targets[day >= 40 - 5 - WAIT, 1] = np.nan  # of 5 days: known 5 days later than they should be
    late = rewritten(panel, tmp_path / "late", targets=targets)
    found = predict_latest(run, late.folder)
    assert any("none over 5 days is known" in note for note in found.notes)
    check(predict_latest(run, of(KNOWN - 20, KNOWN + 21)).today, expected)


def without_targets(panel):
    """As an opened cache that was built without them."""
    bare = replace(panel, manifest=panel.manifest.model_copy(update={"horizons": [], "known_after": 0}))
    bare.__dict__["targets"] = np.empty((panel.manifest.rows, 0), np.float32)
    return bare


def test_a_cache_without_targets(whole, run, tmp_path, expected, monkeypatch):
    """Slopes stay as they were on the kept day, and that is told; on that day itself nothing is missing."""
    of, calendar = caches(whole, tmp_path), whole.manifest.calendar
    kept, later = of(KNOWN - SPAN, KNOWN - 1), of(KNOWN - SPAN + 3, KNOWN + 3)
    slopes = fit_online(whole, Days(KNOWN - 2, KNOWN - 1), features_used(load_run(run)), []).slopes
    days = Days(SPAN - 1, SPAN)
    still = predict_days(load_run(run), open_panel(later), days, "span", slopes=slopes)
    moved = predict_latest(run, later).today
    (run / states.LIVE / states.ONLINE).unlink()
    monkeypatch.setattr(module, "open_panel", lambda folder, _: without_targets(open_panel(folder)))
    found = predict_latest(run, kept)
    check(found.today, expected)
    found = predict_latest(run, later)
    assert any(f"as of {calendar[KNOWN - 2]}" in note for note in found.notes)
    for h, values in still.values.items():
        np.testing.assert_allclose(found.today.scores[h], values, **tolerance(values))
        assert np.abs(found.today.scores[h] - moved.scores[h]).max() > 1e-3
    (run / states.ONLINE).unlink()
    with pytest.raises(InputError, match=r"keeps no state.*has no returns"):
        predict_latest(run, of(0, KNOWN))


def test_other_features_or_recipe_are_refused(whole, run, tmp_path):
    of = caches(whole, tmp_path)
    panel = open_panel(of(KNOWN - SPAN, KNOWN))
    names = [*panel.manifest.features[1::-1], *panel.manifest.features[2:]]
    for i, (change, words) in enumerate((
        ({"features": names}, "first difference: ret_1 and f1"),
        ({"transform": "zscore"}, "transform is 'none'.*'zscore'"),
        ({"recipe": {"name": "ohlcv"}}, "recipe.name is 'test'"),
        ({"horizons": [1, 6]}, r"expects horizons \[1, 5\]"),
        ({"known_after": 0}, "known_after is 2"),
    )):  # fmt: skip
        other = rewritten(panel, tmp_path / f"other{i}", change)
        with pytest.raises(InputError, match=words):
            predict_latest(run, other.folder)


def test_dates(whole, run, trained, tmp_path, run_command):
    of, calendar = caches(whole, tmp_path), whole.manifest.calendar
    cache = of(0, KNOWN)
    weekend = np.datetime64(calendar[KNOWN - 10])
    while str(weekend) in calendar:
        weekend += 1
    for date, words in (
        (str(weekend), "is no day of"),
        ("2031-01-01", "is no day of"),
        ("today", "not a date"),
        (load_run(run).state.split["valid"][1], "in sample"),
    ):
        with pytest.raises(InputError, match=words):
            predict_latest(run, cache, date)
    valid = load_run(run).state.split["valid"][1]
    assert any("in sample" in note for note in predict_latest(run, cache, valid, in_sample=True).notes)
    for options in (["--date", "latest", "--split", "valid"], ["--date", "latest", "--start", calendar[KNOWN - 2]], [],
                    ["--json"], ["--out", "x", "--horizon", "1"], ["--date", "latest", "--horizon", "2"]):  # fmt: skip
        code, _, err = run_command("predict", run, "--arrow", cache, *options)
        assert (code, err.count("\n")) == (2, 1), options


def test_what_is_said_of_a_day(whole, run, expected, tmp_path, run_command):
    """Against ranks by numpy of the expected scores."""
    of, calendar, top = caches(whole, tmp_path), whole.manifest.calendar, 5
    cache, out = of(KNOWN - SPAN, KNOWN), tmp_path / "s.parquet"
    options = ["--arrow", cache, "--date", "latest", "--top", str(top)]
    code, text, err = run_command("predict", run, *options, "--out", out, "--json")
    assert code == 0, err
    found = json.loads(text)

    def ranking(t, h=None):
        codes, scores = expected[calendar[t]]
        scored = np.array(
            [whole.presence[whole.rows_of(whole.manifest.codes.index(c), t, t + 1)][0] == 2 for c in codes]
        )
        chosen = [v[scored] for k, v in scores.items() if h in (None, k)]
        z = np.mean([(v - v.mean()) / v.std() for v in chosen], 0)
        return codes[scored][np.argsort(-z, kind="stable")].tolist()

    now, before = ranking(KNOWN - 1), ranking(KNOWN - 2)
    assert [line["code"] for line in found["top"]] == now[:top]
    assert [line["code"] for line in found["bottom"]] == now[::-1][:top]
    assert [line["rank"] for line in found["bottom"]] == list(range(len(now), len(now) - top, -1))
    for line in found["top"] + found["bottom"]:
        assert line["rank_before"] == (before.index(line["code"]) + 1 if line["code"] in before else None)
    assert set(found["top_entered"]) == set(now[:top]) - set(before[:top])
    assert set(found["bottom_left"]) == set(before[-top:]) - set(now[-top:])
    assert found["compared_with"] == calendar[KNOWN - 2]
    assert found["counts"]["universe"] == len(now)
    assert found["counts"]["scored"] == len(expected[calendar[KNOWN - 1]][0]) == pq.read_table(out).num_rows
    valid = load_run(run).state.split["valid"][1]
    assert found["age"]["chosen_until"] == valid
    # Of the cache's days, of which the last SPAN are there.
    assert found["age"]["cache_days_since"] == KNOWN - 1 - calendar.index(valid)
    code, text, err = run_command("predict", run, *options, "--horizon", "5")
    assert code == 0, err
    assert f"top {top} of {calendar[KNOWN - 1]}, by horizon 5" in text
    assert text.index(ranking(KNOWN - 1, 5)[0]) < text.index(ranking(KNOWN - 1, 5)[1])
    today = module.predict_latest(run, cache)
    age = compare(today, top, today=np.datetime64(calendar[KNOWN - 1]).item())["age"]
    assert age["days"] == 0
