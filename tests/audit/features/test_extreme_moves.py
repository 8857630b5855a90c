"""The slopes of body and tails, against least squares; leaks and honest signals of the same RankIC told apart."""

import numpy as np
import pytest

from engine.audit.features.extreme_moves import CAP, KNEE, _slopes, extreme_moves, heavy_tails, standardised
from tests.audit.faults.features import _noise_and_next_return
from tests.audit.market import Style
from tests.audit.samples import sample

SIGNAL = Style(codes=150, days=500, alpha=0.12, persistence=0.0)


def test_slopes_are_those_of_least_squares(tmp_path):
    found = sample(tmp_path)
    x = standardised(np.where(found.scored, found.targets[1], np.nan))
    known = np.isfinite(x)
    body = np.clip(np.where(known, x, 0), -KNEE, KNEE)
    excess = np.clip(np.where(known, x, 0) - body, -CAP, CAP)
    columns, values = [], np.stack(list(found.on_days(np.arange(found.days))))
    for part in (body, excess):
        mean = np.where(known, part, 0).sum(1, keepdims=True) / np.maximum(known.sum(1, keepdims=True), 1)
        columns.append((part - mean)[known])
    slopes = _slopes(found, 1)
    for f in range(values.shape[2]):
        feature = np.where(found.scored, values[..., f], np.nan)
        mean, deviation = np.nanmean(feature, 1, keepdims=True), np.nanstd(feature, 1, keepdims=True)
        expected, *_ = np.linalg.lstsq(np.stack(columns, 1), ((feature - mean) / deviation)[known], rcond=None)
        assert slopes.body[f] == pytest.approx(expected[0], abs=1e-4)
        assert slopes.excess[f] == pytest.approx(expected[1], abs=1e-4)


def test_a_leak_is_told_from_a_signal_that_is_as_strong(tmp_path):
    leak = sample(
        tmp_path / "a", style=SIGNAL, plant=lambda m: _noise_and_next_return(m, 0.12, np.random.default_rng(0))
    )
    found = extreme_moves(leak)
    assert found.verdict in ("warned", "failed")
    assert [line.split()[0] for line in found.concerned] == ["news"]  # and not `alpha`, whose RankIC is larger


def test_thin_tails_cannot_tell():
    rng = np.random.default_rng(0)
    assert not heavy_tails(rng.normal(size=(300, 300)).astype(np.float32))
    assert heavy_tails(rng.standard_t(4, (300, 300)).astype(np.float32))


def test_clean_passes_and_thin_tails_are_skipped(tmp_path):
    assert extreme_moves(sample(tmp_path / "a")).verdict == "passed"
    assert extreme_moves(sample(tmp_path / "b", style=Style(codes=80, days=400, tails=50))).verdict == "skipped"
