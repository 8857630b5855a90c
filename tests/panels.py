"""Small caches for tests, written directly in the cache format: every oddity on purpose, a signal of known make.

Targets are `signal * mean(features) + noise`, in units of a daily return of 2%, and the same features drive every
horizon. With `signal=0` they are noise. A quarter of the codes is listed late, a quarter delisted early, one code
has a single day; 3% of the rows inside a span are absent, 5% are context only, 2% of the scored have no target, and
the last h days of a code's span have no target for horizon h.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loaders.cache.columns import create_columns
from loaders.cache.format import ABSENT, CONTEXT, SCORED, Manifest, write_manifest
from loaders.panel import Panel, open_panel


def rewritten(panel: Panel, folder: Path, manifest: dict[str, Any] | None = None, **columns: np.ndarray) -> Panel:
    """The same cache in another folder, with other `features`, `targets` or `presence`, or fields of its manifest."""
    folder.mkdir(parents=True)
    features, horizons = len(panel.manifest.features), len(panel.manifest.horizons)
    copy = create_columns(folder, panel.manifest.days, features, horizons, panel.manifest.dtype)
    for name in ("features", "targets", "presence"):
        getattr(copy, name)[:] = columns.get(name, getattr(panel, name))
    write_manifest(folder, panel.manifest.model_copy(update={"batches": copy.batches} | (manifest or {})))
    return open_panel(folder)


def untargeted(panel: Panel, folder: Path) -> Panel:
    """The same cache in another folder without its targets."""
    folder.mkdir(parents=True)
    manifest = panel.manifest
    copy = create_columns(folder, manifest.days, len(manifest.features), 0, manifest.dtype)
    copy.features[:], copy.presence[:] = panel.features, panel.presence
    write_manifest(folder, manifest.model_copy(update={"horizons": [], "targets": [], "batches": copy.batches}))
    return open_panel(folder)


def cut(panel: Panel, folder: Path, start: int, stop: int) -> Panel:
    """The days start..stop-1 of a panel as a cache of their own, built when no later day, nor return, was known."""
    low, high = np.maximum(panel.first, start), np.minimum(panel.first + panel.days, stop)
    inside = np.flatnonzero(high > low)
    days = (high - low)[inside]
    rows = np.concatenate([panel.offset[s] + np.arange(low[s], high[s]) - panel.first[s] for s in inside])
    day = np.concatenate([np.arange(low[s], high[s]) for s in inside])
    manifest = panel.manifest
    folder.mkdir(parents=True)
    columns = create_columns(folder, days, len(manifest.features), len(manifest.horizons), manifest.dtype)
    columns.features[:], columns.presence[:] = panel.features[rows], panel.presence[rows]
    targets = panel.targets[rows]
    for i, h in enumerate(manifest.horizons):
        targets[day + h + manifest.known_after >= stop, i] = np.nan
    columns.targets[:] = targets
    counts = zip(("absent", "context", "scored"), np.bincount(panel.presence[rows], minlength=3), strict=True)
    changes = {
        "calendar": manifest.calendar[start:stop], "rows": len(rows),
        "codes": [manifest.codes[s] for s in inside], "first": (low[inside] - start).tolist(), "days": days.tolist(),
        "counts": {name: int(n) for name, n in counts}, "batches": columns.batches,
    }  # fmt: skip
    write_manifest(folder, manifest.model_copy(update=changes))
    return open_panel(folder)


def write_panel(
    folder: Path,
    n_codes: int = 40,
    n_days: int = 120,
    n_features: int = 5,
    horizons: Sequence[int] = (1, 5),
    dtype: str = "float32",
    seed: int = 0,
    signal: float = 0.5,
    start: str = "2010-01-04",
    holidays: Sequence[str] = (),
) -> Panel:
    """Write a cache of normal features into `folder` (created where it is missing) and open it.

    Features are named ret_1, f1, f2, ...; codes C000, C001, ...; the calendar is weekdays from `start` on, without
    `holidays`.
    """
    rng = np.random.default_rng(seed)
    first, last = np.zeros(n_codes, np.int64), np.full(n_codes, n_days)
    late, early = rng.permutation(n_codes)[: n_codes // 4], rng.permutation(n_codes)[: n_codes // 4]
    first[late] = rng.integers(1, max(n_days // 2, 2), len(late))
    last[early] = rng.integers(n_days // 2 + 1, n_days + 1, len(early))
    if n_codes > 4:
        last[1] = first[1] + 1
    days = last - first
    rows = int(days.sum())

    folder.mkdir(parents=True, exist_ok=True)
    columns = create_columns(folder, days, n_features, len(horizons), dtype)
    presence = rng.choice(np.array([ABSENT, CONTEXT, SCORED], np.uint8), rows, p=[0.03, 0.05, 0.92])
    columns.presence[:] = presence
    features = rng.standard_normal((rows, n_features))
    features[presence == ABSENT] = 0
    columns.features[:] = features
    left = np.concatenate([np.arange(n)[::-1] for n in days])  # days of the span after this one
    driver = columns.features[:].astype(np.float64).mean(1) * np.sqrt(n_features)
    targets = np.empty((rows, len(horizons)))
    for i, h in enumerate(horizons):
        target = 0.02 * (signal * driver + rng.standard_normal(rows))
        target[(presence == ABSENT) | (left < h) | (rng.random(rows) < 0.02)] = np.nan
        targets[:, i] = target
    columns.targets[:] = targets

    calendar = np.busday_offset(start, np.arange(n_days), "forward", holidays=list(holidays))
    kinds = zip(("absent", "context", "scored"), np.bincount(presence, minlength=3), strict=True)
    write_manifest(
        folder,
        Manifest(
            features=["ret_1", *(f"f{i}" for i in range(1, n_features))],
            horizons=list(horizons),
            dtype=dtype,
            calendar=[str(day) for day in calendar],
            codes=[f"C{i:03d}" for i in range(n_codes)],
            first=first.tolist(),
            days=days.tolist(),
            rows=rows,
            counts={name: int(n) for name, n in kinds},
            recipe={"name": "test", "seed": seed, "signal": signal},
            normalisation="none",
            batches=columns.batches,
        ),
    )
    return open_panel(folder)
