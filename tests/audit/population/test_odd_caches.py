"""No check of who is there, or of copies, raises on a cache that is valid and odd."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from engine.audit.checks import COPIES, POPULATION
from engine.audit.sample import sample_of
from engine.audit.truncation.rebuild import rebuilt
from engine.audit.truncation.vintage import compare_vintages
from loaders.cache.build import build
from loaders.cache.sources.frames import Frame
from loaders.panel import Panel, open_panel
from tests.audit.market import Style, clean_market, write_market
from tests.panels import rewritten, write_panel

TINY = Style(codes=30, days=90)


def shards(folder: Path) -> Panel:
    whole = clean_market(1, TINY)
    for i, codes in enumerate((np.arange(10), np.arange(10, 30))):
        panel = write_market(whole.of_codes(codes), folder / f"made-{i}")
        rewritten(panel, folder / "shards" / f"shard-{i}", {"built_from": None})
        shutil.rmtree(folder / f"made-{i}")
    return open_panel(folder / "shards")


def one_code(folder: Path) -> Panel:
    return write_market(clean_market(2, TINY).of_codes(np.array([0])), folder / "cache")


def two_days(folder: Path) -> Panel:
    return write_panel(folder / "cache", n_codes=30, n_days=2, horizons=(1,))


def no_horizons(folder: Path) -> Panel:
    days = np.arange("2010-01-01", "2010-04-01", dtype="datetime64[D]")
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {"date": np.repeat(days, 20), "code": [f"C{s}" for _ in days for s in range(20)], "f": rng.normal(size=1800)}
    )
    build("columns", [Frame("rows", frame.lazy())], folder / "cache", {"features": ["f"], "targets": ["none"]})
    return open_panel(folder / "cache")


def no_labels(folder: Path) -> Panel:
    panel = write_market(clean_market(3, TINY), folder / "cache")
    return rewritten(panel, folder / "other", {"built_from": None}, targets=np.full_like(panel.targets, np.nan))


def no_prices(folder: Path) -> Panel:
    market = clean_market(4, TINY)
    bars = {name: np.where(np.isfinite(each), 0.0, np.nan) for name, each in market.bars.items()}
    return write_market(replace(market, bars=bars), folder / "cache")


def some_prices(folder: Path) -> Panel:
    market = clean_market(5, TINY)
    rng = np.random.default_rng(0)
    bars = {name: np.where(rng.random(each.shape) < 0.5, each, np.nan) for name, each in market.bars.items()}
    bars["close"] = np.where(market.listed, np.where(rng.random(market.listed.shape) < 0.1, -1, bars["close"]), np.nan)
    panel = write_market(market, folder / "whole")
    write = replace(market, bars=bars, scored=market.scored & np.isfinite(bars["close"]))
    assert panel.manifest.rows
    return write_market(write, folder / "cache")


def constant(folder: Path) -> Panel:
    market = clean_market(6, TINY)
    bars = {name: np.where(market.listed, 5.0, np.nan) for name in market.bars}
    return write_market(market.with_bars(**bars), folder / "cache")


def simulated(folder: Path) -> Panel:
    return write_panel(folder / "cache", n_codes=60, n_days=200, horizons=(5,))


ODD: list[Callable[[Path], Panel]] = [
    shards, one_code, two_days, no_horizons, no_labels, no_prices, some_prices, constant, simulated,
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_no_check_raises(odd: Callable[[Path], Panel], tmp_path: Path) -> None:
    panel = odd(tmp_path)
    for check in (*POPULATION, *COPIES):
        found = check(sample_of(panel))
        assert found.figure
        assert "nan" not in found.figure, found
    # Codes of the sample are not all codes.
    for check in (*POPULATION, *COPIES):
        assert check(sample_of(panel, most_cells=1)).figure
    assert compare_vintages(panel, panel).verdict in ("passed", "skipped")
    assert rebuilt(panel).verdict == "skipped"  # not of recipe ohlcv
