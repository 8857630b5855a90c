"""Faults of scores: in a clean market, honest scores of its features, and then something that no model could know."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from engine.audit.audit import audit_scores
from engine.audit.finding import Finding
from engine.score.files import Scores, write_scores
from engine.score.standard_error import mean_test
from loaders.cache.format import ABSENT
from loaders.panel import Panel
from tests.audit.faults.fault import Dose, Fault
from tests.audit.market import PLAIN, Array, Market, Style, clean_market, write_market

# What is planted gives the market, and scores [T, S] of it.
Plant = Callable[[Market, float, np.random.Generator], tuple[Market, Array]]
HONEST: tuple[Callable[[Market, np.random.Generator], Array], ...] = (
    lambda m, rng: ranked(m.features["alpha"]),
    lambda m, rng: mixed(m),
    lambda m, rng: mixed(m) + 0.5 * rng.normal(size=m.listed.shape),
    lambda m, rng: ranked(m.features["alpha"]) * (1 + 0.3 * ranked(m.features["vol_20"])) - 0.3 * ranked(m.returns),
)


def ranked(values: Array) -> Array:
    """Ranks within the day, of mean 0 and deviation 1; 0 where there is no value."""
    order = rankdata(values, axis=1, nan_policy="omit")
    count = np.isfinite(values).sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(((order - 0.5) / count - 0.5) * np.sqrt(12))


def mixed(market: Market) -> Array:
    """Honest scores of several features, the day's return and a product of two among them."""
    of = {name: ranked(values) for name, values in market.features.items()}
    return of["alpha"] + 0.4 * of["value"] - 0.2 * of["ret_1"] + 0.2 * of["alpha"] * of["size"] + 0.2 * of["vol_20"]


def honest(market: Market, seed: int) -> Array:
    """Scores [T, S] without a fault, of one of several kinds."""
    return HONEST[seed % len(HONEST)](market, np.random.default_rng([seed, 2]))


def audit_of(folder: Path, market: Market, scores: Array, metadata: Mapping[str, str] | None = None) -> list[Finding]:
    """What the audit says of scores of a market, as a file."""
    folder.mkdir(exist_ok=True)
    panel = write_market(market, folder / "cache")
    path = score_file(panel, folder / "scores.parquet", market, scores, metadata)
    return list(audit_scores(panel, path))


def score_file(
    panel: Panel, path: Path, market: Market, scores: Array, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write scores [T, S] of a market, those of rows that the panel has."""
    place = {code: s for s, code in enumerate(market.codes)}
    rows = np.flatnonzero(panel.presence[:] != ABSENT)
    code = panel.code_of(rows)
    day = rows - panel.offset[code] + panel.first[code]
    names = np.array(panel.manifest.codes)[code]
    values = scores[day, np.array([place[name] for name in names])].astype(np.float32)
    known = np.isfinite(values)
    columns = {h: values[known] for h in panel.manifest.horizons}
    about = {"split": "test"} | dict(metadata or {})
    write_scores(path, Scores(panel.calendar[day[known]], names[known], columns, about))
    return path


def in_scores(name: str, by: tuple[str, ...], doses: Mapping[Dose, float], plant: Plant, style: Style = PLAIN) -> Fault:
    """A fault of scores that are given as a file."""

    def audit(folder: Path, dose: float, seed: int) -> list[Finding]:
        market, scores = plant(clean_market(seed, style), dose, np.random.default_rng([seed, 1]))
        return audit_of(folder, market, scores)

    return Fault(name, by, doses, audit)


def _next(values: Array, days: int = 1) -> Array:
    return np.vstack([values[days:], np.zeros((days, values.shape[1]))])


def _knows_return(market: Market, dose: float, rng: np.random.Generator) -> tuple[Market, Array]:
    return market, _unit(mixed(market)) + dose * ranked(_next(market.returns))


def _shifted(market: Market, dose: float, rng: np.random.Generator) -> tuple[Market, Array]:
    """A share of the scores is of the next day's features."""
    scores = _unit(mixed(market))
    return market, (1 - dose) * scores + dose * _next(scores)


def _centred(market: Market, dose: float, rng: np.random.Generator) -> tuple[Market, Array]:
    """Scores that are smoothed over days to come, too."""
    scores = _unit(mixed(market))
    return market, scores + dose * sum(_next(scores, k) for k in (1, 2))


def _static(market: Market, dose: float, rng: np.random.Generator) -> tuple[Market, Array]:
    """Returns of codes that differ by a constant, dose times a day's deviation, and random scores that never change: of
    many draws, the first whose t over days is significant.
    """
    returns = market.returns
    drift = dose * np.sqrt(np.nan_to_num(returns**2).mean(0)) * rng.normal(size=returns.shape[1])
    factor = np.exp(drift * np.arange(len(returns))[:, None])
    market = market.with_bars(**{name: market.bars[name] * factor for name in ("open", "high", "low", "close")})
    market = market.with_bars(volume=market.bars["volume"] / factor)
    labels = ranked(np.where(market.scored, market.labels[1], np.nan))
    for _ in range(500):
        drawn = rng.normal(size=returns.shape[1])
        if mean_test((drawn * labels)[:-1].mean(1), 1).t > 1.8:  # quicker than by ranks
            order = ranked(np.where(market.scored, drawn, np.nan))
            if mean_test((order * labels)[:-1].mean(1), 1).t > 2.2:
                break
    return market, np.tile(drawn, (len(returns), 1))


def _one_day(market: Market, dose: float, rng: np.random.Generator) -> tuple[Market, Array]:
    """Noise, but for a share of the days on which scores know the next return."""
    scores = rng.normal(size=market.listed.shape)
    days = rng.choice(len(scores) - 2, max(int(dose * len(scores)), 1), replace=False)
    scores[days] = ranked(_next(market.returns))[days]
    return market, scores


def _bad_tick(market: Market, dose: float, rng: np.random.Generator) -> tuple[Market, Array]:
    """Prices that are off by a factor for one day in a few codes; scores of the reversal gain from it."""
    close = market.bars["close"].copy()
    here = np.argwhere(market.scored)
    for t, s in here[rng.choice(len(here), 3, replace=False)]:
        close[t, s] /= dose
    market = market.with_bars(close=close)
    return market, 0.3 * _unit(mixed(market)) - ranked(market.returns)


def _one_code(market: Market, dose: float, rng: np.random.Generator) -> tuple[Market, Array]:
    """One code's labels are too high, as after a wrong split, and its scores are the highest."""
    often = market.scored.sum(0)
    best = int(rng.choice(np.flatnonzero(often >= np.quantile(often, 0.8))))
    labels = {h: each.copy() for h, each in market.labels.items()}
    for h, each in labels.items():
        each[:, best] += dose * h
    scores = rng.normal(size=market.listed.shape) + 0.15 * ranked(market.features["alpha"])
    scores[:, best] = 10
    return market.with_labels(labels), scores


def _illiquid(market: Market, dose: float, rng: np.random.Generator) -> tuple[Market, Array]:
    """Scores know something of the least liquid fifth alone, whose closes bounce."""
    size = np.where(market.scored, market.features["size"], np.nan)
    least = ranked(size) < -0.6 * np.sqrt(3)
    known = dose * ranked(_next(market.features["ret_1"])) + ranked(market.features["fast"])
    return market, np.where(least & market.scored, known, rng.normal(size=least.shape))


def _bounce(market: Market, dose: float, rng: np.random.Generator) -> tuple[Market, Array]:
    """Closes on the bid or on the ask; the score is in part the reversal of the day's return."""
    side = np.where(rng.random(market.listed.shape) < 0.5, -1.0, 1.0)
    market = market.with_bars(close=market.bars["close"] * (1 + dose * side))
    return market, _unit(mixed(market)) - 0.7 * ranked(market.returns)


def _overfit(market: Market, dose: float, rng: np.random.Generator) -> tuple[Market, Array]:
    """A file that does not say it: of the first half of its days the scores know a part of the label."""
    seen = np.arange(len(market.calendar))[:, None] < len(market.calendar) // 2
    return market, _unit(mixed(market)) * 0.5 + np.where(
        seen, dose * ranked(market.labels[1]), 0
    ) + rng.normal(size=market.listed.shape)  # fmt: skip


def _unit(scores: Array) -> Array:
    return ranked(scores)


def _says_so(folder: Path, dose: float, seed: int) -> list[Finding]:
    """Scores of a test of which a share of the days is from before the last validation day."""
    market = clean_market(seed)
    until = str(market.calendar[max(int(dose * len(market.calendar)), 1) - 1])
    return audit_of(folder, market, honest(market, seed), {"trained_until": until})


FAULTS_OF_SCORES: list[Fault] = [
    in_scores(
        "scores know the next return", ("foresight", "delay of entry"),
        {"strong": 0.1, "weak": 0.018, "borderline": 0.01}, _knows_return,
    ),
    in_scores(
        "scores are of the next day", ("foresight",), {"strong": 1.0, "weak": 0.1, "borderline": 0.03}, _shifted
    ),
    in_scores(
        "scores are smoothed over days to come", ("foresight",), {"strong": 1.0, "weak": 0.1, "borderline": 0.03},
        _centred,
    ),
    in_scores(
        "static random scores", ("scores of other codes",), {"strong": 0.1, "weak": 0.06, "borderline": 0.03}, _static,
    ),
    in_scores(
        "scores know the labels of few days", ("concentration",), {"strong": 0.02, "weak": 0.01, "borderline": 0.006},
        _one_day,
    ),
    in_scores(
        "bad ticks make the decile return", ("concentration",), {"strong": 200.0, "weak": 20.0, "borderline": 5.0},
        _bad_tick,
    ),
    in_scores(
        "one code makes the decile return", ("concentration",), {"strong": 0.2, "weak": 0.03, "borderline": 0.01},
        _one_code,
    ),
    in_scores(
        "scores live from the least liquid fifth", ("concentration",), {"strong": 1.0, "weak": 0.1, "borderline": 0.05},
        _illiquid,
    ),
    in_scores(
        "closes bounce", ("own close",), {"strong": 0.005, "weak": 0.0015, "borderline": 0.0007}, _bounce
    ),
    in_scores(
        "in-sample scores in a file", ("in sample",), {"strong": 0.3, "weak": 0.1, "borderline": 0.03}, _overfit
    ),
    Fault(
        "in-sample scores sold as a test", ("in sample",), {"strong": 0.9, "weak": 0.1, "borderline": 0.0}, _says_so
    ),
]  # fmt: skip
