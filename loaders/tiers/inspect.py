"""What a cache holds and which tier it would take here, for a terminal."""

import math

import numpy as np
from rich.table import Table

from loaders.cache.format import Manifest
from loaders.cache.statistics import FeatureStats
from loaders.panel import Panel

FEW_END = 0.01  # of the codes a year


def inspect_cache(panel: Panel, tier: str) -> Table:
    """A two-column table of a panel's manifest and files; reads no row.

    Args:
        tier: how blocks would reach the device of this machine, and why.
    """
    manifest = panel.manifest
    size = sum(file.opened.st_size for file in panel.files)
    shards = [file.path.parent.name for file in panel.files]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    shown = ", ".join(manifest.features[:60]) + (", ..." if len(manifest.features) > 60 else "")
    lines = {
        "cache id": manifest.cache_id,
        "size": f"{size / 1e9:.2f} GB, features as {manifest.dtype}",
        **({"shards": f"{len(shards)}: {', '.join(shards)}"} if len(shards) > 1 else {}),
        "appending days": _source(manifest),
        "tier here": tier,
        "days": f"{len(manifest.calendar):,}, {manifest.calendar[0]} to {manifest.calendar[-1]}",
        "codes": f"{len(manifest.codes):,}, {manifest.codes[0]} to {manifest.codes[-1]}",
        "rows": f"{manifest.rows:,}",
        "targets": _targets(manifest),
        f"{len(manifest.features)} features": shown,
        "normalisation": manifest.normalisation,
        "recipe": ", ".join(f"{k}={v}" for k, v in manifest.recipe.items() if v is not None),
        "codes that end": survivorship(manifest),
        "oddest features": "\n".join(oddest(manifest)),
        "counts": "\n".join(f"{name}: {n:,}" for name, n in manifest.counts.items()),
    }
    if manifest.simulation is not None:
        oracle = manifest.simulation["oracle_rank_ic"].items()
        lines["oracle RankIC"] = ", ".join(f"h={h}: {'none' if v is None else format(v, '.4f')}" for h, v in oracle)
    for name, value in lines.items():
        table.add_row(name, value)
    return table


def _targets(manifest: Manifest) -> str:
    """Each horizon with what its target is."""
    if not manifest.horizons:
        return "none: a cache to score"
    names = manifest.targets or [""] * len(manifest.horizons)
    text = ", ".join(f"h={h}{f': {name}' if name else ''}" for h, name in zip(manifest.horizons, names, strict=True))
    return text + (f"; known {manifest.known_after} later than t + h" if manifest.known_after else "")


def _source(manifest: Manifest) -> str:
    """Whether days can be appended, and what that takes on disk."""
    kept = manifest.built_from
    return "not possible: no source is kept" if kept is None else f"from {kept.bytes / 1e9:.2f} GB of source kept"


def survivorship(manifest: Manifest) -> str:
    """How many codes end per year, in percent of those that trade, and what follows where nearly none does."""
    calendar = np.array(manifest.calendar, "datetime64[D]")
    years = (calendar[-1] - calendar[0]).astype(int) / 365.25
    if years < 1:
        return "not asked: less than a year of days"
    per_year = len(calendar) / years
    first, days = np.array(manifest.first), np.array(manifest.days)
    ended = int((first + days < len(calendar) - per_year / 12).sum())  # later ones may be halted
    share = ended / (days.sum() / per_year)
    text = f"{share:.1%} a year, {ended:,} of {len(days):,}; 5% to 8% is usual for listed stocks"
    if share >= FEW_END:
        return text
    return (
        f"{text}. These are survivors: codes that failed or were bought are missing. Returns of the weakest look "
        "better than they were, and metrics on such data say less about the ones to come"
    )


def oddest(manifest: Manifest, most: int = 10) -> list[str]:
    """Lines of the features whose values are the oddest, as the source has them: constant, missing, or far out."""

    def oddness(s: FeatureStats) -> float:
        if s.constant or s.missing == 1:
            return math.inf
        reach = max(s.high - s.mean, s.mean - s.low) / s.deviation if s.deviation > 0 else 1.0
        scale = abs(math.log10(s.deviation)) + abs(s.mean) / s.deviation if s.deviation > 0 else 0.0
        return s.missing + math.log10(max(reach, 1.0)) / 2 + (scale if manifest.transform == "none" else 0.0)

    stats = manifest.source or manifest.stored
    order = sorted(zip(manifest.features, stats, strict=True), key=lambda pair: oddness(pair[1]), reverse=True)
    return [
        f"{name}: {s.mean:.4g} ± {s.deviation:.3g}, {s.low:.4g} to {s.high:.4g}, {s.missing:.1%} missing"
        + (", constant" if s.constant else "")
        for name, s in order[:most]
    ]
