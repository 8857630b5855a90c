"""What the scores lean on: risk factors, and features that stand for size, liquidity, volatility and momentum.

N rows, K columns, H horizons, R risk factors, G days
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.model.features import categorical_features
from engine.reporting.content import Figure, Item, Missing, Section, horizon_name, label, numbers
from engine.reporting.style import bars, colour, sideways
from engine.reporting.subject import Subject
from engine.score.cross_section import MIN_SAMPLES, ranks_within_day
from engine.score.risk import MOST_DAYS, moments_of, risk_directions
from engine.score.standard_error import half_width, mean_test
from loaders.by_day import features_by_day
from loaders.cache.format import SCORED
from loaders.errors import InputError
from loaders.split import Days

Float = npt.NDArray[np.float64]

FACTORS = 5  # of scores that no run says more of
TITLE, SAYS = "Exposure", "How much of the scores is a bet on what many names have in common."
STYLES = (  # features of the recipe ohlcv, and what they stand for
    ("price", "log_close"),
    ("dollar volume", "dollar_20"),
    ("illiquidity", "illiquidity_20"),
    ("volatility", "vol_20"),
    ("market beta", "beta_60"),
    ("last day's return", "ret_1"),
    ("return of 20 days", "ret_20"),
    ("momentum", "momentum_250_20"),
)


def section(subject: Subject) -> Section:
    names = subject.panel.manifest.features
    styles = [(what, names.index(name)) for what, name in STYLES if name in names]
    directions, told = _directions(subject)
    items: list[Item] = []
    factors = np.flatnonzero(np.abs(directions).max(0) > 0) if directions is not None else np.empty(0, int)
    found = None
    if len(factors) or styles:
        of_factors = np.zeros((len(names), 0)) if directions is None else directions[:, factors]
        found = exposures(subject, of_factors, [column for _, column in styles])
        if not all(map(len, found.values())):
            why = f"no {subject.period} has {MIN_SAMPLES} names with a score"
            return Section(TITLE, SAYS, [Missing("Risk factors, size, liquidity, volatility", why)])
    if found is None or not len(factors):
        items.append(Missing("Risk factors", told if directions is None else "no combination of features explains more "
                             "of the returns' common moves than chance"))  # fmt: skip
    else:
        says = (
            f"Mean daily correlation of the scores with risk factors, the combinations of features whose payoff varies "
            f"most, with 95% intervals; {told}. Long bars are bets on a factor rather than on names.{subject.sampling}"
        )
        mine = {h: values[:, : len(factors)] for h, values in found.items()}
        items.append(_figure(subject, "Risk factors", says, [f"factor {i + 1}" for i in factors], mine))
    if found is None or not styles:
        known = ", ".join(name for _, name in STYLES)
        items.append(Missing("Size, liquidity, volatility", f"the cache has none of the features {known}"))
    else:
        says = (
            f"Mean daily rank correlation of the scores with what these features measure, with 95% intervals: to the "
            f"right the scores favour names that have much of it, to the left those that have little.{subject.sampling}"
        )
        mine = {h: values[:, len(factors) :] for h, values in found.items()}
        items.append(_figure(subject, "Size, liquidity, volatility", says, [what for what, _ in styles], mine))
    return Section(TITLE, SAYS, items)


def exposures(subject: Subject, directions: Float, columns: list[int]) -> dict[int, Float]:
    """Correlation of each day's ranked scores with factors and ranked features, by horizon: [G, R + K].

    Args:
        directions: [F, R] weights of features that are standardised within the day.
        columns: K places of features.

    Raises InputError where features hold values that are not finite.
    """
    panel, opened = subject.panel, subject.opened
    rows = opened.rows[panel.presence[opened.rows] == SCORED]
    code = panel.code_of(rows)
    day = rows - panel.offset[code] + panel.first[code]
    order = np.argsort(day, kind="stable")
    rows, day = rows[order], day[order]
    rows, day = (column[subject.sampled(day)] for column in (rows, day))
    scores = {h: ranks_within_day(opened.scores(rows, h), day) for h in subject.horizons}
    borders = np.append(np.flatnonzero(np.diff(day, prepend=-1)), len(day))
    found: dict[int, list[Float]] = {h: [] for h in subject.horizons}
    each = features_by_day(panel, rows, borders)
    for start, stop, features in zip(borders, borders[1:], each, strict=False):
        if stop - start < MIN_SAMPLES:
            continue
        x = features.astype(np.float64)
        if not np.isfinite(x).all():
            what = f"features of {panel.calendar[day[start]]} hold values that are not finite"
            raise InputError(str(panel.folder), what, "Build it from features that are numbers")
        one = np.zeros(len(x))
        ranks = [ranks_within_day(x[:, column], one) for column in columns]
        sides = _standardised(np.column_stack([_standardised(x) @ directions, *ranks]))
        for h in subject.horizons:
            mine = _standardised(scores[h][start:stop, None])
            found[h].append((sides.T @ mine)[:, 0] / len(x))
    return {h: np.array(values) for h, values in found.items()}


def _standardised(x: Float) -> Float:
    """Columns of mean 0 and deviation 1; 0 where they are constant."""
    x = x - x.mean(0)
    scale = np.sqrt((x * x).mean(0))
    return np.where(scale > 1e-9, x / np.where(scale > 1e-9, scale, 1), 0.0)


def _directions(subject: Subject) -> tuple[Float | None, str]:
    """Weights [F, R] of the risk factors and where they are from, or None and why there are none."""
    run = subject.run
    if run is not None and run.config.model.neutralize:
        share = run.config.model.neutralize
        where = f"those of the run, of whose exposure {share:.0%} is removed"
        return run.model.neutral.directions.cpu().numpy().astype(np.float64), where
    panel, before = subject.panel, Days(max(subject.days.start - MOST_DAYS, 0), subject.days.start)
    most = max(h + panel.manifest.known_after for h in panel.manifest.horizons)
    part = Days(before.start, max(before.stop - most, before.start))
    if subject.brief:
        return None, "left out of a brief report, since the scores have no factors of their own"
    if len(part) < MIN_SAMPLES:
        return None, f"too few {subject.period}s lie before the scores to find them"
    ids = [] if run is None else categorical_features(run.config, panel)
    where = f"found on the {len(part):,} {subject.period}s before the scores"
    return risk_directions(moments_of(panel, part), FACTORS, ids).astype(np.float64), where


def _figure(subject: Subject, title: str, says: str, names: list[str], found: dict[int, Any]) -> Figure:
    data = []
    for i, (h, values) in enumerate(found.items()):
        test = mean_test(values.T, h)
        error = [half_width(float(se), len(values), h) for se in np.atleast_1d(test.se)]
        data.append(
            bars(
                numbers(values.mean(0)), [label(name) for name in names],
                f"score for {horizon_name(h, subject.period)}", colour(i), orientation="h",
                hovertemplate="%{y}: %{x:.3f}",
                error_x={"type": "data", "array": numbers(error), "thickness": 1, "width": 3},
            )
        )  # fmt: skip
    place = sideways("correlation", ".2f")
    return Figure(title, says, data, place, height=150 + 30 * len(names), half=True)
