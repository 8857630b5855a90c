"""Names that no terminal or TOML file can hold are refused wherever they come in, and all others work to the end."""

import polars as pl
import pytest

import engine
from loaders.cache.append import append
from loaders.cache.build import build
from loaders.cache.manifest.text import odd_character
from loaders.errors import InputError

ODD = ["\x00", "\x1b", "\n", "\r", "\t", "\x7f", "\x80", "\x9b", "\u2028", "\u2029"]
FINE = ["f 1", "Größe", "収益率", "a/b.c", "f[/]", "[bold]", "100%", "'\"", "\\x7f", "a\u00a0b", "\U0001f600", "\u200b"]


def frame(feature="f0", target="fwd_1", code="C{:02d}", start=1):
    days = pl.date_range(pl.date(2010, 1, start), pl.date(2010, 1, start + 25), eager=True).to_frame("date")
    rows = days.join(pl.DataFrame({"code": [code.format(i) for i in range(25)]}), how="cross")
    n = rows.height
    return rows.with_columns(pl.Series(feature, [i % 7 for i in range(n)]), pl.Series(target, [0.5] * n))


def settings(feature="f0", target="fwd_1"):
    return {"features": [feature], "targets": [target], "trust_horizons": True}


@pytest.mark.parametrize("odd", ODD, ids=ascii)
@pytest.mark.parametrize("place", ["feature", "target", "code"])
def test_a_build_refuses_it(place, odd, tmp_path):
    name = {"feature": f"f{odd}0", "target": f"fwd{odd}_1", "code": "C" + odd + "{:02d}"}[place]
    table = frame(**{place: name})
    given = {} if place == "code" else {place: name}
    table.write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=r"holds U\+00|holds U\+20") as refused:
        build("columns", [tmp_path / "rows.parquet"], tmp_path / "cache", settings(**given))
    assert str(refused.value).isprintable()
    with pytest.raises(InputError, match=r"holds U\+"):
        engine.build_cache(table, tmp_path / "cache", tell=None, **settings(**given))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("odd", ["\x7f", "\u2028"], ids=ascii)
def test_an_append_refuses_it_and_leaves_the_cache(odd, tmp_path):
    frame().write_parquet(tmp_path / "rows.parquet")
    cache_id = build("columns", [tmp_path / "rows.parquet"], tmp_path / "cache", settings()).cache_id
    frame(code="D" + odd + "{:02d}", start=6).write_parquet(tmp_path / "next.parquet")
    with pytest.raises(InputError, match=r"code .* holds U\+"):
        append(tmp_path / "cache", [tmp_path / "next.parquet"])
    assert engine.open_panel(tmp_path / "cache").manifest.cache_id == cache_id


def test_half_of_a_surrogate_pair_is_odd():
    assert odd_character("a\ud800") == "U+D800"


def test_all_other_names_are_kept(tmp_path):
    table = frame().drop("f0").with_columns(pl.lit(float(i)).alias(name) for i, name in enumerate(FINE))
    panel = engine.build_cache(table, tmp_path / "cache", tell=None, **settings() | {"features": FINE})
    assert panel.features == FINE
