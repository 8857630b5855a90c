"""What commands print: as written, whole lines where nobody looks, tables that fit 80 characters."""

import io

import pytest
from rich.console import Console

from engine.cli.options import console
from engine.score.metrics import METRICS
from engine.score.tables import comparison_table, metrics_table, splits_table
from tests.conftest import SMALL

FIGURES = {name: -0.12345678 for name in METRICS} | {"days": 2_434, "samples": 8_990_000}


def printed(renderable, width=80):
    text = io.StringIO()
    Console(file=text, width=width, markup=False, soft_wrap=False).print(renderable)
    return text.getvalue()


def test_output_that_is_no_terminals_has_no_control_character(run_command, small_cache, tmp_path):
    settings = [part for setting in (*SMALL, "train.epochs=1", "train.blocks=2") for part in ("--set", setting)]
    for arguments in (
        ("cache", "simulate", "--out", tmp_path / "cache", "--codes", 30, "--days", 80),
        ("cache", "inspect", small_cache),
        ("cache", "verify", small_cache),
        ("train", "--arrow", small_cache, "--out", tmp_path / "run", *settings),
        ("evaluate", tmp_path / "run"),
        ("predict", tmp_path / "run", "--out", tmp_path / "scores.parquet"),
        ("baseline", "--arrow", small_cache, "--kind", "reversal"),
    ):
        code, out, err = run_command(*arguments)
        assert (code, err) == (0, "")
        assert out
        assert all(sign.isprintable() or sign == "\n" for sign in out), arguments
        assert "━" not in out


def test_brackets_and_colons_of_a_user_are_printed_as_they_are(run_command, tmp_path):
    odd = tmp_path / "[red]a[/red] [X] :smile:"
    code, out, _ = run_command("cache", "simulate", "--out", odd, "--codes", 30, "--days", 80)
    assert code == 0
    assert f"{odd}: " in out
    assert str(odd) in run_command("cache", "verify", odd)[1]
    code, _, err = run_command("cache", "verify", tmp_path / "[hpo] [/x]")
    assert code == 2
    assert str(tmp_path / "[hpo] [/x]") in err
    with console.capture() as capture:
        console.print(metrics_table("[red]a[/red] :smile:", {"1": FIGURES}, 252, notes=["[X] of [/b]"]))
    assert capture.get().startswith("[red]a[/red] :smile:\n")
    assert "\n[X] of [/b]\n" in capture.get()


@pytest.mark.parametrize(("parts", "horizons"), [(1, 1), (2, 2), (2, 3), (3, 5), (1, 12)])
def test_tables_fit_and_no_figure_is_cut(parts, horizons):
    splits = {f"part{i}": {str(h): FIGURES for h in range(1, horizons + 1)} for i in range(parts)}
    days = {name: "2000-01-03..2001-12-03 (504 days)" for name in splits}
    text = printed(splits_table("runs/first", splits, days, 252, notes=["a note"]))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert text.count("-0.1235") >= parts * horizons
    assert text.count("8,990,000") == parts * horizons
    for name in days:
        assert f"{name} {days[name]}" in text


def test_two_parts_are_side_by_side_in_one_table():
    splits = {name: {"1": FIGURES, "5": FIGURES} for name in ("valid", "test")}
    lines = printed(splits_table("run", splits, {"valid": "v", "test": "t"}, 252)).splitlines()
    headings = [line.split() for line in lines if "h=1" in line]
    assert headings == [["metric", "h=1", "h=5", "h=1", "h=5"]]
    assert ["valid", "valid", "test", "test"] in [line.split() for line in lines]
    assert sum(line.startswith("RankIC ") for line in lines) == 1
    assert len(lines) <= 23  # of a terminal's 24


def test_a_comparison_says_what_it_is_minus():
    keys = ("rank_ic", "rank_ic_against", "difference", "difference_se", "difference_t", "difference_p")
    found = dict.fromkeys(keys, 0.25) | {"days": 20, "samples": 4_000}
    text = printed(comparison_table("minus ridge.parquet", {"1": found}, ["tuned"]))
    assert text.startswith("minus ridge.parquet\n")
    assert "+0.2500" in text
    assert text.endswith("tuned\n")


def test_lines_are_whole_where_there_is_no_terminal():
    """A path that a line names can be copied from a log."""
    line = "word " * 60 + "/a/path/that/is/long"
    with console.capture() as capture:
        console.print(line)
    assert capture.get() == line + "\n"
