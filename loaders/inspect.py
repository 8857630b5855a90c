"""What a cache holds, for a terminal."""

from rich.table import Table

from loaders.panel import Panel


def inspect_cache(panel: Panel, tier: str) -> Table:
    """A two-column table of a panel's manifest and files; reads no row.

    Args:
        tier: how blocks would reach the device of this machine, and why.
    """
    manifest = panel.manifest
    size = sum(file.opened.st_size for file in panel.files)
    shards = [file.path.parent.name for file in panel.files]
    table = Table(title=str(panel.folder), show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    shown = ", ".join(manifest.features[:60]) + (", ..." if len(manifest.features) > 60 else "")
    lines = {
        "cache id": manifest.cache_id,
        "size": f"{size / 1e9:.2f} GB, features as {manifest.dtype}",
        "shards": f"{len(shards)}: {', '.join(shards)}" if len(shards) > 1 else "one cache",
        "tier here": tier,
        "days": f"{len(manifest.calendar):,}, {manifest.calendar[0]} to {manifest.calendar[-1]}",
        "codes": f"{len(manifest.codes):,}, {manifest.codes[0]} to {manifest.codes[-1]}",
        "rows": f"{manifest.rows:,}",
        "horizons": ", ".join(map(str, manifest.horizons)),
        f"{len(manifest.features)} features": shown,
        "normalisation": manifest.normalisation,
        "recipe": ", ".join(f"{k}={v}" for k, v in manifest.recipe.items() if v is not None),
        "counts": "\n".join(f"{name}: {n:,}" for name, n in manifest.counts.items()),
    }
    if manifest.simulation is not None:
        oracle = manifest.simulation["oracle_rank_ic"].items()
        lines["oracle RankIC"] = ", ".join(f"h={h}: {'none' if v is None else format(v, '.4f')}" for h, v in oracle)
    for name, value in lines.items():
        table.add_row(name, value)
    return table
