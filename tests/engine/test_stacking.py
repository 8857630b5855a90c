"""Stacking: weights against SciPy's non-negative least squares, and nothing that comes after them decides them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from scipy.stats import rankdata, zscore

from engine.evaluation.evaluate import evaluate
from engine.evaluation.stacking import stack_weights
from engine.score.files import read_scores, write_scores
from engine.score.rows import present_rows
from loaders.errors import InputError
from loaders.panel import open_panel
from tests.engine.test_evaluation import PART, written
from tests.panels import rewritten, write_panel


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), sources=st.integers(1, 5))
def test_weights_are_nonnegative_least_squares(seed, sources):
    rng = np.random.default_rng(seed)
    counts = rng.integers(15, 60, 12)  # some days have too few samples
    day = np.repeat(np.arange(12), counts)
    target = rng.normal(size=len(day))
    scores = [rng.normal(-0.2, 1) * target + rng.normal(size=len(day)) * 3 for _ in range(sources)]
    found = stack_weights(scores, target, day)
    lines, right = [], []
    for d, n in enumerate(counts):
        if n >= 20:
            of = day == d
            lines.append(np.stack([zscore(each[of]) for each in scores], 1) / np.sqrt(n))
            right.append(((rankdata(target[of]) - 0.5) / n - 0.5) / np.sqrt(n))
    expected = nnls(np.concatenate(lines), np.concatenate(right))[0]
    expected = expected / expected.sum() if expected.any() else np.full(sources, 1 / sources)
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    return write_panel(tmp_path_factory.mktemp("stack") / "cache", n_codes=60, n_days=120)


def files(panel, tmp_path):
    return [written(panel, tmp_path / f"{seed}.parquet", seed) for seed in (1, 2, 3)]


UNTIL = 70  # calendar index of the last day that decides


def test_days_after_are_evaluated_by_weights_of_days_before(panel, tmp_path):
    paths, until = files(panel, tmp_path), str(panel.calendar[UNTIL])
    found = evaluate(paths, "test", paths[0], panel.folder, stack_until=until, out=tmp_path / "out.parquet")
    rows, day, _ = present_rows(panel, PART)
    columns = [read_scores(path).values for path in paths]
    order = np.lexsort((panel.code_of(rows), day))
    assert (order == np.arange(len(rows))).all()  # as files have them
    for i, h in enumerate((1, 5)):
        target = panel.targets[rows, i].astype(np.float64)
        target[(panel.presence[rows] != 2) | (day + h > UNTIL)] = np.nan
        expected = stack_weights([c[h] for c in columns], target, day)
        assert list(found["stack"][str(h)].values()) == pytest.approx(expected, abs=1e-9)
    assert found["days"]["test"]["first"] == str(panel.calendar[UNTIL + 1])
    assert found["against"]["1"]["days"] == found["splits"]["test"]["1"]["days"]
    kept = read_scores(tmp_path / "out.parquet")
    later = day > UNTIL
    for h in (1, 5):
        weights, expected = list(found["stack"][str(h)].values()), np.zeros(later.sum())
        for w, column in zip(weights, columns, strict=True):
            for d in np.unique(day[later]):
                expected[day[later] == d] += w * zscore(column[h][day == d].astype(np.float64))
        np.testing.assert_allclose(kept.values[h], expected, atol=1e-5)
    assert kept.metadata["run_id"] == "run-1 run-2 run-3"


def test_later_labels_decide_nothing(panel, tmp_path):
    """Labels that end after the day, and all later ones, are exchanged: the weights stay. Earlier ones: they move."""
    paths, until = files(panel, tmp_path), str(panel.calendar[UNTIL])
    day = np.arange(len(panel.targets)) - np.repeat(panel.offset - panel.first, panel.days)
    weights = {}
    for name, changed in (
        ("same", None),
        ("later", day[:, None] + [1, 5] > UNTIL),
        ("earlier", day[:, None] < UNTIL - 9),
    ):
        targets = panel.targets.copy() if changed is None else np.where(changed, -panel.targets, panel.targets)
        other = rewritten(panel, tmp_path / name, targets=targets)
        for path in paths:
            written(other, path, int(path.stem))
        weights[name] = evaluate(paths, "test", None, other.folder, stack_until=until)["stack"]
    assert weights["same"] == weights["later"] != weights["earlier"]


def test_the_command(panel, tmp_path, run_command):
    paths, until = files(panel, tmp_path), str(panel.calendar[UNTIL])
    code, out, _ = run_command("evaluate", *paths, "--arrow", panel.folder, "--stack-until", until)
    assert code == 0
    assert "stack: weights of" in out
    code, out, _ = run_command("evaluate", *paths, "--arrow", panel.folder, "--stack-until", until, "--json")
    assert set(json.loads(out)["stack"]["1"]) == set(map(str, paths))


def test_what_was_written_knows_what_chose_it(panel, tmp_path):
    """The last day that decided a source's settings, or the weights."""
    paths, out = files(panel, tmp_path), tmp_path / "out.parquet"
    scores = read_scores(paths[0])
    days = {name: str(panel.calendar[day]) for name, day in (("early", 40), ("tuned", 60), ("until", UNTIL))}
    for path, tuned in ((paths[0], days["early"]), (paths[1], days["tuned"])):
        write_scores(path, replace(scores, metadata=scores.metadata | {"tuned_until": tuned}))
    evaluate(paths, "test", None, panel.folder, out=out)
    assert read_scores(out).metadata["tuned_until"] == days["tuned"]
    found = evaluate([out], "test", None, panel.folder)["notes"]
    assert [days["tuned"] in note for note in found] == [True]
    evaluate(paths, "test", None, panel.folder, out=out, stack_until=days["until"])
    assert days["tuned"] < read_scores(out).metadata["tuned_until"] <= days["until"]
    assert evaluate([out], "test", None, panel.folder)["notes"] == []


@pytest.mark.parametrize(
    ("until", "said"),
    [("2010-13-01", "not a date"), ("1990-01-01", "no day has 20"), ("2030-01-01", "has no day after")],
)
def test_days_that_cannot_decide_are_refused(panel, tmp_path, until, said):
    assert open_panel(panel.folder).manifest.cache_id == panel.manifest.cache_id
    with pytest.raises(InputError, match=said):
        evaluate(files(panel, tmp_path), "test", None, panel.folder, stack_until=until)
