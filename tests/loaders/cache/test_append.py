"""Appending days equals a rebuild from all files, byte for byte, whatever the history, where it is cut, and how it is
given; a past that differs is refused by name; a kill at any moment leaves the old cache or the new one.
"""

import json
import os
import shutil
import signal

import numpy as np
import polars as pl
import pytest

from loaders.cache import build as recipes
from loaders.cache import columns as stored_columns
from loaders.cache import cross_sections
from loaders.cache.append import append
from loaders.cache.format import MANIFEST, PANEL, ROWS, SCORED, SOURCE, manifest_id, read_manifest, verify
from loaders.cache.recipes.features import LOOKBACK_DAYS, daily_features, trailing_sum
from loaders.cache.simulation.simulate import simulate
from loaders.disk.lock import alone_with
from loaders.errors import InputError
from loaders.panel import open_panel
from loaders.verify import verifying
from tests.loaders.cache.test_kill_build import run, server  # noqa: F401

DAYS = np.busday_offset("2010-01-01", np.arange(330), "forward")


def history(seed, n_codes=26):
    """Bars with every oddity: late listings, ends, long breaks, days off, no close, open or volume, bad ticks."""
    rng = np.random.default_rng(seed)
    frames = []
    for s in range(n_codes):
        n = len(DAYS)
        close = (20 * np.exp(np.cumsum(0.03 * rng.standard_normal(n)))).astype(np.float32)
        keep = rng.random(n) >= 0.03
        if s % 4 == 1:
            keep[: rng.integers(1, n)] = False
        if s % 4 == 2:
            keep[rng.integers(n // 2, n - 1) :] = False
        if s % 5 == 3:
            begin = rng.integers(0, n - 30)
            keep[begin : begin + rng.integers(5, 280)] = False
        keep[rng.integers(n)] = True
        close[rng.integers(n)] *= 30
        if s % 6 == 0:
            close[np.flatnonzero(keep)[-1] :] /= 50  # a last move beyond tenfold
        odd = rng.random((3, n)) < 0.02
        frame = {
            "date": DAYS,
            "ticker": [f"s{s:02d}"] * n,
            "open": np.where(odd[0], np.nan, close * np.exp(0.01 * rng.standard_normal(n))).astype(np.float32),
            "high": close * np.float32(1.01),
            "low": close * np.float32(0.99),
            "close": np.where(odd[1], 0, close),
            "volume": np.where(odd[2], 0, rng.integers(1_000, 200_000, n)),
        }
        frames.append(pl.DataFrame(frame).filter(keep))
    return pl.concat(frames)


def panel_of(seed, n_codes=25, n_days=60):
    """A ready panel: features of any scale with missing values, an id, targets of 1 and 5 days."""
    rng = np.random.default_rng(seed)
    frames = []
    for s in range(n_codes):
        price = np.exp(np.cumsum(0.02 * rng.standard_normal(n_days)))
        ahead = [np.concatenate([price[h:] / price[:-h] - 1, np.full(h, np.nan)]) for h in (1, 5)]
        x = rng.standard_normal((3, n_days)) * [[1.0], [100.0], [0.5]]
        x[rng.random(x.shape) < 0.05] = np.nan
        keep = rng.random(n_days) >= 0.1
        if s % 3 == 1:
            keep[: rng.integers(1, n_days)] = False
        if s % 3 == 2:
            keep[rng.integers(2, n_days) :] = False
        keep[rng.integers(n_days)] = True
        frame = {"date": DAYS[:n_days], "code": [f"c{s:02d}"] * n_days, "a": x[0], "b": x[1], "c": x[2]}
        frame |= {"sector": np.full(n_days, s % 4), "fwd_1": ahead[0], "fwd_5": ahead[1]}
        frames.append(pl.DataFrame(frame).with_columns(pl.selectors.float().cast(pl.Float32)).filter(keep))
    return pl.concat(frames)


def until(frame, day, names=()):
    """What the files held on a day: rows up to it, and targets that were known then."""
    frame = frame.filter(pl.col("date") <= day)
    calendar = np.unique(frame["date"].to_numpy())
    for name in names:
        known = calendar[: -int(name.split("_")[1])]
        late = ~pl.col("date").is_in(known.tolist())
        frame = frame.with_columns(pl.when(late).then(None).otherwise(pl.col(name)).alias(name))
    return frame


def same_bytes(a, b):
    files = sorted(path.name for path in a.iterdir())
    assert files == sorted(path.name for path in b.iterdir())
    for name in files:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


def write(frame, path):
    frame.write_parquet(path)
    return path


def grow(tmp_path, recipe, frame, cuts, settings, rng, names=(), **more):
    """Build until the first cut, append until each later one, and compare with a build until the last."""
    calendar = np.unique(frame["date"].to_numpy())
    cache, before = tmp_path / "cache", cuts[0]
    recipes.build(recipe, [write(until(frame, calendar[before], names), tmp_path / "0.parquet")], cache, settings)
    for i, cut in enumerate(cuts[1:]):
        known = until(frame, calendar[cut], names).sample(fraction=1, shuffle=True, seed=i)
        # Targets become known of days that the files have: with targets, the last ones are always among them.
        begin = rng.choice([0, max(before - 8, 0), *([] if names else [before + 1])])
        files = write(known.filter(pl.col("date") >= calendar[begin]), tmp_path / f"{i + 1}.parquet")
        append(cache, [files], **(more if i == len(cuts) - 2 else {}))
        verify(cache)
        before = cut
    whole = write(until(frame, calendar[cuts[-1]], names), tmp_path / "all.parquet")
    manifest = recipes.build(recipe, [whole], tmp_path / "whole", settings | more)
    same_bytes(cache, tmp_path / "whole")
    return open_panel(cache), manifest


@pytest.mark.parametrize(
    ("seed", "settings"),
    [
        (0, {"horizons": [1, 5], "min_price": 15.0, "min_dollar_volume": 1e6}),
        (1, {"horizons": [2], "entry": "next_open", "start": "2011-01-03", "min_dollar_volume": 5e5}),
        (2, {"horizons": [1, 20], "entry": "next_close", "dtype": "float32", "transform": "none"}),
        (3, {"horizons": [3], "transform": "zscore", "exclude": ["vol_*"], "min_codes": 12, "period": "day"}),
        (4, {"targets": ["none"], "min_price": 15.0}),
        (5, {"horizons": [1, 5], "start": "2010-06-01", "min_price": 10.0}),
    ],
)
def test_bars_appended_in_parts_equal_a_rebuild(tmp_path, seed, settings):
    rng = np.random.default_rng(seed)
    frame = history(seed)
    if "min_codes" in settings:  # Saturdays of few codes, before and after every cut
        friday = (pl.col("date").dt.weekday() == 5) & (pl.col("date").dt.day() < 15) & (pl.col("ticker") < "s05")
        frame = pl.concat([frame, frame.filter(friday).with_columns(pl.col("date") + pl.duration(days=1))])
    days = frame["date"].n_unique()
    cuts = [270 + seed, 271 + seed, *sorted(rng.choice(np.arange(280, days - 1), 2, replace=False)), days - 1]
    panel, manifest = grow(tmp_path, "ohlcv", frame, [int(cut) for cut in cuts], settings, rng)
    assert manifest.counts["scored"]
    assert manifest.counts["absent"]
    assert panel.manifest.horizons == ([] if "targets" in settings else settings["horizons"])
    for name in ("bad_ticks", "last_moves_beyond_tenfold"):  # the past was not all there is
        assert manifest.counts[name]
    assert ("dates_of_few_codes" in manifest.counts) == ("min_codes" in settings)


@pytest.mark.parametrize(
    ("seed", "settings"),
    [
        (0, {"features": ["a", "b", "sector"], "categories": ["sector"]}),
        (1, {"features": ["a", "c"], "transform": "none", "dtype": "float32", "start": "2010-01-11"}),
        (2, {"features": ["*"], "transform": "zscore", "rename": ["code=stock"], "code": "stock"}),
        (3, {"features": ["a"], "transform": "none", "targets": ["none"]}),
    ],
)
def test_panels_appended_in_parts_equal_a_rebuild(tmp_path, seed, settings):
    rng = np.random.default_rng(seed)
    settings = {"targets": ["fwd_*"], "trust_horizons": True} | settings
    names = () if settings["targets"] == ["none"] else ("fwd_1", "fwd_5")
    cuts = [*sorted(int(cut) for cut in rng.choice(np.arange(10, 59), 3, replace=False)), 59]
    panel, manifest = grow(tmp_path, "columns", panel_of(seed), cuts, settings, rng, names)
    assert manifest.counts["scored"]
    assert len(panel.manifest.targets) == len(names)


def test_many_batches_and_rows_collected_in_files(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_columns, "BATCH_ELEMENTS", 59 * 1000)
    monkeypatch.setattr(cross_sections, "MEMORY", 300_000)
    panel, _ = grow(tmp_path, "ohlcv", history(6), [290, 300, 329], {"horizons": [1, 5]}, np.random.default_rng(6))
    assert len(panel.manifest.batches) > 3
    assert len(panel.manifest.built_from.batches) == 1
    monkeypatch.setattr(cross_sections, "MEMORY", 1 << 30)
    recipes.build("ohlcv", [tmp_path / "all.parquet"], tmp_path / "in memory", {"horizons": [1, 5]})
    same_bytes(tmp_path / "whole", tmp_path / "in memory")


def test_a_build_with_an_end_goes_on_to_the_last_day_appended(tmp_path):
    files, cache = write(history(7), tmp_path / "bars.parquet"), tmp_path / "cache"
    recipes.build("ohlcv", [files], cache, {"end": str(DAYS[290])})
    append(cache, [files], end=str(DAYS[291]))
    recipes.build("ohlcv", [files], tmp_path / "a", {"end": str(DAYS[291])})
    same_bytes(cache, tmp_path / "a")
    append(cache, [files])
    recipes.build("ohlcv", [files], tmp_path / "b", {"end": str(DAYS[-1])})
    same_bytes(cache, tmp_path / "b")


def test_delisting_returns_that_become_known(tmp_path):
    """Of a code that ended long ago, of one that ends in the past's last days, and one known ahead of its end."""
    frame = history(8).filter(
        ~((pl.col("ticker") == "s00") & (pl.col("date") > DAYS[100]))
        & ~((pl.col("ticker") == "s04") & (pl.col("date") > DAYS[298]))
        & ~((pl.col("ticker") == "s08") & (pl.col("date") > DAYS[305]))
    )
    all_of = pl.DataFrame({"code": ["s00", "s04", "s08"], "date": DAYS[[101, 299, 306]], "return": [-0.5, -1.0, 0.25]})
    early, late = tmp_path / "early.csv", tmp_path / "late.csv"
    all_of.filter(pl.col("code") == "s08").write_csv(early)
    all_of.write_csv(late)
    settings, cache = {"horizons": [1, 5]}, tmp_path / "cache"
    first = write(frame.filter(pl.col("date") <= DAYS[300]), tmp_path / "first.parquet")
    rest = write(frame.filter(pl.col("date") > DAYS[300]), tmp_path / "rest.parquet")
    manifest = recipes.build("ohlcv", [first], cache, settings | {"delisting_returns": early})
    assert manifest.counts["targets_completed"] == 0
    append(cache, [rest], delisting_returns=late)
    manifest = recipes.build("ohlcv", [first, rest], tmp_path / "whole", settings | {"delisting_returns": late})
    same_bytes(cache, tmp_path / "whole")
    assert manifest.counts["targets_completed"] >= 10


def test_features_depend_on_their_days_alone():
    rng = np.random.default_rng(0)
    n = 600
    close = np.exp(np.cumsum(0.02 * rng.standard_normal(n))).astype(np.float32)
    bars = [close * np.float32(f) for f in (1.001, 1.02, 0.98, 1)] + [rng.integers(0, 1000, n).astype(np.float32)]
    returns, market = (0.02 * rng.standard_normal(n)).astype(np.float32), 0.01 * rng.standard_normal(n)
    whole = daily_features(*bars, returns, market)
    tail = daily_features(*(x[-LOOKBACK_DAYS - 1 :] for x in (*bars, returns, market)))
    for name, values in whole.items():
        assert values[-1].tobytes() == tail[name][-1].tobytes(), name


@pytest.mark.parametrize("days", [1, 2, 5, 20, 60, 250])
@pytest.mark.parametrize("n", [1, 4, 5, 300])
def test_trailing_sums_against_a_loop(days, n):
    x = np.random.default_rng(days).standard_normal(n)
    expected = [x[max(t + 1 - days, 0) : t + 1].sum() for t in range(n)]
    np.testing.assert_allclose(trailing_sum(x, days), expected, rtol=1e-12, atol=1e-12)


@pytest.fixture
def grown(tmp_path):
    """A cache of the bars until day 300, the bars, and a function that appends a frame to it."""
    frame, cache = history(9), tmp_path / "cache"
    recipes.build("ohlcv", [write(frame.filter(pl.col("date") <= DAYS[300]), tmp_path / "past.parquet")], cache, {})
    return cache, frame, lambda changed: append(cache, [write(changed, tmp_path / "files.parquet")])


def refused(call, *parts):
    with pytest.raises(InputError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value), caught.value
    assert "\n" not in str(caught.value)


def test_a_past_that_differs_is_refused_by_name(grown):
    cache, frame, add = grown
    before = {path.name: path.read_bytes() for path in cache.iterdir()}
    day, code = frame.filter(pl.col("date") == DAYS[250]).select("date", "ticker").row(3)
    row = (pl.col("date") == day) & (pl.col("ticker") == code)
    was = frame.filter(row)["high"].item()
    now = np.float32(was * 1.5)
    changed = frame.with_columns(pl.when(row).then(pl.lit(float(now))).otherwise("high").cast(pl.Float32).alias("high"))
    refused(lambda: add(changed), "'high'", code, str(day), str(np.float32(was)), str(now), "files.parquet")
    refused(lambda: add(frame.filter(~row)), f"{code} has no row on {day}")
    new_code = frame.filter(row).with_columns(pl.lit("zz").alias("ticker"))
    refused(lambda: add(pl.concat([frame, new_code])), f"zz has a row on {day}")
    for date in ("2009-12-26", "2010-06-05"):  # before the first day, and a Saturday
        odd = frame.filter(row).with_columns(pl.lit(date).str.to_date().alias("date"))
        refused(lambda odd=odd: add(pl.concat([frame, odd])), f"{code} has a row on {date}")
    first = pl.lit(str(DAYS[0])).str.to_date()
    late = frame.filter(pl.col("ticker") == "s01").head(1).with_columns(first.alias("date"))
    refused(lambda: add(pl.concat([frame, late])), f"s01 has a row on {DAYS[0]}")
    refused(lambda: add(frame.filter(pl.col("date") <= DAYS[300])), "no day after", str(DAYS[300]))
    twice = frame.filter(pl.col("date") == DAYS[301])
    refused(lambda: add(pl.concat([twice, twice.head(1)])), "two rows for")
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == before
    assert [path.name for path in cache.parent.iterdir() if path.name.startswith(".")] == []


def test_targets_may_become_known_and_never_change(tmp_path):
    frame, cache = panel_of(5), tmp_path / "cache"
    settings = {"features": ["a"], "targets": ["fwd_1"], "trust_horizons": True}
    recipes.build("columns", [write(until(frame, DAYS[40], ["fwd_1"]), tmp_path / "0.parquet")], cache, settings)
    code, day = frame.filter((pl.col("date") == DAYS[20]) & pl.col("fwd_1").is_finite()).select("code", "date").row(0)
    row = (pl.col("date") == day) & (pl.col("code") == code)
    for value, shown in ((None, "missing"), (0.5, "0.5")):
        changed = frame.with_columns(pl.when(row).then(pl.lit(value, pl.Float32)).otherwise("fwd_1").alias("fwd_1"))
        files = write(changed, tmp_path / "1.parquet")
        refused(lambda files=files: append(cache, [files]), "'fwd_1'", code, str(day), f"is {shown}")


def test_caches_that_cannot_be_appended_to(tmp_path, grown):
    cache, frame, add = grown
    files = [write(frame, tmp_path / "all.parquet")]
    refused(lambda: append(tmp_path / "nothing", files), "no cache here")
    simulate(tmp_path / "simulated", 20, 60, 4, 0.05, 0, [1], "float32")
    refused(lambda: append(tmp_path / "simulated", files), "simulated")
    recipes.build("ohlcv", files, tmp_path / "shards", {"shards": 2})
    refused(lambda: append(tmp_path / "shards", files), "shards")
    refused(lambda: append(tmp_path / "shards" / "shard-0", files), "shard")
    recipes.build("ohlcv", files, tmp_path / "bare", {"keep_source": False})
    assert not (tmp_path / "bare" / SOURCE).exists()
    refused(lambda: append(tmp_path / "bare", files), "--no-keep-source", "Build it again")
    with alone_with(cache):
        refused(lambda: add(frame), f"in use by process {os.getpid()} on")
    for name in (PANEL, SOURCE):
        damaged = tmp_path / f"damaged {name}"
        shutil.copytree(cache, damaged)
        content = bytearray((damaged / name).read_bytes())
        content[len(content) // 2] ^= 1
        (damaged / name).write_bytes(content)
        refused(lambda damaged=damaged: append(damaged, files), name, "checksum differs")


def test_a_cache_of_format_3_opens_and_is_not_appended_to(grown):
    cache, frame, add = grown
    manifest = read_manifest(cache)
    manifest.format_version, manifest.built_from = 3, None
    manifest.cache_id = manifest_id(manifest)
    content = manifest.model_dump()
    del content["built_from"]
    (cache / MANIFEST).write_text(json.dumps(content))
    (cache / SOURCE).unlink()
    assert verify(cache).cache_id == manifest.cache_id == open_panel(cache).manifest.cache_id
    refused(lambda: add(frame), "format 3 kept no source", "Build it again")


def test_open_readers_keep_the_old_cache(grown):
    cache, frame, add = grown
    panel = open_panel(cache)
    features, days = panel.features.copy(), len(panel.calendar)
    add(frame)
    panel.check_unchanged()
    assert np.array_equal(panel.features, features)
    assert len(open_panel(cache).calendar) == days + 29


def test_rows_are_compared_with_the_manifest_that_they_were_opened_with(grown):
    cache, frame, add = grown
    panel = open_panel(cache)
    add(frame)
    with verifying(panel) as verification:
        verification.wait()


def test_an_append_killed_at_every_write(server, tmp_path):  # noqa: F811
    frame = history(10).filter(pl.col("date") > DAYS[200])
    past = write(frame.filter(pl.col("date") <= DAYS[300]), tmp_path / "past.parquet")
    files = write(frame.filter(pl.col("date") > DAYS[300]), tmp_path / "files.parquet")
    old, new = tmp_path / "old", tmp_path / "new"
    recipes.build("ohlcv", [past], old, {})
    shutil.copytree(old, new)
    _, status, moments = run(server, ["cache", "append", str(new), str(files)])
    assert status == 0
    assert moments == 44  # two of each of 22 calls
    ids = verify(old).cache_id, verify(new).cache_id
    for moment in range(6, moments):  # the first three calls compare the old cache with its checksums
        out = tmp_path / str(moment) / "cache"
        shutil.copytree(old, out)
        _, status, _ = run(server, ["cache", "append", str(out), str(files)], moment)
        assert status == signal.SIGKILL
        published = moment >= moments - 3
        assert verify(out).cache_id == ids[published], moment
        if moment in (9, moments - 4):  # what the killed one left is in nobody's way, its lock gone
            assert run(server, ["cache", "append", str(out), str(files)])[1] == 0
            assert verify(out).cache_id == ids[1]


def test_a_cache_without_targets(tmp_path, run_command):
    frame, cache = history(11), tmp_path / "cache"
    past = write(frame.filter(pl.col("date") <= DAYS[300]), tmp_path / "past.parquet")
    command = ("cache", "build", past, "--recipe", "ohlcv", "--targets", "none", "--out")
    assert run_command(*command, cache)[0] == 0
    files = write(frame, tmp_path / "all.parquet")
    assert run_command("cache", "append", cache, files)[0] == 0
    code, out, _ = run_command("cache", "inspect", cache)
    assert code == 0
    assert "a cache to score" in out
    assert run_command("cache", "verify", cache)[0] == 0
    for more in (["--horizons", "1"], ["--entry", "next_open"]):
        code, _, err = run_command(*command, tmp_path / "refused", *more)
        assert code == 2
        assert "--targets none" in err
    with_targets = recipes.build("ohlcv", [files], tmp_path / "with", {})
    panel, other = open_panel(cache), open_panel(tmp_path / "with")
    assert panel.targets.shape == (with_targets.rows, 0)
    assert panel.manifest.horizons == []
    assert np.array_equal(panel.features, other.features)
    assert np.array_equal(panel.presence, other.presence)
    assert (panel.presence == SCORED).any()
    assert not np.load(cache / ROWS)[1].any()
