"""Trees that are weighed anew each day: their pieces, the weights against least squares, and what is saved of them."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from engine.config_file import load
from engine.rivals.baseline import Asked, baseline
from engine.rivals.fit import FITTED, fit_rival
from engine.rivals.options import Help, Options, RivalConfig
from engine.rivals.refitted import PIECES, refitted_scores
from engine.rivals.samples import Problem
from engine.rivals.saved import Origin, load_rival, save_rival
from engine.score.rows import present_rows
from loaders.errors import InputError
from loaders.split import Days
from tests.engine.rivals.test_fit import SPLIT, needs, panel_in
from tests.engine.rivals.test_trees import LIBRARIES, options
from tests.panels import cut
from tests.refits import scores_by_lstsq

REFITTED = Help(online_weight=0.2, last_layer_weight=0.5, seeds=2)


@pytest.mark.parametrize("kind", LIBRARIES)
def test_pieces_are_the_summands_of_a_score(tmp_path, kind):
    needs(kind)
    panel = panel_in(tmp_path, signal=1.0)
    (fitted,) = FITTED[kind](Problem(panel, SPLIT, 0, options(kind, trees=12, patience=12)), range(1))
    rows, day, _ = present_rows(panel, SPLIT.test)
    x = panel.features[rows].astype(np.float32)
    whole = np.asarray(fitted.predict(x, day), np.float64)
    assert whole.std() > 0
    for most in (1, 5, 100):
        pieces = np.asarray(fitted.pieces(x, most), np.float64)
        assert pieces.shape[1] <= most
        assert (pieces.std(0) > 0).sum() >= min(most, 5)
        rest = pieces.sum(1) - whole  # what a library adds to each
        np.testing.assert_allclose(rest, rest[0], atol=1e-5)


def outputs_of(panel, models, begin):
    """{day: its rows, and their pieces [N, C]} from a day on."""
    rows, day, _ = present_rows(panel, Days(begin, len(panel.calendar)))
    x = panel.features[rows].astype(np.float32)
    every = np.hstack([model.pieces(x, PIECES) for of_seeds in models for model in of_seeds]).astype(np.float64)
    return {t: (rows[day == t], every[day == t]) for t in np.unique(day)}


@pytest.mark.parametrize("kind", LIBRARIES)
def test_weights_are_those_of_least_squares(tmp_path, kind):
    needs(kind)
    panel = panel_in(tmp_path, signal=0.5)
    rival = fit_rival(panel, SPLIT, kind, replace(options(kind, trees=15, patience=15), help=REFITTED))
    begin = SPLIT.valid.start
    found = refitted_scores(panel, SPLIT.test, rival.models, rival.neutral, begin)
    of, outputs = present_rows(panel, SPLIT.test).day, outputs_of(panel, rival.models, begin)
    for day in (SPLIT.test.start, SPLIT.test.stop - 1):
        for i in (0, 1):
            expected = scores_by_lstsq(panel, outputs, day, i, begin)
            assert expected.std() > 0.05
            np.testing.assert_allclose(found[of == day, i], expected, atol=5e-3 * expected.std())
    without = replace(rival, since=None).scores(panel, SPLIT.test)
    np.testing.assert_allclose(rival.scores(panel, SPLIT.test), without + np.float32(0.5) * found, atol=1e-5)
    assert "pieces of trees refitted 0.5" in str(rival.help)


def test_a_saved_rival_is_refitted_too(tmp_path):
    needs("lightgbm")
    panel = panel_in(tmp_path / "cache", signal=0.5)
    rival = fit_rival(panel, SPLIT, "lightgbm", replace(options("lightgbm", trees=15, patience=15), help=REFITTED))
    assert rival.since == str(panel.calendar[SPLIT.valid.start])
    save_rival(tmp_path / "r.safetensors", rival, panel, Origin("2010-03-01"))
    loaded, _ = load_rival(tmp_path / "r.safetensors", panel, Options())
    np.testing.assert_allclose(loaded.scores(panel, SPLIT.test), rival.scores(panel, SPLIT.test), atol=1e-5)
    assert str(loaded.help) == str(rival.help)


def test_a_cache_without_the_days_that_weigh_them_is_refused(tmp_path):
    needs("lightgbm")
    panel = panel_in(tmp_path / "cache", signal=0.5)
    rival = fit_rival(panel, SPLIT, "lightgbm", replace(options("lightgbm", trees=5, patience=5), help=REFITTED))
    path = tmp_path / "r.safetensors"
    save_rival(path, rival, panel, Origin(str(panel.calendar[SPLIT.valid.stop - 1])))
    for start, refused in ((SPLIT.valid.start, False), (SPLIT.valid.start + 1, True)):
        config = load(RivalConfig, None, [], str(cut(panel, tmp_path / str(start), start, 180).folder))
        with pytest.raises(InputError, match=f"from {rival.since} on") if refused else nullcontext():
            baseline(config, Asked("lightgbm", load=path))


def test_a_rival_that_is_no_sum_says_that_it_is_not_refitted(tmp_path):
    panel = panel_in(tmp_path)
    settings = ["data.context=4", "split.valid_fraction=0.2", "split.test_fraction=0.2"]
    config, asked = load(RivalConfig, None, settings, str(panel.folder)), Asked("ridge")
    more = load(RivalConfig, None, [*settings, "model.last_layer_weight=0.5"], str(panel.folder))
    plain, found = (baseline(each, asked) for each in (config, more))
    assert "pieces of trees" not in found.help
    assert found.splits == plain.splits
