"""A user's texts hold what they like: brackets, emoji codes, quotes. All are printed as they are, none is fatal."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Group

import engine
from engine.score.tables import plain_table
from engine.screen.console import QUIET, make_console
from engine.screen.progress import showing
from loaders.panel import open_panel
from loaders.tiers.inspect import inspect_cache
from tests.conftest import SMALL
from tests.panels import rewritten, write_panel

ODD = "f[/] [bold]x [/red] :smile: {0} %s 12:34 'q'"


def shown(thing, console=None):
    console = console or make_console()
    console.file = io.StringIO()
    console.print(thing)
    return console.file.getvalue()


def test_every_place_of_a_table_shows_its_text():
    table = plain_table()
    table.title, table.caption = ODD, ODD
    table.add_column(ODD, footer=ODD, no_wrap=True)
    table.show_footer = True
    table.add_row(ODD)
    assert shown(Group(ODD, table)).count(ODD) == 6
    assert ODD in shown(ODD, make_console(terminal=True)).replace("\n", " ")
    QUIET.print(Group(ODD, table))


def test_one_module_makes_consoles():
    """So that none takes a user's text for markup."""
    root = Path(engine.__file__).parents[1]
    makers = [
        str(path.relative_to(root))
        for package in ("engine", "hpo", "loaders")
        for path in (root / package).rglob("*.py")
        if re.search(r"\bConsole\(|\bfrom_markup\(|rich import print", path.read_text())
    ]
    assert makers == ["engine/screen/console.py"]


def test_a_progress_bar_shows_what_it_is_told():
    console = make_console(terminal=True)
    console.file = text = io.StringIO()
    console._environ = {}
    with showing(console) as progress:
        progress(1, 2, "f[/] :smile:")
    assert "f[/] :smile:" in text.getvalue()


@pytest.mark.parametrize("place", ["out[/red]y", "[bold]:smile:"])
def test_a_run_and_a_cache_of_odd_names(run_command, tmp_path, place):
    made = write_panel(tmp_path / "made", n_codes=40, n_days=120, signal=1.0)
    names = [ODD, *made.manifest.features[1:]]
    panel = rewritten(made, tmp_path / place / "c", {"features": names, "codes": _odd(made.manifest.codes)})
    assert ODD in shown(inspect_cache(open_panel(panel.folder), "host"))
    settings = [part for setting in (*SMALL, "train.epochs=1", "train.blocks=2") for part in ("--set", setting)]
    out = tmp_path / place / "r"
    for arguments in (
        ["train", "--arrow", panel.folder, "--out", out, *settings],
        ["evaluate", out],
        ["predict", out, "--date", "latest", "--out", tmp_path / place / "s.parquet"],
    ):
        code, stdout, err = run_command(*arguments)
        assert (code, err) == (0, ""), err
        assert f"{place}/" in stdout


def _odd(codes):
    return [f"C[/]{code}" for code in np.array(codes)]
