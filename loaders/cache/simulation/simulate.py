"""A market of any size whose attainable RankIC is known: a cache to train on where the right answer can be looked up.

Features are standard normal. The first four, `ret_1`, `f1`, `f2` and `f3`, carry the signal (see `planted`); of the
others odd ones are independent from day to day and even ones drift slowly, and none says anything. Returns are

    market loading x market  +  RETURN_SD (a signal of the day before  +  b own surprise)

and a target is exp(sum of h log returns) - 1. One code in five is listed late, one in seven delisted early, spans have
gaps, and codes of small simulated size are context. The oracle is the conditional expectation of the targets given
all features up to the day; its RankIC is measured on this very panel, and kept in the manifest.

S codes, T days, F features, H horizons, K ingredients
"""

import math
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loaders.cache.atomic import atomic_folder
from loaders.cache.columns import NewColumns, create_columns
from loaders.cache.format import ABSENT, write_manifest
from loaders.cache.manifest.model import Dtype, Manifest
from loaders.cache.simulation import market, planted
from loaders.errors import InputError, WriteError
from loaders.progress import Progress, counted, part_of, quiet

Int = npt.NDArray[np.int64]

FIRST_DAY = "2000-01-03"
LATE, EARLY = 0.2, 0.15  # shares of codes listed after the first day, and delisted before the last
MOST_OF_DISK = 0.95  # that is free, which a panel may take
SIZES = {"codes": (20, 1_000_000), "days": (60, 100_000), "features": (4, 100_000), "seed": (0, 2**63 - 1)}
UNEVEN = 0.45  # of the calendar, at either end, in which listings and delistings happen
SLOW = 0.95  # persistence of the even features that carry no signal


@dataclass(frozen=True)
class _Spans:
    first: Int  # [S] calendar day of each code's first row
    days: Int  # [S]

    @property
    def offset(self) -> Int:
        """[S] row of each code's first day."""
        return np.cumsum(self.days) - self.days


def simulate(
    out: Path,
    codes: int,
    days: int,
    features: int,
    ic: float,
    seed: int,
    horizons: list[int],
    dtype: Dtype,
    on_progress: Callable[[str], None] = lambda line: None,
    progress: Progress = quiet,
) -> Manifest:
    """Write a simulated cache into `out` and return its manifest.

    Args:
        codes, days, features: size of the panel; days are calendar days, late and delisted codes have fewer.
        ic: RankIC that the best possible forecast of the first horizon is expected to reach.
        seed: 0 or more; every value is a function of it.
        horizons: days ahead, ascending.
        dtype: of the stored features, "float16" or "float32".
        on_progress: receives lines to show.
        progress: of the whole.

    `manifest.simulation["oracle_rank_ic"]` holds, by horizon, the mean daily RankIC of the best possible forecast on
    the scored rows of the whole panel, and `["oracle_daily_rank_ic"]` that of every day, for the mean over a part of
    the panel (null where a day has fewer than 20 samples). Raises InputError for settings out of
    range, an `out` that cannot be written and a disk that fills up.
    """
    _check(codes, days, features, ic, seed, horizons, dtype)
    scale = planted.scale_for(ic, horizons[0])
    if math.isnan(scale):
        most = planted.expected_rank_ic(horizons[0], planted.LARGEST_SCALE)
        what = f"ic is {ic}, at a first horizon of {horizons[0]} days at most {most:.2f} can be reached"
        raise InputError("--ic", what, "Lower it, or begin with a shorter horizon")
    keys = market.stream_keys(seed)
    spans = _spans(keys, codes, days)
    rows = int(spans.days.sum())
    gigabytes = rows * (features * np.dtype(dtype).itemsize + 4 * len(horizons) + 1) / 1e9
    on_progress(f"simulating {codes:,} codes x {days:,} days x {features} features, {gigabytes:.2f} GB")
    with atomic_folder(out) as folder:
        free = shutil.disk_usage(folder).free / 1e9
        if gigabytes > MOST_OF_DISK * free:
            what = f"{gigabytes:,.1f} GB to write and {free:,.1f} GB free"
            raise WriteError(str(out.parent), what, "Pass an --out on another disk, or simulate fewer rows")
        columns = create_columns(folder, spans.days, features, len(horizons), dtype)
        forecasts = _fill(columns, spans, days, keys, scale, horizons, part_of(progress, 0, 0.7))
        daily = _oracle(columns, spans, days, forecasts, part_of(progress, 0.7, 0.9))
        simulation = _simulation(daily, horizons, ic, scale)
        manifest = Manifest(
            features=[*planted.PLANTED, *(f"f{i}" for i in range(4, features))],
            horizons=horizons,
            dtype=dtype,
            calendar=[str(day) for day in np.busday_offset(FIRST_DAY, np.arange(days), "forward")],
            codes=[f"S{i:0{len(str(codes - 1))}d}" for i in range(codes)],
            first=spans.first.tolist(),
            days=spans.days.tolist(),
            rows=rows,
            counts=_counts(columns, spans, days),
            recipe={
                "name": "simulate", "codes": codes, "days": days, "features": features, "ic": ic, "seed": seed,
                "horizons": horizons, "dtype": dtype,
            },
            normalisation="none: every feature is drawn from the standard normal distribution",
            targets=[f"return over {h} days" for h in horizons],
            simulation=simulation,
            batches=columns.batches,
        )  # fmt: skip
        write_manifest(folder, manifest, part_of(progress, 0.9, 1))
    for h in horizons:
        best, expected = simulation["oracle_rank_ic"][str(h)], simulation["expected_rank_ic"][str(h)]
        found = "undefined, no day has 20 samples" if best is None else f"{best:.4f}"
        on_progress(f"oracle RankIC at {h} d: {found} (expected {expected:.4f})")
    return manifest


def _check(codes: int, days: int, features: int, ic: float, seed: int, horizons: list[int], dtype: str) -> None:
    for name, value in (("codes", codes), ("days", days), ("features", features), ("seed", seed)):
        least, most = SIZES[name]
        if not least <= value <= most:
            raise InputError(f"--{name}", f"{name} is {value}, not {least} to {most:,}", "Pass another number")
    if not 0 < ic < 0.5:
        raise InputError("--ic", f"ic is {ic}, not between 0 and 0.5", "Pass for example --ic 0.05")
    if not horizons or min(horizons) < 1 or sorted(set(horizons)) != horizons:
        raise InputError("--horizons", f"{horizons} is not ascending, distinct and 1 or more", "Write for example 1,5")
    if horizons[-1] * 4 >= days:
        what = f"horizon {horizons[-1]} is not below a quarter of the {days} days"
        raise InputError("--horizons", what, "Shorten it, or simulate more days")
    if dtype not in ("float16", "float32"):
        raise InputError("--dtype", f"dtype is {dtype!r}", "Use float16 or float32")


def _spans(keys: npt.NDArray[np.uint64], codes: int, days: int) -> _Spans:
    """Where each code's life begins and ends; both uniform in their part of the calendar."""
    listing = market.uniforms(keys[market.LISTING], codes) / LATE
    delisting = market.uniforms(keys[market.DELISTING], codes) / EARLY
    uneven = int(UNEVEN * days)
    first = np.where(listing < 1, 1 + (listing * uneven).astype(np.int64), 0)
    stop = np.where(delisting < 1, days - 1 - (delisting * uneven).astype(np.int64), days)
    return _Spans(first, stop - first)


def _fill(
    columns: NewColumns,
    spans: _Spans,
    days: int,
    keys: npt.NDArray[np.uint64],
    scale: float,
    horizons: list[int],
    progress: Progress,
) -> npt.NDArray[np.float32]:
    """Fill the columns, code by code on all cores, and return the oracle's forecasts, float32 [rows, H]."""
    n_codes, features = len(spans.first), columns.features.shape[1]
    persistence = np.array([SLOW if i % 2 == 0 else 0.0 for i in range(features)])
    persistence[: len(planted.PLANTED)] = 0, planted.PERSISTENCE, planted.PERSISTENCE, 0
    coefficients = np.stack([planted.forecast(h) for h in (1, *horizons)])
    returns = market.market_returns(keys[market.MARKET], days)
    level = market.normals(keys[market.LEVEL], n_codes)
    beta = market.market_loadings(keys[market.BETA], n_codes)
    forecasts = np.empty(columns.targets.shape, np.float32)
    ahead = np.array(horizons, np.int64)

    def fill(code: int) -> None:
        own = slice(int(spans.offset[code]), int(spans.offset[code] + spans.days[code]))
        n = int(spans.days[code])
        x, presence, targets = np.empty((n, features), np.float32), np.empty(n, np.uint8), columns.targets[own]
        market.simulate_code(
            keys, code, spans.first[code], persistence, returns, level[code], beta[code], scale, coefficients, ahead,
            x, presence, targets, forecasts[own],
        )  # fmt: skip
        columns.features[own], columns.presence[own], columns.targets[own] = x, presence, targets

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(counted(pool.map(fill, range(n_codes)), n_codes, progress, "codes"))
    return forecasts


def _oracle(
    columns: NewColumns, spans: _Spans, days: int, forecasts: npt.NDArray[np.float32], progress: Progress
) -> planted.Float:
    """Daily RankIC of the forecasts [T, H], NaN on a day with too few samples."""

    presence, targets = columns.presence[:], columns.targets[:]

    def measure(day: int) -> Any:
        return market.day_rank_ic(day, spans.first, spans.days, spans.offset, presence, targets, forecasts)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.stack(list(counted(pool.map(measure, range(days)), days, progress, "the best forecast")))


def mean_of_days(daily: planted.Float) -> float | None:
    """Mean over the days [T] that have a RankIC, None without any."""
    return float(np.nanmean(daily)) if np.isfinite(daily).any() else None


def _counts(columns: NewColumns, spans: _Spans, days: int) -> dict[str, int]:
    presence = columns.presence[:]
    absent, context, scored = (int(n) for n in np.bincount(presence, minlength=3))
    return {
        "absent": absent,
        "context": context,
        "scored": scored,
        "late_listings": int((spans.first > 0).sum()),
        "delistings": int((spans.first + spans.days < days).sum()),
        "gaps": int(((presence[1:] == ABSENT) & (presence[:-1] != ABSENT)).sum()),
    }


def _simulation(daily: planted.Float, horizons: list[int], ic: float, scale: float) -> dict[str, Any]:
    expected = {h: planted.expected_rank_ic(h, scale) for h in horizons}
    linear = {h: planted.expected_rank_ic(h, scale, linear_only=True) for h in horizons}
    return {
        "oracle_rank_ic": {str(h): mean_of_days(column) for h, column in zip(horizons, daily.T, strict=True)},
        "oracle_daily_rank_ic": {
            str(h): [None if math.isnan(value) else value for value in column.tolist()]
            for h, column in zip(horizons, daily.T, strict=True)
        },
        "expected_rank_ic": {str(h): expected[h] for h in horizons},
        "expected_linear_share": {str(h): linear[h] / expected[h] for h in horizons},
        "ic": ic,
        "scale": scale,
        "coefficients": {
            str(h): dict(zip(planted.INGREDIENTS, planted.forecast(h).tolist(), strict=True)) for h in horizons
        },
    }
