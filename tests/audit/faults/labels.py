"""Labels that are not what they are called.

T days, S codes
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.audit.audit import audit_cache
from engine.audit.finding import Finding
from tests.audit.faults.fault import Dose, Fault, Plant, in_cache
from tests.audit.faults.features import earlier, over_life
from tests.audit.market import Array, Market, clean_market, forward_returns, write_market

START, HORIZON, COMPOUNDING = "labels: start", "labels: horizon", "labels: compounding"
CLIPPING, MEAN = "labels: clipping", "features: mean over whole lives"
OF_CODES: Mapping[Dose, float] = dict(strong=1.0, weak=0.1, borderline=0.02)  # share of them


def _of_some(right: Array, wrong: Array, share: float, rng: np.random.Generator) -> Array:
    """Labels [T, S] of which a share of the codes, and one at least, has wrong ones."""
    chosen = rng.random(right.shape[1]) < share
    chosen[rng.integers(len(chosen))] = True
    return np.where(chosen, wrong, right)


def _shifted(days: int, horizons: tuple[int, ...]) -> Plant:
    """Labels that begin some days late, or early where negative."""

    def plant(market: Market, share: float, rng: np.random.Generator) -> Market:
        found = dict(market.labels)
        for h in horizons:
            y = market.labels[h]
            wrong = earlier(y, days) if days > 0 else np.vstack([np.full((-days, y.shape[1]), np.nan), y[:days]])
            found[h] = _of_some(y, wrong, share, np.random.default_rng(rng.integers(2**31)))
        return market.with_labels(found)

    return plant


def _other_horizon(market: Market, days: float, rng: np.random.Generator) -> Market:
    # From one on: that many days more. Below: that share of the codes has one day more.
    longer = forward_returns(market.bars["close"], [5 + max(int(days), 1)])[5 + max(int(days), 1)]
    wrong = longer if days >= 1 else _of_some(market.labels[5], longer, days, rng)
    return market.with_labels(market.labels | {5: wrong})


def _next_open(market: Market, share: float, rng: np.random.Generator) -> Market:
    opened = earlier(market.bars["open"], 1)
    found = {
        h: _of_some(y, earlier(market.bars["close"], h) / opened - 1, share, rng) for h, y in market.labels.items()
    }
    return replace(market.with_labels(found), recipe={"entry": "close"})


def _dividends(market: Market, share: float, rng: np.random.Generator) -> Market:
    # y_5 has dividends of 1%, one a quarter, y_1 has none.
    paid = (rng.random(market.scored.shape) < 1 / 63) & (rng.random(market.scored.shape[1]) < max(share, 0.0))
    held = sum(earlier(np.where(paid, 0.01, 0.0), k) for k in range(1, 6))
    return market.with_labels(market.labels | {5: market.labels[5] + held})


def _clipped(market: Market, tail: float, rng: np.random.Generator) -> Market:
    found = {}
    for h, y in market.labels.items():
        low, high = np.quantile(y[np.isfinite(y)], [tail, 1 - tail])
        found[h] = np.clip(y, low, high)
    return market.with_labels(found)


def _less_life_mean(market: Market, share: float, rng: np.random.Generator) -> Market:
    return market.with_labels({h: y - share * over_life(y, "mean") for h, y in market.labels.items()})


def without_closes(name: str, by: tuple[str, ...], doses: Mapping[Dose, float], plant: Plant) -> Fault:
    """A fault of a cache that does not keep what it was built from."""

    def audit(folder: Path, dose: float, seed: int) -> list[Finding]:
        market = plant(clean_market(seed), dose, np.random.default_rng([seed, 1]))
        panel = write_market(market, folder / "cache")
        return list(audit_cache(replace(panel, manifest=panel.manifest.model_copy(update={"built_from": None}))))

    return Fault(name, by, doses, audit)


FAULTS_OF_LABELS: list[Fault] = [
    in_cache("labels a day late", (START,), OF_CODES, _shifted(1, (1, 5))),
    in_cache("labels a day early", (START, "features: lag profile"), OF_CODES, _shifted(-1, (1, 5))),
    in_cache("labels from the next open, called close", (START,), OF_CODES, _next_open),
    in_cache(
        "labels of another horizon", (HORIZON, COMPOUNDING), dict(strong=5, weak=1, borderline=0.1), _other_horizon,
    ),
    without_closes(
        "labels of another horizon, without closes", (HORIZON, COMPOUNDING), dict(strong=5, weak=1, borderline=0.1),
        _other_horizon,
    ),
    without_closes("y_5 a day late, without closes", (COMPOUNDING,), OF_CODES, _shifted(1, (5,))),
    in_cache("y_5 with dividends, y_1 without", (COMPOUNDING,), OF_CODES, _dividends),
    in_cache("labels clipped", (CLIPPING,), dict(strong=0.01, weak=0.001, borderline=0.0001), _clipped),
    in_cache("labels less their life's mean", (MEAN,), dict(strong=1.0, weak=0.85, borderline=0.6), _less_life_mean),
]  # fmt: skip
