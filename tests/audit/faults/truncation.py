"""Faults that a cache of an earlier date shows."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from engine.audit.finding import Finding
from engine.audit.truncation.rebuild import rebuilt
from engine.audit.truncation.vintage import compare_vintages
from loaders.cache.build import build
from loaders.panel import open_panel
from tests.audit.faults.fault import Audit, Fault
from tests.audit.faults.features_of import make
from tests.audit.market import Market, Style, clean_market, write_market

SMALL = Style(codes=40, days=260)
SCRIPT = Path(__file__).with_name("features_of.py")


def restated(folder: Path, share: float, seed: int) -> list[Finding]:
    """A share of the codes' `value` is restated after the cache was made, over a quarter."""
    market = clean_market(seed, SMALL)
    rng = np.random.default_rng([seed, 1])
    value = market.features["value"].copy()
    for s in rng.permutation(len(market.codes))[: max(round(share * len(market.codes)), 1)]:
        start = int(rng.integers(0, 120))
        value[start : start + 63, s] += rng.normal()
    then = write_market(market, folder / "then")
    return [compare_vintages(write_market(market.with_feature("value", value), folder / "now"), then)]


def backfilled(folder: Path, codes: float, seed: int) -> list[Finding]:
    """Some codes are added with their history, which an earlier cache does not have."""
    market = clean_market(seed, SMALL)
    before = _until(market.of_codes(np.arange(round(codes), len(market.codes))), 200)
    return [compare_vintages(write_market(market, folder / "now"), write_market(before, folder / "then"))]


def whole_sample(feature: str) -> Audit:
    """A command makes features of daily bars, one of which takes the whole sample's scale; the dose is its share."""

    def audit(folder: Path, dose: float, seed: int) -> list[Finding]:
        market = clean_market(seed, SMALL)
        day, code = np.nonzero(market.listed)
        bars, whole = folder / "bars.parquet", folder / "whole.parquet"
        columns = {"date": market.calendar[day], "code": np.array(market.codes)[code]}
        pl.DataFrame(columns | {"close": market.bars["close"][day, code]}).write_parquet(bars)
        make(bars, str(market.calendar[-1]), whole, feature, dose)
        settings = {"features": ["ret_5", feature], "targets": ["target_1"], "horizons": [1]}
        build("columns", [whole], folder / "cache", settings)
        command = f"{sys.executable} {SCRIPT} {bars} {{date}} {{path}} {feature} {dose}"
        return [rebuilt(open_panel(folder / "cache"), command, dates=2)]

    return audit


def _until(market: Market, days: int) -> Market:
    """The first days; labels whose ends are not known yet are dropped."""
    labels = {h: each[:days].copy() for h, each in market.labels.items()}
    for h, each in labels.items():
        each[days - h :] = np.nan
    return replace(
        market,
        calendar=market.calendar[:days],
        bars={name: each[:days] for name, each in market.bars.items()},
        features={name: each[:days] for name, each in market.features.items()},
        labels=labels,
        scored=market.scored[:days],
        filed=market.filed[:days],
    )


FAULTS_OF_TRUNCATION: list[Fault] = [
    Fault("values restated", ("vintage",), {"strong": 0.5, "weak": 0.1, "borderline": 0.0}, restated),
    Fault("codes backfilled", ("vintage",), {"strong": 10, "weak": 3, "borderline": 1}, backfilled),
    *(
        Fault(name, ("truncation",), {"strong": 1.0, "weak": 0.1, "borderline": 0.001}, whole_sample(feature))
        for name, feature in (
            ("rank over the whole sample", "whole_life"),
            ("mean of the whole life", "scaled"),
            ("feature of days ahead", "ahead"),
        )
    ),
]
