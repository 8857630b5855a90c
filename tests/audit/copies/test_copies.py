"""Repeated paths, days and prices, splits and ticks: each against a search by hand, and planted."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.audit.copies.bad_ticks import bad_ticks
from engine.audit.copies.every_code import every_code, robust_scale
from engine.audit.copies.mirrored_splits import mirrored_splits
from engine.audit.copies.repeated_days import repeated_days
from engine.audit.copies.same_paths import _alike, _equal_pairs, same_paths
from engine.audit.copies.stale_prices import _longest_run, stale_prices
from engine.audit.finding import Finding
from engine.audit.sample import CacheSample, sample_of
from tests.audit.faults import copies as planted
from tests.audit.market import PLAIN, Market, clean_market, write_market

STYLE = replace(PLAIN, codes=80, days=400)
Check = Callable[[CacheSample], Finding]


@pytest.fixture(scope="module")
def market() -> Market:
    return clean_market(5, STYLE)


@pytest.fixture(scope="module")
def clean(market: Market, tmp_path_factory: pytest.TempPathFactory) -> CacheSample:
    return sample_of(write_market(market, tmp_path_factory.mktemp("clean") / "cache"))


@pytest.mark.parametrize("check", [same_paths, repeated_days, stale_prices, mirrored_splits, bad_ticks])
def test_a_clean_market_passes(check: Check, clean: CacheSample) -> None:
    found = check(clean)
    assert found.verdict == "passed", found


@pytest.mark.parametrize(
    ("check", "plant", "dose"),
    [
        (same_paths, planted.two_codes, 60),
        (same_paths, planted.share_classes, 0.02),
        (repeated_days, planted.repeated, 0.5),
        (stale_prices, planted.carried_forward, 40),
        (mirrored_splits, planted.split, 6),
        (bad_ticks, planted.ticks, 20.0),
    ],
)
def test_a_planted_fault_is_found(
    check: Check, plant: Callable[..., Market], dose: float, market: Market, tmp_path: Path
) -> None:
    found = check(sample_of(write_market(plant(market, dose, np.random.default_rng(0)), tmp_path / "cache")))
    assert found.verdict in ("warned", "failed"), found
    assert found.concerned


def test_codes_beyond_the_sample_are_looked_at(market: Market, tmp_path: Path) -> None:
    close = market.bars["close"].copy()
    s = next(s for s in range(1, 80, 2) if market.listed[:, s].all())
    close[200, s] *= 30
    panel = write_market(market.with_bars(close=close), tmp_path / "cache")
    sample = sample_of(panel, most_cells=1)
    assert len(sample.codes) < len(panel.manifest.codes)
    assert [code for part in every_code(sample) for code in part.names] == panel.manifest.codes
    found = bad_ticks(sample)
    assert found.concerned == (f"{market.codes[s]} on {panel.calendar[200]} (x{close[200, s] / close[199, s]:.3g})",)


def test_pairs_with_one_label() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(-3, 9, (40, 12)).astype(np.float32)
    labels[rng.random(labels.shape) < 0.2] = np.nan
    expected = []
    for day in labels:
        for i in range(12):
            for j in range(i + 1, 12):
                if day[i] == day[j] != 0 and (day == day[i]).sum() <= 4:
                    expected.append(i * 12 + j)
    assert sorted(_equal_pairs(labels).tolist()) == sorted(expected)


def test_correlations_are_those_of_pairs() -> None:
    rng = np.random.default_rng(1)
    labels = (0.01 * rng.normal(size=(60, 30))).astype(np.float32)
    labels[:, 7] = labels[:, 3] * 1.1 + 1e-4 * rng.normal(size=60)
    labels[:, 20] = labels[:, 15] + 0.002 * rng.normal(size=60)  # not near enough
    labels[5:9, 7] = np.nan
    found = dict(_alike(labels))
    assert list(found) == [3 * 30 + 7]
    here = np.isfinite(labels[:, 7])
    assert found[97] == pytest.approx(np.corrcoef(labels[here, 3], labels[here, 7])[0, 1], abs=2e-3)


def test_runs_and_scales() -> None:
    assert _longest_run(np.array([1.0, 2, 2, 2, 3, 3])) == (1, 4)
    assert _longest_run(np.array([])) == (0, 0)
    moves = np.random.default_rng(2).normal(0, 0.02, (2001, 3))
    moves[::7, 1] = np.nan
    assert robust_scale(moves, 0.0) == pytest.approx(1.4826 * np.nanmedian(np.abs(moves), 0), rel=0.01)
    assert robust_scale(moves, 0.5).tolist() == [0.5] * 3


def test_news_that_halves_a_price_is_no_split(market: Market, tmp_path: Path) -> None:
    bars = {name: each.copy() for name, each in market.bars.items()}
    s = int(np.flatnonzero(market.listed.all(0) & market.scored.all(0))[0])
    for name in planted.PRICES:
        bars[name][200:, s] /= 2
    bars["low"][200, s] *= 0.7
    bars["volume"][200, s] *= 30
    found = mirrored_splits(sample_of(write_market(market.with_bars(**bars), tmp_path / "cache")))
    assert found.verdict == "passed", found


def test_ticks_of_an_illiquid_code_are_its_own_noise(market: Market, tmp_path: Path) -> None:
    close = market.bars["close"].copy()
    s = int(np.flatnonzero(market.listed.all(0))[0])
    close[::2, s] *= 1.2  # a price at the bid one day and at the offer the next
    found = bad_ticks(sample_of(write_market(market.with_bars(close=close), tmp_path / "cache")))
    assert found.verdict == "passed", found
