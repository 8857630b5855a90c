"""Correlations of the halves of lives, against numpy's."""

import numpy as np
import pytest

from engine.audit.features.life_mean import _codes, _halves, life_mean
from tests.audit.faults.features import _life_scores
from tests.audit.market import Style
from tests.audit.samples import sample


def test_halves_are_means_of_a_codes_rows(tmp_path):
    found = sample(tmp_path)
    halves = _halves(found)
    values = np.stack(list(found.on_days(np.arange(found.days))))
    for i, s in enumerate(_codes(found)[:5]):
        rows = values[found.scored[:, s], s]
        if len(rows) < 120:
            assert np.isnan(halves[:, i]).all()
            continue
        middle = len(rows) // 2
        assert halves[0, i, :-2] == pytest.approx(rows[:middle].mean(0), abs=1e-5)
        assert halves[1, i, :-2] == pytest.approx(rows[middle:].mean(0), abs=1e-5)


@pytest.mark.parametrize("transform", ["rank", "none"])
def test_scores_of_whole_lives_are_caught(tmp_path, transform):
    style = Style(codes=80, days=400, transform=transform)
    found = life_mean(sample(tmp_path, style=style, plant=lambda m: _life_scores(m, 1.0, np.random.default_rng(0))))
    assert found.verdict == "failed"
    assert [line.split()[0] for line in found.concerned] == ["slow"]


def test_changes_without_memory_pass(tmp_path):
    # The lowest correlation of anything honest, -1/2: x(t) - x(t - 1) of noise x.
    rng = np.random.default_rng(0)

    def plant(market):
        x = rng.normal(size=(market.scored.shape[0] + 1, market.scored.shape[1]))
        return market.with_feature("change", np.diff(x, axis=0))

    assert life_mean(sample(tmp_path, style=Style(codes=150, days=400), plant=plant)).verdict == "passed"
