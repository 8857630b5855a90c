"""The universe: its return, moves after changes, and its membership, against computations of their own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from engine.audit.finding import Finding
from engine.audit.population.membership import _rule, membership
from engine.audit.population.moves import moves
from engine.audit.population.universe_return import universe_return
from engine.audit.sample import sample_of
from loaders.cache.build import build
from loaders.cache.sources.frames import Frame
from loaders.panel import open_panel
from tests.audit.faults import population as planted
from tests.audit.market import PLAIN, Market, clean_market, write_market

STYLE = replace(PLAIN, codes=100, days=400)


@pytest.fixture(scope="module")
def market() -> Market:
    return clean_market(3, STYLE)


def said(check: object, market: Market, folder: Path) -> Finding:
    return check(sample_of(write_market(market, folder / "cache")))  # type: ignore[operator]


@pytest.mark.parametrize("check", [universe_return, moves, membership])
def test_a_clean_market_passes(check: object, market: Market, tmp_path: Path) -> None:
    found = said(check, market, tmp_path)
    assert found.verdict == "passed", found


def test_universe_return_is_the_mean_of_days(market: Market, tmp_path: Path) -> None:
    found = said(universe_return, market, tmp_path)
    inside, outside = [], []
    for t in range(400):
        label = market.labels[1][t]
        known = np.isfinite(label)
        mine, others = known & market.scored[t], known & market.listed[t] & ~market.scored[t]
        if mine.sum() >= 10:
            inside.append(np.clip(label[mine], -0.5, 0.5).mean())
            if others.sum() >= 10:
                outside.append(inside[-1] - np.clip(label[others], -0.5, 0.5).mean())
    assert f"makes {np.mean(inside) * 252:+.0%} a year" in found.figure
    assert f"{np.mean(outside) * 252:+.0%} more than" in found.figure


def test_a_universe_of_later_prices_is_told_by_both(market: Market, tmp_path: Path) -> None:
    later = planted.later_price(market, 60, np.random.default_rng(0))
    sample = sample_of(write_market(later, tmp_path / "cache"))
    assert universe_return(sample).verdict in ("warned", "failed")
    assert membership(sample).verdict == "failed"


@pytest.mark.parametrize("plant", [planted.later_liquidity, planted.current_members])
def test_a_universe_of_later_liquidity_fails(plant: object, market: Market, tmp_path: Path) -> None:
    dose = 20 if plant is planted.later_liquidity else 100
    found = said(membership, plant(market, dose, np.random.default_rng(0)), tmp_path)  # type: ignore[operator]
    assert found.verdict == "failed", found


def test_a_threshold_has_the_fewest_errors() -> None:
    rng = np.random.default_rng(1)
    value, flag = rng.integers(0, 12, 60).astype(float), rng.random(60) < 0.5
    errors = [((value > cut) != flag).mean() for cut in (*np.unique(value), -1)]
    found = _rule("", value, flag)
    assert found.error == pytest.approx(min(errors))
    assert found.wrong.mean() == pytest.approx(min(errors))


def test_limits_of_recipe_ohlcv_are_applied_again(market: Market, tmp_path: Path) -> None:
    day, code = np.nonzero(market.listed)
    columns = {name: each[day, code] for name, each in market.bars.items()}
    frame = pl.DataFrame({"date": market.calendar[day], "code": np.array(market.codes)[code]} | columns)
    settings = {"code": "code", "min_price": 8.0, "min_dollar_volume": 1e6, "dtype": "float32"}
    build("ohlcv", [Frame("bars", frame.lazy())], tmp_path / "cache", settings)
    panel = open_panel(tmp_path / "cache")
    assert membership(sample_of(panel)).verdict == "passed"
    presence = panel.presence.copy()
    row = int(panel.offset[5] + 100)
    presence[row] = 3 - presence[row]
    object.__setattr__(panel, "presence", presence)  # as if the file had it
    found = membership(sample_of(panel))
    assert found.verdict == "failed"
    assert found.concerned == (panel.manifest.codes[5],)


def test_moves_are_those_of_codes_after_their_event(market: Market, tmp_path: Path) -> None:
    fallen = planted.dropped_before_falls(market, 0.6, np.random.default_rng(0))
    found = said(moves, fallen, tmp_path)
    assert found.verdict in ("warned", "failed"), found
    returns = np.log1p(np.clip(fallen.returns[1:], -2 / 3, 2))
    apart = returns - np.nanmean(returns, 1, keepdims=True)
    days = int(found.figure.split(" a day in ")[1].split()[0])
    after = [
        apart[t - 1, s]
        for t in range(1, 400)
        for s in range(apart.shape[1])
        if np.isfinite(apart[t - 1, s])
        and any(
            fallen.scored[u - 1, s] and not fallen.scored[u, s] and fallen.listed[u, s]
            for u in range(max(t - days, 1), t)
        )
    ]
    assert found.figure.startswith(f"{np.mean(after):+.2%} a day in")


def test_codes_that_rose_before_they_came(market: Market, tmp_path: Path) -> None:
    style = replace(PLAIN, codes=200, days=500)
    rose = planted.entered_before_rises(clean_market(4, style), 1.0, np.random.default_rng(0))
    assert said(moves, rose, tmp_path).verdict in ("warned", "failed")
