"""Features of any scale: transformed within the date, measured, and refused where the model could not see them."""

import io

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from engine.config_file import load_config
from engine.inputs import open_inputs
from engine.model.features import useless
from engine.training.loop import train
from loaders.cache import build as recipes
from loaders.cache import cross_sections
from loaders.cache.format import read_manifest
from loaders.errors import InputError
from loaders.panel import open_panel
from loaders.tiers.inspect import oddest, survivorship

FEATURES = ["plain", "tiny", "huge", "shifted", "tied", "holes", "constant", "nothing"]
SQRT_12 = 12**0.5


def frame(n_codes=60, n_days=40, seed=0):
    rng = np.random.default_rng(seed)
    days = np.busday_offset("2020-01-01", np.arange(n_days), "forward")
    keep = rng.random((n_codes, n_days)) < 0.9
    code, day = np.nonzero(keep)
    n = len(code)
    x = rng.standard_normal((8, n)).astype(np.float32)
    table = pl.DataFrame(
        {
            "date": days[day], "code": [f"c{i:02d}" for i in code],
            "plain": x[0], "tiny": 0.02 * x[1], "huge": 50 * x[2], "shifted": 19 + x[3],
            "tied": np.round(x[4]), "holes": np.where(rng.random(n) < 0.3, np.nan, x[5]),
            "constant": np.full(n, 0.1, np.float32), "nothing": pl.Series([None] * n, dtype=pl.Float32),
            "y_1": 0.02 * x[6],
        }
    )  # fmt: skip
    return table.sample(fraction=1, shuffle=True, seed=seed)


def build(table, folder, **changes):
    folder.mkdir(exist_ok=True)
    table.write_parquet(folder / "p.parquet")
    settings = {"features": FEATURES, "targets": ["y_1"], "dtype": "float32"} | changes
    lines: list[str] = []
    recipes.build("columns", [folder / "p.parquet"], folder / "cache", settings, lines.append)
    return open_panel(folder / "cache"), lines


def stored(panel):
    """{(date, code): features} of the present rows."""
    rows = np.concatenate([offset + np.arange(days) for offset, days in zip(panel.offset, panel.days, strict=True)])
    rows = rows[panel.presence[rows] > 0]
    code = panel.code_of(rows)
    day = rows - panel.offset[code] + panel.first[code]
    keys = zip(panel.calendar[day].tolist(), np.array(panel.manifest.codes)[code].tolist(), strict=True)
    return dict(zip(keys, panel.features[rows], strict=True))


def expected(table, transform):
    """The same by polars, expression by expression."""
    known = [pl.col(name).cast(pl.Float64).fill_nan(None) for name in FEATURES]
    if transform == "rank":
        columns = [((c.rank("average").over("date") - 0.5) / c.count().over("date") - 0.5) * SQRT_12 for c in known]
    else:
        columns = [(c - c.mean().over("date")) / c.std(ddof=0).over("date") for c in known]
        columns[FEATURES.index("constant")] = known[FEATURES.index("constant")] * 0
    done = table.select(pl.col("date").cast(pl.Date), "code", *(c.fill_null(0) for c in columns))
    return {(date, code): np.array(values, np.float64) for date, code, *values in done.iter_rows()}


@pytest.mark.parametrize("transform", ["rank", "zscore"])
def test_every_date_is_transformed_as_polars_does_it(tmp_path, transform):
    table = frame()
    panel, _ = build(table, tmp_path, transform=transform)
    found, wanted = stored(panel), expected(table, transform)
    assert found.keys() == wanted.keys()
    for key, values in found.items():
        np.testing.assert_allclose(values, wanted[key], atol=2e-6)


@pytest.mark.parametrize("transform", ["rank", "zscore"])
def test_scale_and_shift_change_nothing(tmp_path, transform):
    """Powers of two scale float32 exactly; a shift by 19 rounds to 2e-6."""
    table = frame()
    original, _ = build(table, tmp_path / "a", transform=transform)
    for scale, shift, tolerance in ((2.0**-6, 0, 0), (2.0**6, 0, 0), (1.0, 19, 5e-4), (-1.0, 0, 1e-6)):
        other, _ = build(table.with_columns(pl.col("plain") * scale + shift), tmp_path / "b", transform=transform)
        sign = np.sign(scale)
        np.testing.assert_allclose(other.features[:, 0], sign * original.features[:, 0], atol=tolerance)


def test_rank_is_the_default(tmp_path):
    panel, _ = build(frame(), tmp_path)
    assert panel.manifest.transform == "rank"
    assert panel.features[:].std(0)[:4] == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("transform", ["rank", "zscore", "none"])
def test_few_rows_in_memory_make_the_same_cache(tmp_path, monkeypatch, transform):
    """Rows that do not fit go to files by date: the same bytes."""
    whole, _ = build(frame(), tmp_path / "a", transform=transform)
    monkeypatch.setattr(cross_sections, "MEMORY", 20_000)
    pieces, _ = build(frame(), tmp_path / "b", transform=transform)
    assert whole.manifest.checksums == pieces.manifest.checksums
    assert [s.model_dump() for s in whole.manifest.source] == [
        pytest.approx(s.model_dump(), rel=1e-12) for s in pieces.manifest.source
    ]
    files = ["manifest.json", "panel.arrow", "rows.npy", "source.arrow"]
    assert sorted(p.name for p in (tmp_path / "b" / "cache").iterdir()) == files


@pytest.mark.parametrize("shards", [2, 3, 60])
def test_shards_rank_over_the_whole_date(tmp_path, shards):
    one, _ = build(frame(), tmp_path / "one")
    several, _ = build(frame(), tmp_path / "several", shards=shards)
    assert len(several.files) == shards
    assert several.manifest.codes == one.manifest.codes
    a, b = stored(one), stored(several)
    assert a.keys() == b.keys()
    for key, values in a.items():
        np.testing.assert_array_equal(values, b[key])
    counted = ("absent", "scored", "missing_targets")
    assert [several.manifest.counts[n] for n in counted] == [one.manifest.counts[n] for n in counted]
    for x, y in zip(one.manifest.stored, several.manifest.stored, strict=True):
        assert y.model_dump() == pytest.approx(x.model_dump(), abs=1e-9)


def test_more_shards_than_codes(tmp_path):
    with pytest.raises(InputError, match="61 shards of 60 codes"):
        build(frame(), tmp_path, shards=61)


def test_the_manifest_keeps_what_the_source_was_like(tmp_path):
    table = frame()
    panel, _ = build(table, tmp_path)
    for name, s in zip(FEATURES, panel.manifest.source, strict=True):
        known = table[name].cast(pl.Float64).fill_nan(None)
        assert s.missing == pytest.approx(known.null_count() / len(known))
        if name == "nothing":
            assert (s.mean, s.deviation, s.low, s.high, s.constant) == (0, 0, 0, 0, True)
            continue
        assert (s.mean, s.deviation) == pytest.approx((known.mean(), known.std(ddof=0)), rel=1e-6, abs=1e-8)
        assert (s.low, s.high) == (known.min(), known.max())
        assert s.constant == (name == "constant")
    means, deviations = panel.features[panel.presence[:] == 2].mean(0), panel.features[panel.presence[:] == 2].std(0)
    for s, mean, deviation in zip(panel.manifest.stored, means, deviations, strict=True):
        assert (s.mean, s.deviation) == pytest.approx((mean, deviation), abs=1e-5)


def test_the_oddest_features_come_first_and_the_useless_are_named(tmp_path):
    panel, _ = build(frame(), tmp_path, transform="none")
    names = [line.split(":")[0] for line in oddest(panel.manifest)]
    assert set(names[:2]) == {"constant", "nothing"}
    assert names[-1] in ("plain", "tied")
    assert useless(panel.manifest) == "features that say nothing: 1 constant (constant), 1 wholly missing (nothing)"
    ranked, _ = build(frame(), tmp_path, transform="rank")
    assert useless(ranked.manifest) == useless(panel.manifest)
    plain, _ = build(frame(), tmp_path, features=["plain", "tied"])
    assert useless(plain.manifest) is None


SMALL = [
    "data.context=3", "data.block_days=4", "data.block_codes=20", "model.spans=[3]", "train.epochs=1", "train.blocks=4",
]  # fmt: skip


def opened(folder, *settings):
    with open_inputs(load_config(None, [*SMALL, *settings], str(folder / "cache")), "cpu"):
        pass


@pytest.mark.parametrize("name", ["tiny", "huge", "shifted"])
def test_a_scale_that_the_model_cannot_see_is_refused(tmp_path, name):
    build(frame(), tmp_path, features=["plain", name], transform="none")
    with pytest.raises(InputError, match=rf"1 of 2 features .*{name} .*--transform rank.*data.any_scale=true"):
        opened(tmp_path)
    opened(tmp_path, "data.any_scale=true")
    for transform in ("rank", "zscore"):
        build(frame(), tmp_path, features=["plain", name], transform=transform)
        opened(tmp_path)


def test_constants_are_told_and_not_refused(tmp_path):
    build(frame(), tmp_path, transform="none", features=["plain", "constant", "nothing"])
    console = Console(width=300, record=True, file=io.StringIO())
    train(load_config(None, SMALL, str(tmp_path / "cache")), tmp_path / "run", False, console)
    assert "1 constant (constant), 1 wholly missing (nothing)" in console.export_text()


def test_ids_are_stored_as_they_are(tmp_path):
    table = frame()
    table = table.with_columns(sector=pl.col("code").str.slice(1).cast(pl.Int32) % 7)
    panel, _ = build(table, tmp_path, features=["plain", "sector"], categories=["sector"], dtype="float16")
    assert panel.manifest.categories == ["sector"]
    for (_, code), values in stored(panel).items():
        assert values[1] == int(code[1:]) % 7
    with pytest.raises(InputError, match=r"holds ids in sector.*model\.categories=\{sector="):
        opened(tmp_path)
    opened(tmp_path, "model.categories={sector=7}")


@pytest.mark.parametrize(
    ("value", "dtype", "words"),
    [(None, "float32", "nan"), (1.5, "float32", "1.5"), (-1.0, "float32", "-1"), (2049.0, "float16", "2049")],
)
def test_what_is_no_id_is_refused_by_name(tmp_path, value, dtype, words):
    table = frame()
    sector = [value if i == 7 else 1.0 for i in range(len(table))]
    table = table.with_columns(sector=pl.Series(sector, dtype=pl.Float64))
    of = f"{table['code'][7]} on {str(table['date'][7])[:10]} is {words}"
    with pytest.raises(InputError, match=of):
        build(table, tmp_path, features=["plain", "sector"], categories=["sector"], dtype=dtype)
    if value == 2049.0:
        build(table, tmp_path, features=["plain", "sector"], categories=["sector"], dtype="float32")


def test_features_can_be_left_out(tmp_path):
    panel, _ = build(frame(), tmp_path, features=["*"], exclude=["nothing", "h*"])
    assert panel.manifest.features == [n for n in FEATURES if n not in ("nothing", "huge", "holes")]


@pytest.mark.parametrize(("end_share", "text"), [(0.0, "survivors"), (0.25, "usual")])
def test_inspect_says_how_many_codes_end(tmp_path, end_share, text):
    """40 codes over four years of weekdays; a quarter of them ending is about 7% a year."""
    days = np.busday_offset("2010-01-01", np.arange(4 * 260), "forward")
    rows = [
        (day.astype(object), f"c{i:02d}", float(i + j % 7), 0.0)
        for i in range(40)
        for j, day in enumerate(days)
        if not (i < 40 * end_share and j > 400 + 20 * i)
    ]
    table = pl.DataFrame(rows, schema=["date", "code", "plain", "y_1"], orient="row")
    panel, _ = build(table, tmp_path, features=["plain"])
    line = survivorship(panel.manifest)
    ended = int(40 * end_share)
    years = (days[-1] - days[0]).astype(int) / 365.25
    alive = len(rows) / (len(days) / years)
    assert line.startswith(f"{ended / alive:.1%} a year, {ended} of 40")
    assert text in line
    assert ("survivors" in line) == (ended == 0)


def test_statistics_are_of_the_universe(tmp_path):
    """A written manifest holds them whoever wrote it."""
    manifest = read_manifest(build(frame(), tmp_path)[0].folder)
    assert len(manifest.stored) == len(manifest.source) == len(FEATURES)
