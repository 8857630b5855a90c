"""Every long work tells how far it is; a terminal shows a bar and the time left, a file not a character of it."""

import io
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

import engine.training.dry_run
from engine.config_file import load_config
from engine.evaluation.evaluate import evaluate
from engine.inputs import make_split
from engine.rivals.fit import run_baseline
from engine.rivals.options import Options
from engine.screen import progress as drawn
from engine.screen.progress import Clock, showing
from engine.training.folds import train_folds
from engine.training.loop import train
from loaders.cache.build import build
from loaders.cache.format import verify
from loaders.cache.remote import local_copy
from loaders.cache.simulation.simulate import simulate
from loaders.panel import open_panel
from loaders.progress import counted, part_of, parts_of, quiet
from tests.conftest import SMALL

QUIET = Console(quiet=True)


class Heard(list):
    """A Progress that keeps what it is told, as (share, what)."""

    def __call__(self, done, total, what):
        assert 0 <= done <= total or total == 0, (done, total, what)
        self.append((done / total if total else 0.0, what))

    def ends(self):
        """Whether it only rose, and came to the end."""
        shares = [share for share, _ in self]
        return shares == sorted(shares) and shares[-1] == pytest.approx(1)


def bars(folder):
    """A file of 25 codes x 80 days of bars."""
    days = np.busday_offset("2020-01-06", np.arange(80), "forward").astype("datetime64[D]")
    rng = np.random.default_rng(0)
    close = 10 * np.exp(np.cumsum(0.01 * rng.standard_normal((25, 80)), 1)).ravel()
    table = {name: close for name in ("open", "high", "low", "close")}
    codes = np.repeat([f"c{i}" for i in range(25)], 80)
    pq.write_table(
        pa.table({"date": np.tile(days, 25), "ticker": codes, **table, "volume": close * 1e6}), folder / "bars.parquet"
    )
    return folder / "bars.parquet"


def by_simulate(heard, cache, tmp_path):
    simulate(tmp_path / "out", 40, 100, 8, 0.05, 0, [1, 5], "float32", progress=heard)


def by_ohlcv(heard, cache, tmp_path):
    build("ohlcv", [bars(tmp_path)], tmp_path / "out", {}, progress=heard)


def by_columns(heard, cache, tmp_path):
    settings = {"code": "ticker", "features": ["open"], "targets": ["close"], "horizons": [1], "trust_horizons": True}
    build("columns", [bars(tmp_path)], tmp_path / "out", settings | {"shards": 2}, progress=heard)


def by_verify(heard, cache, tmp_path):
    verify(cache, heard)


def by_copy(heard, cache, tmp_path):
    local_copy(Path(cache).as_uri(), tmp_path / "store", progress=heard)


def by_ridge(heard, cache, tmp_path):
    rival("ridge", heard, cache)


def by_online(heard, cache, tmp_path):
    rival("online", heard, cache)


def by_trees(heard, cache, tmp_path):
    pytest.importorskip("lightgbm", reason="LightGBM is not installed (extra `peers`)")
    rival("lightgbm", heard, cache)


def rival(kind, heard, cache):
    panel = open_panel(cache)
    run_baseline(panel, make_split(load_config(None, []), panel), kind, Options(progress=heard))
    heard(1, 1, "")  # trees end early


WORKS = (by_simulate, by_ohlcv, by_columns, by_verify, by_copy, by_ridge, by_online, by_trees)


@pytest.mark.parametrize("work", WORKS)
def test_a_work_on_a_cache(work, small_cache, tmp_path):
    heard = Heard()
    work(heard, small_cache, tmp_path)
    assert heard.ends()
    assert len(heard) > 1


def test_evaluation_of_two_runs(small_run, small_cache):
    heard = Heard()
    evaluate([small_run, small_run], "test", None, small_cache, progress=heard)
    assert heard.ends()
    assert {what for _, what in heard} == {"scoring", "online regression"}


def test_a_training_tells_of_all_its_epochs_and_a_resumed_one_goes_on(small_cache, tmp_path):
    config = load_config(None, [*SMALL, "train.blocks=2"], str(small_cache))
    heard = Heard()
    train(config, tmp_path / "run", False, QUIET, progress=heard)
    assert heard.ends()
    validated = [(round(share, 6), what) for share, what in heard if what.endswith("validation")]
    assert validated == [(round(i / 6, 6), f"epoch {i}/3 · validation") for i in (1, 2, 3)]
    refitted = [(round(share, 6), what) for share, what in heard if what.startswith("refit")]
    assert refitted == [(round(i / 6, 6), f"refit, epoch {i - 2}/3") for i in (3, 4, 5)]
    again = Heard()
    train(config, tmp_path / "run", True, QUIET, progress=again)
    assert again.ends()


def test_trees_and_refit_have_their_shares(small_cache, tmp_path):
    pytest.importorskip("lightgbm", reason="LightGBM is not installed (extra `peers`)")
    settings = [*SMALL, "train.epochs=1", "train.blocks=2", "train.refit=2", "trees.kind=lightgbm", "trees.trees=3"]
    heard = Heard()
    train(load_config(None, settings, str(small_cache)), tmp_path / "run", False, QUIET, progress=heard)
    assert [round(share, 6) for share, what in heard if what == "test"] == [0.75]
    assert min(share for share, what in heard if what == "trees") == 0.75
    assert heard == sorted(heard, key=lambda each: each[0])


def test_folds_are_parts_of_one_whole(small_cache, tmp_path):
    settings = [*SMALL, "train.epochs=1", "train.blocks=2", "split.folds=2", "split.valid_fraction=0.1"]
    heard = Heard()
    train_folds(
        load_config(None, [*settings, "split.test_fraction=0.1"], str(small_cache)),
        tmp_path / "run",
        False,
        QUIET,
        progress=heard,
    )
    assert heard.ends()
    assert [share for share, what in heard if what == "preparing"] == [0, 0.5]


def test_a_dry_run(small_cache, monkeypatch):
    heard = Heard()
    monkeypatch.setattr(engine.training.dry_run, "BLOCKS", 2)
    engine.training.dry_run.dry_run(load_config(None, SMALL, str(small_cache)), QUIET, progress=heard)
    assert [what for _, what in heard if "validation" in what] == ["epoch 1/2 · validation", "epoch 2/2 · validation"]


def test_parts_follow_one_another():
    heard = Heard()
    for part in parts_of(heard, (1.0, 0.0, 3.0)):
        part(0, 1, "begin")
        part(1, 1, "end")
    assert [share for share, _ in heard] == [0, 0.25, 0.25, 0.25, 0.25, 1]


def test_parts_and_counts():
    heard = Heard()
    assert list(counted("abc", 3, part_of(heard, 0.5, 1), "x")) == ["a", "b", "c"]
    assert [round(share, 3) for share, _ in heard] == [0.5, 0.667, 0.833, 1]
    heard.clear()
    part_of(heard, 0.5, 1)(0, 0, "unknown")
    assert heard == [(0.5, "unknown")]


def test_the_time_left_is_that_of_the_whole_at_the_mean_speed():
    clock = Clock()
    assert clock.left(40, 100, 1000.0) is None  # resumed at 40: nothing is known of the speed
    assert clock.left(50, 100, 1010.0) == 50.0
    assert clock.left(60, 100, 1040.0) == 80.0
    assert clock.left(0, 100, 1050.0) is None  # another work begins
    assert clock.left(1, 4, 1051.0) is None
    assert clock.left(2, 4, 1053.0) == 4.0


def test_a_terminal_shows_a_bar_within_its_width(monkeypatch):
    now = iter([0.0, 30.0, 60.0])
    monkeypatch.setattr(drawn.time, "monotonic", lambda: next(now))
    text = io.StringIO()
    with showing(Console(file=text, force_terminal=True, width=80, color_system=None, _environ={})) as progress:
        for done in (0, 1, 2):
            progress(done, 8, "epoch 1/8 · 123,456 samples/s · [loss] 0.9123")
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", text.getvalue()).replace("\r", "\n").splitlines()
    last = [line for line in lines if "%" in line][-1]
    assert last.startswith("epoch 1/8 · 123,456 samples/s · [loss] 0.9123 ")
    assert last.rstrip().endswith(" 25% 0:03:00 left")
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("console", [Console(file=io.StringIO()), Console(quiet=True, file=io.StringIO())])
def test_no_terminal_no_bar(console):
    with showing(console) as progress:
        assert progress is quiet
    with showing(Console(file=io.StringIO(), force_terminal=True, _environ={}), first=False) as progress:
        assert progress is quiet  # of ranks, the first shows it
