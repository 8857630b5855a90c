"""Clipped labels, counted by hand; targets that share their extremes for good reasons."""

import numpy as np
import pytest

from engine.audit.labels.clipping import clipping
from tests.audit.faults.labels import _clipped
from tests.audit.samples import sample


def test_clipped_labels_are_counted(tmp_path):
    found = sample(tmp_path, plant=lambda m: _clipped(m, 0.002, np.random.default_rng(0)))
    label = np.where(found.scored, found.targets[1], np.nan)
    at = int((label == np.nanmax(label)).sum())
    line = clipping(found)
    assert line.verdict == "warned"
    assert line.figure.startswith(f"h=1: {at:,} at the largest")


def _ranks(y):
    known = np.isfinite(y)
    order = np.where(known, y, np.inf).argsort(1).argsort(1)
    return np.where(known, order / np.maximum(known.sum(1, keepdims=True) - 1, 1), np.nan)


@pytest.mark.parametrize("make", [np.copy, _ranks, lambda y: np.sign(y), lambda y: np.round(20 * y) / 20])
def test_returns_ranks_and_classes_pass(tmp_path, make):
    found = sample(tmp_path, plant=lambda m: m.with_labels({h: make(y) for h, y in m.labels.items()}))
    assert clipping(found).verdict == "passed"
