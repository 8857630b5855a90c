"""What tests of damaged caches share: one that days can be appended to, and manifests whose id is right."""

import contextlib
import json

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from loaders.cache.build import build
from loaders.cache.format import MANIFEST
from loaders.cache.manifest.model import Manifest, manifest_id


def rows(start, stop):
    dates = pl.date_range(pl.date(2010, 1, 1), pl.date(2010, 12, 31), eager=True)
    dates = dates.filter(dates.dt.weekday() <= 5)[start:stop]
    rng = np.random.default_rng(start)
    frame = dates.to_frame("date").join(pl.DataFrame({"code": [f"C{i:02d}" for i in range(25)]}), how="cross")
    names = ("f0", "f1", "fwd_1", "fwd_5")
    return frame.with_columns(pl.Series(name, rng.standard_normal(frame.height)) for name in names)


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A small cache that days can be appended to."""
    folder = tmp_path_factory.mktemp("manifest")
    rows(0, 60).write_parquet(folder / "rows.parquet")
    settings = {"features": ["f*"], "targets": ["fwd_*"], "trust_horizons": True, "min_codes": 1}
    build("columns", [folder / "rows.parquet"], folder / "cache", settings)
    rows(60, 62).write_parquet(folder / "next.parquet")
    return folder / "cache"


def write(folder, content):
    """Write a manifest with the id that its content has, where it can have one."""
    with contextlib.suppress(ValidationError, ValueError):
        content["cache_id"] = manifest_id(Manifest.model_validate(content))
    (folder / MANIFEST).write_text(json.dumps(content))
