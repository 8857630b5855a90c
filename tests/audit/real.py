"""Pieces of a real market: a file of daily bars by pairs of years and by sixths of its codes, as caches to audit.

Real data have real faults. So what is said of them is shown check by check, for a reader to judge.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from engine.audit.audit import audit_cache
from engine.audit.finding import Finding
from loaders.cache.build import build
from loaders.cache.sources.frames import Frame
from loaders.panel import open_panel

YEARS, PARTS = 2, 6


def pieces(bars: Path) -> Iterator[tuple[str, pl.DataFrame]]:
    """Names and bars of the pieces: the last twelve years by pairs, and sixths of the codes over the last six."""
    frame = pl.scan_parquet(bars)
    last = frame.select(pl.col("date").max()).collect().item().year
    codes = frame.select(pl.col("ticker").unique().sort()).collect()["ticker"]
    for year in range(last - 11, last + 1, YEARS):
        inside = pl.col("date").dt.year().is_between(year - 1, year + YEARS - 1)  # a year before, for features
        yield f"{year}-{year + YEARS - 1}", frame.filter(inside).collect()
    for part in range(PARTS):
        some = pl.col("ticker").is_in(codes.gather_every(PARTS, part).implode())
        yield f"part {part + 1} of {PARTS}", frame.filter(some, pl.col("date").dt.year() > last - 6).collect()


def findings(frame: pl.DataFrame) -> list[Finding]:
    """What the checks have against a piece, without its first year."""
    settings = {"min_price": 3.0, "min_dollar_volume": 1e6, "code": "ticker", "date": "date"}
    settings["start"] = f"{frame['date'].min().year + 1}-01-01"
    with tempfile.TemporaryDirectory() as folder:
        build("ohlcv", [Frame("bars", frame.lazy())], Path(folder) / "cache", settings)
        found = audit_cache(open_panel(Path(folder) / "cache"))
        return [each for each in found if each.verdict in ("warned", "failed")]
