"""The online regression on wide panels: bounded to the features that have told most, chosen by what is known."""

import io

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from engine.config_file import load_config
from engine.inputs import open_inputs
from engine.score.online.features import online_scores, online_slopes
from engine.score.predict import load_run, predict_days, weighted_online_scores
from engine.score.rows import present_rows
from engine.training.fold import make_fold
from engine.training.loop import train
from engine.training.run import open_run
from loaders.cache.format import SCORED
from loaders.split import Days
from tests.panels import rewritten, write_panel

PART = Days(60, 80)
FEATURES, MOST = 12, 4


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    return write_panel(tmp_path_factory.mktemp("wide") / "cache", n_codes=60, n_days=100, n_features=FEATURES)


def largest(panel, day: int, most: int) -> list[int]:
    """By loop and scipy: |mean daily correlation with ranked returns| on days known at `day`, summed over horizons."""
    total = np.zeros(FEATURES)
    for i, h in enumerate(panel.manifest.horizons):
        daily = []
        for u in range(day - h + 1):
            rows, _, _ = present_rows(panel, Days(u, u + 1))
            rows = rows[panel.presence[rows] == SCORED]
            known = np.isfinite(panel.targets[rows, i])
            z = stats.zscore(panel.features[rows].astype(float))[known]
            rank = (stats.rankdata(panel.targets[rows[known], i]) - 0.5) / known.sum() - 0.5
            daily.append(rank * np.sqrt(12) @ z / known.sum())
        total += np.abs(np.mean(daily, 0))
    return sorted(np.argsort(-total)[:most])


def narrow(panel, folder, kept):
    """The panel with the kept features alone."""
    other = write_panel(folder, n_codes=60, n_days=100, n_features=len(kept))
    columns = {"features": panel.features[:, kept], "targets": panel.targets, "presence": panel.presence}
    return rewritten(other, folder.with_suffix(".kept"), **columns)


def test_a_bound_that_does_not_bind_changes_nothing(panel):
    expected = online_slopes(panel, PART, [])
    np.testing.assert_array_equal(online_slopes(panel, PART, [], FEATURES), expected)
    without = online_slopes(panel, PART, [3])
    np.testing.assert_array_equal(online_slopes(panel, PART, [3], FEATURES - 1), without)


def test_the_features_that_told_most_are_used_as_if_they_were_all(panel, tmp_path):
    kept = largest(panel, PART.start, MOST)
    found = online_slopes(panel, PART, [], MOST)
    expected = online_slopes(narrow(panel, tmp_path / "narrow", kept), PART, [])
    assert found.shape == (len(PART), 2 * FEATURES, 2)
    places = [*kept, *(FEATURES + k for k in kept)]
    np.testing.assert_allclose(found[:, places], expected, atol=1e-5)
    assert not np.delete(found, places, 1).any()


def test_ids_are_never_chosen(panel):
    kept = largest(panel, PART.start, MOST)
    found = online_slopes(panel, PART, [kept[0]], MOST)
    assert not found[:, [kept[0], FEATURES + kept[0]]].any()
    assert (found[:, :FEATURES] != 0).any((0, 2)).sum() == MOST


def test_the_choice_knows_no_return_of_its_part(panel, tmp_path):
    """Returns that are not known on the part's first day would make another choice, and do not."""
    day = np.concatenate([np.arange(f, f + n) for f, n in zip(panel.first, panel.days, strict=True)])
    kept = largest(panel, PART.start, MOST)
    other = next(f for f in range(FEATURES) if f not in kept)
    targets = panel.targets.copy()
    for i, h in enumerate(panel.manifest.horizons):
        late = day > PART.start - h
        targets[late, i] = 50 * panel.features[late, other]
    changed = rewritten(panel, tmp_path / "changed", targets=targets)
    found = online_slopes(changed, PART, [], MOST)
    assert sorted(np.flatnonzero((found[:, :FEATURES] != 0).any((0, 2)))) == kept
    assert other in largest(changed, PART.stop, MOST)


def test_the_setting_reaches_the_scores_and_the_log(panel):
    settings = [
        f"model.online_features={MOST}", "model.neutralize=0", "data.context=8", "data.block_days=8",
        "data.block_codes=24", "train.device=cpu", "split.valid_fraction=0.2", "split.test_fraction=0.2",
    ]  # fmt: skip
    config = load_config(None, settings, str(panel.folder))
    found = weighted_online_scores(config, panel, PART, None)
    expected = 0.3 * online_scores(panel, PART, online_slopes(panel, PART, [], MOST), None)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("most", "said"), [(MOST, True), (FEATURES, False)])
def test_the_log_says_which_bound_applied(panel, tmp_path, most, said):
    settings = [
        f"model.online_features={most}", "data.context=8", "data.block_days=8", "data.block_codes=24",
        "train.device=cpu", "split.valid_fraction=0.2", "split.test_fraction=0.2",
    ]  # fmt: skip
    config = load_config(None, settings, str(panel.folder))
    text = io.StringIO()
    console = Console(width=200, file=text)
    with open_inputs(config, "cpu") as inputs:
        fold = make_fold(config, inputs.panel, inputs.device)
        with open_run(config, inputs, fold, tmp_path / "run", False, console) as run:
            assert np.isfinite(run.valid_online).all()
    line = f"online regression: the {MOST} of {FEATURES} features of the largest mean IC (model.online_features)"
    assert (line in text.getvalue()) is said


def test_a_run_keeps_the_features_of_its_first_validation_day(panel, tmp_path):
    """By the oracle; test days are scored by the same, though others have told more by then."""
    settings = [
        f"model.online_features={MOST}", "data.context=8", "data.block_days=8", "data.block_codes=24",
        "train.device=cpu", "train.epochs=1", "train.blocks=2", "split.valid_fraction=0.2", "split.test_fraction=0.2",
    ]  # fmt: skip
    folder = train(load_config(None, settings, str(panel.folder)), tmp_path / "run", False, Console(quiet=True))
    run, kept = load_run(folder), largest(panel, 60, MOST)
    assert run.state.split["valid"][0] == panel.manifest.calendar[60]
    assert run.state.online == [panel.manifest.features[i] for i in kept]
    slopes = online_slopes(panel, Days(60, 90), [], MOST)[25:]
    days = Days(85, 90)
    found, expected = (predict_days(run, panel, days, "span", slopes=each) for each in (None, slopes))
    for h in (1, 5):
        np.testing.assert_allclose(found.values[h], expected.values[h], rtol=0, atol=1e-5)
    assert largest(panel, 85, MOST) != kept
