"""Features as ranks on some days, against scipy's."""

import numpy as np
from scipy.stats import rankdata

from engine.audit.features.days import features_on, spread_days
from tests.audit.market import Style
from tests.audit.samples import sample


def test_raw_features_are_ranked_within_the_universe(tmp_path):
    found = sample(tmp_path, style=Style(codes=60, days=300, transform="none"))
    days = np.array([120, 200])
    for t, (values, here), raw in zip(days, features_on(found, days), found.on_days(days), strict=True):
        assert (here == found.scored[t]).all()
        order = rankdata(raw[here], axis=0)
        expected = (order - order.mean(0)) / order.std(0)
        np.testing.assert_allclose(values[here], expected, atol=1e-5)
        assert (values[~here] == 0).all()


def test_days_are_spread_over_the_calendar(tmp_path):
    found = sample(tmp_path)
    assert len(spread_days(found)) == found.days
    few = spread_days(found, 100 * len(found.codes))
    assert len(few) == 100
    assert few[0] == 0
    assert few[-1] == found.days - 1
