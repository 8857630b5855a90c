"""Over how many days labels are."""

import numpy as np
import pytest

from engine.audit.labels.horizon import horizon
from tests.audit.faults.labels import _other_horizon
from tests.audit.market import Style
from tests.audit.samples import sample, with_manifest


@pytest.mark.parametrize("more", [1, 5])
def test_another_horizon_is_found_by_closes(tmp_path, more):
    found = horizon(sample(tmp_path, plant=lambda m: _other_horizon(m, more, np.random.default_rng(0))))
    assert found.verdict == "failed"
    assert found.concerned[0].startswith(f"h=5 is over {5 + more} days (1.000")


@pytest.mark.parametrize("more", [1, 5])
def test_another_horizon_is_found_by_autocorrelation(tmp_path, more):
    wrong = sample(tmp_path, plant=lambda m: _other_horizon(m, more, np.random.default_rng(0)))
    found = horizon(with_manifest(wrong, built_from=None))
    assert found.verdict == "warned"
    assert found.concerned[0].startswith("h=5 looks like")


@pytest.mark.parametrize(
    "style", [Style(80, 400), Style(80, 400, horizons=(1, 2, 5, 10, 20)), Style(80, 400, reversal=-0.1)]
)
def test_right_ones_pass(tmp_path, style):
    right = sample(tmp_path, style=style)
    assert horizon(right).verdict == "passed"
    assert horizon(with_manifest(right, built_from=None)).verdict == "passed"


def test_a_target_that_is_no_return_is_left_alone(tmp_path):
    def plant(market):
        return market.with_labels({5: np.where(market.listed, market.features["vol_20"], np.nan)})

    assert horizon(sample(tmp_path, plant=plant)).verdict == "skipped"
