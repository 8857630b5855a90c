"""Exits a year against counts by hand and Poisson's distribution of scipy."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import poisson

from engine.audit.population.exits import exits, poisson_at_most
from engine.audit.sample import sample_of
from tests.audit.faults.population import survivors_only
from tests.audit.market import PLAIN, clean_market, write_market

STYLE = replace(PLAIN, codes=200, days=756)


@pytest.mark.parametrize(("count", "mean"), [(0, 0.5), (3, 7.6), (40, 30.0), (10, 200.0)])
def test_poisson(count: int, mean: float) -> None:
    assert poisson_at_most(count, mean) == pytest.approx(poisson.cdf(count, mean), rel=1e-9)


def test_a_market_passes_and_its_survivors_do_not(tmp_path: Path) -> None:
    market = clean_market(0, STYLE)
    panel = write_market(market, tmp_path / "clean")
    found = exits(sample_of(panel))
    scored = [s for s in range(200) if market.scored[:, s].any()]
    gone = sum(not market.listed[-20:, s].any() for s in scored)
    years = sum(market.listed[:-20, s].sum() for s in scored) * 756 / 755 * float(
        (panel.calendar[-1] - panel.calendar[0]).astype(int)
    ) / 365.25 / 756  # fmt: skip
    assert found.verdict == "passed"
    assert found.figure.startswith(f"{gone} of ")
    assert f"{years:,.0f} years of codes, {gone / years:.2%} a year" in found.figure
    alive = write_market(survivors_only(market, 1.0, np.random.default_rng(0)), tmp_path / "alive")
    assert exits(sample_of(alive)).verdict in ("warned", "failed")


def test_few_years_are_skipped(tmp_path: Path) -> None:
    panel = write_market(clean_market(0, replace(PLAIN, codes=20, days=200)), tmp_path / "cache")
    assert exits(sample_of(panel)).verdict == "skipped"
