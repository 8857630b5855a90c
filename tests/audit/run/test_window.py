"""Windows in memory: a panel like that of a cache of these days, and what a change leaves as it was."""

import numpy as np

from engine.audit.run.window import window_of
from engine.score.predict import load_run, predict_days
from loaders.cache.format import ABSENT
from loaders.panel import open_panel
from loaders.split import Days
from tests.loaders.cache.test_shards import write_shard
from tests.panels import cut


def test_a_run_scores_a_window_as_a_cache_of_its_days(run, cache, tmp_path):
    trained = load_run(run)
    start, stop = 90, 140
    window = window_of(cache, start, stop, 1 << 30).in_memory()
    written = cut(cache, tmp_path / "cut", start, stop)
    part = Days(30, stop - start - max(cache.manifest.horizons))  # later labels are not known in the cut cache
    found, expected = (predict_days(trained, panel, part, "test") for panel in (window, written))
    np.testing.assert_array_equal(found.rows, expected.rows)
    for h in cache.manifest.horizons:
        np.testing.assert_array_equal(found.values[h], expected.values[h])


def test_only_what_was_not_known_changes(cache):
    start, day = 90, 120
    window = window_of(cache, start, 140, 1 << 30)
    changed = window.unknown_changed(day, np.random.default_rng(0))
    known = window.day <= day - start
    np.testing.assert_array_equal(changed.features[known], window.features[known])
    np.testing.assert_array_equal(changed.presence[known], window.presence[known])
    for i, h in enumerate(cache.manifest.horizons):
        ended = window.day + h <= day - start
        np.testing.assert_array_equal(changed.targets[ended, i], window.targets[ended, i])
        later = ~ended & np.isfinite(window.targets[:, i])
        assert (changed.targets[later, i] != window.targets[later, i]).mean() > 0.9
    later = ~known & (window.presence != ABSENT)
    assert (changed.features[later] != window.features[later]).any(1).mean() > 0.9
    assert (changed.presence[later] != window.presence[later]).mean() > 0.2


def test_large_windows_are_of_some_codes(cache):
    assert len(window_of(cache, 90, 140, 1).codes) == len(cache.codes_with(cache.present, 90, 140))  # 50 at least


def test_a_window_of_shards_is_that_of_one_cache(cache, tmp_path):
    codes = np.arange(len(cache.manifest.codes))
    for name, some in (("a", codes[::2]), ("b", codes[1::2])):
        write_shard(tmp_path / "shards" / name, cache, some)
    whole, shards = (
        window_of(panel, 90, 140, 1 << 30).in_memory() for panel in (cache, open_panel(tmp_path / "shards"))
    )
    for name in ("features", "targets", "presence", "first", "days", "offset"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(shards, name))
