"""Samples of small simulated markets for tests of single checks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from engine.audit.sample import CacheSample, sample_of
from tests.audit.market import Market, Style, clean_market, write_market

SMALL = Style(codes=80, days=400)


def sample(
    folder: Path, seed: int = 1, style: Style = SMALL, plant: Callable[[Market], Market] | None = None
) -> CacheSample:
    """The sample of a market's cache in an empty folder, with a fault where one is given."""
    market = clean_market(seed, style)
    return sample_of(write_market(plant(market) if plant else market, folder / "cache"))


def with_manifest(found: CacheSample, **changes: object) -> CacheSample:
    """The same rows under a manifest that says something else."""
    manifest = found.panel.manifest.model_copy(update=changes)
    return sample_of(replace(found.panel, manifest=manifest))
