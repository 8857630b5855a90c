"""Several caches as one panel: a folder of cache folders, each with codes of its own.

A universe can so be built piece by piece (a market each, an index each) and grow without being built again. Shards have
the same features, horizons and type of values, and agree on the calendar where they overlap; no code is in two of them.
Rows stay where they are: nothing is merged, and a code's rows are one run as before.
"""

from pathlib import Path

import numpy as np

from loaders.cache.format import MANIFEST, Manifest, manifest_id, read_manifest
from loaders.cache.statistics import FeatureStats
from loaders.errors import InputError

SHARED = (
    "features", "horizons", "dtype", "normalisation", "transform", "categories", "known_after", "period",
    "periods_per_year",
)  # fmt: skip


def shard_folders(folder: Path) -> list[Path]:
    """The caches that a folder means: itself, or those inside it, by name. Without any: itself, for the error.

    Raises InputError for a folder that cannot be read.
    """
    try:
        if (folder / MANIFEST).exists():
            return [folder]
        inside = sorted(path.parent for path in folder.glob("*/" + MANIFEST))
    except OSError as error:
        raise InputError(str(folder), f"cannot be read ({error.strerror})", "Give yourself access to it") from error
    return [path for path in inside if not path.name.startswith(".")] or [folder]


def read_manifests(folder: Path) -> tuple[list[Path], list[Manifest], Manifest]:
    """The caches that a folder means, the manifest of each, and what they hold together.

    Raises InputError as `read_manifest`, and where shards do not fit together.
    """
    folders = shard_folders(folder)
    manifests = [read_manifest(path) for path in folders]
    return folders, manifests, manifests[0] if len(folders) == 1 else join_manifests(folders, manifests)


def join_manifests(folders: list[Path], manifests: list[Manifest]) -> Manifest:
    """What the shards hold together; codes ascending, spans as indices of the joint calendar.

    Raises InputError naming two shards that do not fit, and in what.
    """
    first = manifests[0]
    for path, manifest in zip(folders[1:], manifests[1:], strict=True):
        for name in SHARED:
            if getattr(manifest, name) != getattr(first, name):
                what = f"{name} differ from those of {folders[0]}"
                raise InputError(str(path), what, "Build all shards with the same recipe and options")
    calendar = sorted({day for manifest in manifests for day in manifest.calendar})
    place = {day: i for i, day in enumerate(calendar)}
    owner: dict[str, Path] = {}
    spans: list[tuple[str, int, int]] = []
    for path, manifest in zip(folders, manifests, strict=True):
        start = place[manifest.calendar[0]]
        if calendar[start : start + len(manifest.calendar)] != manifest.calendar:
            missing = next(d for d in calendar[start:] if d not in set(manifest.calendar))
            what = f"{missing} is no day of its calendar, and is one of another shard's"
            raise InputError(str(path), what, "Build the shards from markets with the same trading days")
        for code, day, days in zip(manifest.codes, manifest.first, manifest.days, strict=True):
            if code in owner:
                raise InputError(str(path), f"code {code!r} is also in {owner[code]}", "Keep each code in one shard")
            owner[code] = path
            spans.append((code, start + day, days))
    spans.sort()
    counts = {name: sum(m.counts.get(name, 0) for m in manifests) for m in manifests for name in m.counts}
    changes = {
        "calendar": calendar,
        "codes": [code for code, _, _ in spans],
        "first": [day for _, day, _ in spans],
        "days": [days for _, _, days in spans],
        "rows": sum(manifest.rows for manifest in manifests),
        "counts": counts,
        "recipe": {"name": "shards", "shards": {p.name: m.cache_id for p, m in zip(folders, manifests, strict=True)}},
        "source": _pooled([m.source for m in manifests], [m.counts.get("scored", 0) for m in manifests]),
        "stored": _pooled([m.stored for m in manifests], [m.counts.get("scored", 0) for m in manifests]),
        "simulation": None,
        "built_from": None,
        "batches": [],
        "panel_bytes": sum(manifest.panel_bytes for manifest in manifests),
        "checksums": [],
        "rows_checksums": [],
    }
    joined = first.model_copy(update=changes)
    joined.cache_id = manifest_id(joined)
    return joined


def _pooled(stats: list[list[FeatureStats]], rows: list[int]) -> list[FeatureStats]:
    """Statistics of all shards' rows together; none where a shard has none."""
    if not all(stats) or not sum(rows):
        return []
    weight = np.array(rows) / sum(rows)
    pooled = []
    for of_feature in zip(*stats, strict=True):
        means, deviations = (np.array([getattr(s, name) for s in of_feature]) for name in ("mean", "deviation"))
        mean = float(weight @ means)
        variance = float(weight @ (deviations**2 + (means - mean) ** 2))
        low, high = min(s.low for s in of_feature), max(s.high for s in of_feature)
        missing = float(weight @ np.array([s.missing for s in of_feature]))
        pooled.append(FeatureStats(mean=mean, deviation=variance**0.5, low=low, high=high, missing=missing))
    return pooled
