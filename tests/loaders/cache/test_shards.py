"""Several caches as one panel: the same rows, blocks and scores as one cache of all codes; misfits are named."""

import shutil

import numpy as np
import pytest

from loaders.cache import columns as columns_module
from loaders.cache.columns import create_columns
from loaders.cache.format import Manifest, read_manifest, write_manifest
from loaders.errors import InputError
from loaders.gather import gather
from loaders.panel import open_panel
from loaders.plan import Plan, count_samples, scoring_blocks
from loaders.split import Days
from tests.panels import rewritten, write_panel

PART = Days(8, 90)


def write_shard(folder, whole, codes, first_day=0, **changes):
    """A cache of some of the codes of a panel, on its calendar from a day on."""
    folder.mkdir(parents=True)
    rows = np.concatenate([np.arange(whole.offset[c], whole.offset[c] + whole.days[c]) for c in codes])
    manifest = whole.manifest
    columns = create_columns(folder, whole.days[codes], len(manifest.features), len(manifest.horizons), manifest.dtype)
    columns.features[:] = whole.features[rows]
    columns.targets[:] = whole.targets[rows]
    columns.presence[:] = whole.presence[rows]
    content = {
        "features": manifest.features, "horizons": manifest.horizons, "dtype": manifest.dtype,
        "calendar": manifest.calendar[first_day:], "codes": [manifest.codes[c] for c in codes],
        "first": [int(whole.first[c]) - first_day for c in codes], "days": [int(whole.days[c]) for c in codes],
        "rows": len(rows), "counts": {"absent": int((columns.presence == 0).sum())}, "recipe": {"name": "test"},
        "normalisation": "none", "batches": columns.batches,
    }  # fmt: skip
    write_manifest(folder, Manifest(**(content | changes)))


@pytest.fixture(params=["float32", "float16"])
def whole(request, tmp_path):
    return write_panel(tmp_path / "whole", n_codes=37, n_days=100, dtype=request.param)


@pytest.fixture(params=["shards", "batches"])
def joined(request, whole, tmp_path, monkeypatch):
    """Three shards with interleaved codes, of which the last begins where its codes do; or a file of many batches."""
    if request.param == "batches":
        monkeypatch.setattr(columns_module, "BATCH_ELEMENTS", 4_000)
        panel = rewritten(whole, tmp_path / "batches")
        assert len(panel.batches) > 3
        return panel
    late = [c for c in range(37) if whole.first[c] >= 5]
    rest = [c for c in range(37) if whole.first[c] < 5]
    write_shard(tmp_path / "shards" / "a", whole, rest[::2])
    write_shard(tmp_path / "shards" / "b", whole, rest[1::2])
    write_shard(tmp_path / "shards" / "c", whole, late, first_day=5)
    (tmp_path / "shards" / ".d.partial-1").mkdir()
    shutil.copy(tmp_path / "shards" / "a" / "manifest.json", tmp_path / "shards" / ".d.partial-1")
    return open_panel(tmp_path / "shards")


def test_the_same_blocks_as_one_cache(whole, joined):
    assert joined.manifest.codes == whole.manifest.codes
    assert joined.manifest.rows == whole.manifest.rows
    ours, expected = (Plan(panel, PART, 8, 12, seed=1).epoch(2) for panel in (joined, whole))
    assert len(ours) == len(expected) > 20
    for block, same in zip(ours, expected, strict=True):
        assert block.day == same.day
        np.testing.assert_array_equal(block.codes, same.codes)
        a, b = gather(joined, PART, block, 8, 6), gather(whole, PART, same, 8, 6)
        np.testing.assert_array_equal(a.x, b.x)
        np.testing.assert_array_equal(a.presence, b.presence)
        np.testing.assert_array_equal(a.y, b.y)
        assert count_samples(joined, PART, block, 8) == b.samples
    of_panels = (scoring_blocks(panel, PART, 20) for panel in (joined, whole))
    for a, b in zip(*of_panels, strict=True):
        np.testing.assert_array_equal(a.codes, b.codes)


def test_columns_read_by_rows_like_arrays(whole, joined):
    ours = np.concatenate([np.arange(o, o + n) for o, n in zip(joined.offset, joined.days, strict=True)])
    theirs = np.arange(whole.manifest.rows)
    for name in ("features", "targets", "presence"):
        np.testing.assert_array_equal(getattr(joined, name)[ours], getattr(whole, name)[theirs])
    np.testing.assert_array_equal(joined.targets[ours, 1], whole.targets[theirs, 1])
    np.testing.assert_array_equal(joined.code_of(ours), whole.code_of(theirs))
    run = joined.rows_of(3, 0, 100)
    np.testing.assert_array_equal(joined.features[run], whole.features[whole.rows_of(3, 0, 100)])
    assert joined.features.shape[1] == 5
    assert joined.features.dtype == whole.features.dtype
    with pytest.raises(IndexError):
        joined.targets[ours, 2]


def test_evaluation_of_shards_is_that_of_one_cache(whole, joined):
    from engine.score.part_metrics import part_metrics, part_samples
    from engine.score.rows import present_rows

    scores = np.random.default_rng(0).standard_normal((len(present_rows(whole, PART)[0]), 2))
    of_shards, of_one = (part_metrics(part_samples(panel, PART), scores) for panel in (joined, whole))
    assert of_shards == of_one


def test_misfits_are_named(whole, tmp_path):
    half = list(range(18)), list(range(18, 37))

    def refused(words, **changes):
        shutil.rmtree(tmp_path / "shards", ignore_errors=True)
        write_shard(tmp_path / "shards" / "a", whole, half[0])
        write_shard(tmp_path / "shards" / "b", whole, changes.pop("codes", half[1]), **changes)
        with pytest.raises(InputError, match=words):
            open_panel(tmp_path / "shards")

    refused("features differ", features=["ret_1", "f1", "f2", "f3", "g4"])
    refused("horizons differ", horizons=[1, 6])
    refused("is also in", codes=[17, *half[1]])
    holes = sorted([*whole.manifest.calendar, "2010-02-06"])  # a Saturday
    refused("no day of its calendar", calendar=holes)


def test_one_cache_and_no_cache(whole, tmp_path):
    assert open_panel(whole.folder).manifest == read_manifest(whole.folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no cache here"):
        open_panel(tmp_path / "empty")
