"""No check of scores raises on a cache that can be read, however little it holds."""

import numpy as np
import pytest

from engine.audit.checks import SCORES
from loaders.panel import open_panel
from tests.loaders.cache.test_shards import write_shard
from tests.panels import rewritten, write_panel

CACHES = {
    "few codes": {"n_codes": 3},
    "few days": {"n_days": 4},
    "one horizon": {"horizons": (5,)},
    "one feature": {"n_features": 1},
    "plain": {},
    "long horizon": {"horizons": (60,)},
}


@pytest.mark.parametrize("name", CACHES)
@pytest.mark.parametrize("kind", ["random", "constant", "last days", "one code"])
def test_no_check_raises(name, kind, tmp_path, beside):
    panel = write_panel(tmp_path / "cache", **CACHES[name])
    _check(panel, kind, beside)


@pytest.mark.parametrize("kind", ["random", "constant"])
@pytest.mark.parametrize("what", ["no targets", "constant features", "context only", "constant targets"])
def test_no_check_raises_without_values(what, kind, tmp_path, beside):
    panel = write_panel(tmp_path / "cache")
    changes = {
        "no targets": {"targets": np.full_like(panel.targets, np.nan)},
        "constant features": {"features": np.zeros_like(panel.features)},
        "context only": {"presence": np.minimum(panel.presence, 1)},
        "constant targets": {"targets": np.zeros_like(panel.targets)},
    }
    _check(rewritten(panel, tmp_path / "other", **changes[what]), kind, beside)


def _check(panel, kind, beside):
    shape = (len(panel.calendar), len(panel.manifest.codes))
    scores = np.random.default_rng(0).normal(size=shape)
    if kind == "constant":
        scores[:] = 1
    if kind == "last days":
        scores[:-1] = np.nan
    if kind == "one code":
        scores[:, 1:] = np.nan
    scored = beside(panel, scores)
    for check in SCORES:
        found = check(scored)
        assert found.verdict in ("passed", "warned", "skipped"), (check.__name__, found.figure)


def test_shards_say_what_one_cache_says(tmp_path, beside):
    whole = write_panel(tmp_path / "whole", signal=0.1)
    codes = np.arange(len(whole.manifest.codes))
    for name, some in (("a", codes[::2]), ("b", codes[1::2])):
        write_shard(tmp_path / "shards" / name, whole, some)
    scores = np.random.default_rng(1).normal(size=(len(whole.calendar), len(codes)))
    one, several = (beside(panel, scores) for panel in (whole, open_panel(tmp_path / "shards")))
    for check in SCORES:
        assert check(one) == check(several)
