"""The fields of manifest.json, each with its type and range, and the identity that they give a cache.

What has to hold between fields is in check.py.
"""

import hashlib
import json
import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from loaders.cache.columns import BatchLayout
from loaders.cache.manifest.text import iso_date, odd_character
from loaders.cache.statistics import FeatureStats

FORMAT_VERSION = 4
READABLE = (3, 4)  # 3 keeps no source
CHUNK_BYTES = 16 << 20
MOST = 2**53  # of any count or number of bytes: what a float of JSON holds exactly
DEPTH = 4  # of lists and objects inside one another, in fields of free content


def _text(value: str) -> str:
    if (odd := odd_character(value)) is not None:
        raise ValueError(f"{value[:40]!a} holds {odd}")
    return value


def _plain(value: Any, depth: int = DEPTH) -> Any:
    """Text, numbers and nothing else, in lists and objects that are not deep."""
    if isinstance(value, str):
        _text(value)
    elif isinstance(value, dict | list):
        if not depth:
            raise ValueError(f"lists or objects nested more than {DEPTH} deep")
        for each in value.items() if isinstance(value, dict) else value:
            for one in each if isinstance(value, dict) else (each,):
                _plain(one, depth - 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not finite")
    elif isinstance(value, int) and abs(value) > 2**63:
        raise ValueError("a number of more than 64 bits")
    return value


def _recipe(value: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value.get("name"), str):
        raise ValueError("it has no name")
    return value


def _simulation(value: dict[str, Any]) -> dict[str, Any]:
    figures = value.get("oracle_rank_ic")
    if not isinstance(figures, dict) or not all(v is None or isinstance(v, float) for v in figures.values()):
        raise ValueError("oracle_rank_ic is not a figure, or null, for each horizon")
    return value


Text = Annotated[str, AfterValidator(_text)]
IsoDate = Annotated[str, AfterValidator(iso_date)]
Plain = Annotated[dict[str, Any], AfterValidator(_plain)]
Count = Annotated[int, Field(ge=0, le=MOST)]
Positive = Annotated[int, Field(ge=1, le=MOST)]
Checksum = Annotated[str, Field(pattern=r"\A[0-9a-f]{16}\z")]  # SHA-256, first 16 hex digits
Dtype = Literal["float16", "float32"]
Transform = Literal["rank", "zscore", "none"]


class Delisting(BaseModel):
    """What a holder of a code got after its last bar, as a fraction; known since a date."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    code: Text
    date: IsoDate
    value: float


class BuiltFrom(BaseModel):
    """What a cache was built from, kept so that days can be appended. Its rows, in source.arrow, lie as those of a
    cache do: code by code and day by day, days before the cache's first and codes that ended before it included.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    settings: Plain  # of the build, fields of the recipe's options
    columns: list[Text]  # of source.arrow, float32, NaN = missing
    calendar: list[IsoDate]
    codes: list[Text]
    first: list[Count]
    days: list[Positive]
    left_out: dict[IsoDate, Count]  # dates that --min-codes left out, and how many codes held each
    delistings: list[Delisting]  # all that were given, also of codes and dates that the cache does not have yet
    moments: list[list[float]]  # `RunningStats.state` of the features as the source has them
    batches: list[BatchLayout]
    bytes: Count = 0  # size of source.arrow
    checksums: list[Checksum] = []  # as those of panel.arrow


class Manifest(BaseModel):
    """What a cache holds. Written last: a folder without a manifest is not a cache."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    features: list[Text]  # distinct
    horizons: list[Annotated[int, Field(ge=1, le=2**31)]]  # ascending, distinct
    dtype: Dtype  # of the stored features
    calendar: list[IsoDate]  # ascending, distinct
    codes: list[Text]  # ascending, distinct
    first: list[Count]  # per code, calendar index of the first day of its span
    days: list[Positive]  # per code, calendar days in its span
    rows: Count  # sum of days; absent rows included, padding excluded
    counts: dict[Text, Count]  # rows by kind, and what the recipe did to odd input
    recipe: Annotated[Plain, AfterValidator(_recipe)]  # name and settings that built it
    normalisation: Text  # in words
    transform: Transform = "none"  # of features, within each date
    categories: list[Text] = []  # features that are ids, stored as they are
    targets: list[Text] = []  # what the target of each horizon is
    known_after: Annotated[int, Field(ge=0, le=2**31)] = 0
    """Days after t + h when the target of day t is known; 1 where it begins at t + 1's close."""
    period: Literal["day", "week", "month", "era", "other"] = "day"  # what a calendar row is
    periods_per_year: Annotated[float, Field(gt=0)] | None = 252.0  # None: not known, ratios are not annualised
    source: list[FeatureStats] = []  # of each feature as the source has it
    stored: list[FeatureStats] = []  # of each feature as it is stored
    simulation: Annotated[Plain, AfterValidator(_simulation)] | None = None
    batches: list[BatchLayout] = []
    panel_bytes: Count = 0  # size of panel.arrow
    chunk_bytes: Annotated[int, Field(ge=1, le=1 << 30)] = CHUNK_BYTES
    checksums: list[Checksum] = []  # per chunk of panel.arrow
    rows_checksums: list[Checksum] = []  # the same of rows.npy
    built_from: BuiltFrom | None = None  # None: days cannot be appended
    cache_id: str = ""
    format_version: int = FORMAT_VERSION


def manifest_id(manifest: Manifest) -> str:
    """Identity of a cache: a hash of everything the manifest says, checksums of the values included."""
    content = manifest.model_dump(exclude={"cache_id"} if manifest.format_version > 3 else {"cache_id", "built_from"})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
