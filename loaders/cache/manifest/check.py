"""What has to hold between the fields of a manifest, so that no later reader has to ask.

F features, H horizons, S codes, T days
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from loaders.cache.columns import ALIGNMENT, BatchLayout
from loaders.cache.manifest.model import BuiltFrom, Manifest
from loaders.cache.rows import rows_bytes

WIDTHS = {"float16": 2, "float32": 4}


def inconsistency(m: Manifest) -> str | None:
    """What in a manifest cannot be, in words; None: nothing."""
    odd = _odd_names(m) or _odd_spans(m.calendar, m.codes, m.first, m.days)
    if odd is None and sum(m.days) != m.rows:
        odd = "its rows are not those of its codes"
    if odd is None:
        odd = _odd_batches(m.batches, m.days, m.panel_bytes, len(m.features) * WIDTHS[m.dtype], 4 * len(m.horizons))
    if odd is None:
        odd = _odd_checksums("checksums", m.checksums, m.panel_bytes, m.chunk_bytes)
    if odd is None:
        odd = _odd_checksums("rows_checksums", m.rows_checksums, rows_bytes(m.rows), m.chunk_bytes)
    if odd is None and m.built_from is not None:
        odd = _odd_source(m.built_from, m)
    return odd


def _odd_names(m: Manifest) -> str | None:
    if not m.features:
        return "there are no features"
    for name in ("features", "categories"):
        if len(set(getattr(m, name))) < len(getattr(m, name)):
            return f"{name} are not distinct"
    if not set(m.categories) <= set(m.features):
        return "a category is no feature"
    if not _ascends(m.horizons):
        return "horizons is not ascending and distinct"
    if m.targets and len(m.targets) != len(m.horizons):
        return "targets are not as many as horizons"
    if len(m.stored) != len(m.features) or len(m.source) not in (0, len(m.features)):
        return "statistics are not as many as features"
    return None


def _odd_spans(calendar: list[str], codes: list[str], first: list[int], days: list[int]) -> str | None:
    for name, values in (("calendar", calendar), ("codes", codes)):
        if not values:
            return f"{name} is empty"
        if not _ascends(values):
            return f"{name} is not ascending and distinct"
    if not len(codes) == len(first) == len(days):
        return "codes, first and days differ in length"
    if any(begin + count > len(calendar) for begin, count in zip(first, days, strict=True)):
        return "a code's span ends after the calendar"
    return None


def _odd_batches(
    batches: list[BatchLayout], days: list[int], size: int, feature_bytes: int, target_bytes: int
) -> str | None:
    """Batches hold whole codes, and lie aligned inside the file, their buffers one after the other as they are written.

    Args:
        days: rows of each code.
        size: of the file, in bytes.
        feature_bytes, target_bytes: of a row.
    """
    ends = set(accumulate(days))
    if not batches or not set(accumulate(batch.rows for batch in batches)) <= ends:
        return "batches do not hold whole codes"
    if sum(batch.rows for batch in batches) != sum(days):
        return "batches do not hold the rows of all codes"
    end = 0
    for batch in batches:
        rows = math.ceil(batch.rows / ALIGNMENT) * ALIGNMENT
        targets = batch.features + rows * feature_bytes
        presence = targets + rows * target_bytes
        if batch.features % ALIGNMENT or batch.features <= end:
            return f"a batch is not {ALIGNMENT}-byte aligned after what is before it"
        if (batch.targets, batch.presence) != (targets if target_bytes else 0, presence):
            return "buffers of a batch do not follow one another"
        end = presence + rows
    return "batches end after the file" if end > size else None


def _odd_checksums(name: str, checksums: list[str], size: int, chunk: int) -> str | None:
    expected = -(-size // chunk)
    if len(checksums) == expected:
        return None
    return f"{len(checksums)} {name}, {size:,} bytes in chunks of {chunk:,} need {expected:,}"


def _odd_source(built: BuiltFrom, m: Manifest) -> str | None:
    """The same of what a cache was built from."""
    if not built.columns or len(set(built.columns)) < len(built.columns):
        return "columns of the source are not distinct"
    odd = _odd_spans(built.calendar, built.codes, built.first, built.days)
    if odd is None:
        odd = _odd_batches(built.batches, built.days, built.bytes, 4 * len(built.columns), 0)
    if odd is None:
        odd = _odd_checksums("checksums", built.checksums, built.bytes, m.chunk_bytes)
    if odd is None and not set(built.calendar) >= set(m.calendar):
        odd = "its calendar lacks days of the cache"
    if odd is None and not set(built.codes) >= set(m.codes):
        odd = "it lacks codes of the cache"
    if odd is None and [len(values) for values in built.moments] != [len(m.features)] * 5 + [1]:
        odd = "moments are not those of the features"
    return None if odd is None else f"of the source: {odd}"


def _ascends(values: Sequence[Any]) -> bool:
    return all(a < b for a, b in pairwise(values))
