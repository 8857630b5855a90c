"""What is harmed: a small cache, runs, folds, studies and score files, made once by the commands themselves.

panel.parquet, .csv, .arrow   24 codes x 150 days, 4 features, 2 targets: what the cache is built from
more.parquet                  the same and 5 more days, to append
bars.parquet                  daily bars, for the other recipe
cache/                        built from panel.parquet, with its source
other/                        a cache of the same shape and other values
run/  twin/                   two trainings of 2 epochs, one of them with trees and a refitted last layer
stopped/                      a training that SIGTERM ended after its first epoch
folds/                        a walk of 2 folds
study/  sql/                  a study of 3 trials in a journal, and one in study.db
scores.parquet  ridge.parquet run's scores, and those of a baseline
config.toml                   settings, those of the trainings included
"""

import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from tests.faults.server import Outcome, apart, rehearse, start

CODES, DAYS, MORE, FEATURES, HORIZONS = 26, 150, 5, ("f0", "f1", "f2", "f3"), (1, 5)
CONFIG = """
[data]
arrow = "cache"
context = 4
block_days = 8
block_codes = 24

[model]
spans = [3]
bins = 2
risk_factors = 2

[train]
epochs = 2
blocks = 3
learning_rate = 5e-3
"""
SPACE = """
[hpo.space]
"train.learning_rate" = { low = 1e-3, high = 1e-2, log = true }
"""
TRAIN = ("train", "--config", "config.toml", "--arrow", "cache")
HPO = ("hpo", "--config", "config.toml", "--arrow", "cache", "--batch", "1")
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("cache", "build", "panel.parquet", "--features", "f*", "--targets", "fwd_1,fwd_5", "--out", "cache"),
    ("cache", "build", "other.parquet", "--features", "f*", "--targets", "fwd_1,fwd_5", "--out", "other"),
    (*TRAIN, "--out", "run"),
    (
        *TRAIN, "--out", "twin", "--set", "train.seed=1", "--with-trees", "--set", "trees.trees=5", "--set",
        "model.last_layer_weight=0.3",
    ),
    (*TRAIN, "--out", "folds", "--folds", "2"),
    (*HPO, "--out", "study", "--trials", "3"),
    (*HPO, "--out", "sql", "--trials", "3", "--storage", "sqlite:///study.db"),
    ("predict", "run", "--arrow", "cache", "--out", "scores.parquet"),
    ("baseline", "--config", "config.toml", "--arrow", "cache", "--out", "ridge.parquet", "--json"),
)  # fmt: skip
REHEARSED: tuple[tuple[str, ...], ...] = (
    ("evaluate", "run", "--arrow", "cache", "--json"),
    ("evaluate", "scores.parquet", "--arrow", "cache", "--against", "ridge.parquet"),
    ("cache", "inspect", "cache"),
    ("cache", "verify", "cache"),
    ("predict", "run", "--arrow", "cache", "--date", "latest"),
    ("report", "run", "--arrow", "cache", "--out", "rehearsed.html"),
    ("report", "study", "--arrow", "cache", "--out", "rehearsed.html"),
    ("cache", "simulate", "--out", "rehearsed", "--codes", "20", "--days", "60", "--features", "4"),
    ("cache", "build", "bars.parquet", "--recipe", "ohlcv", "--code", "code", "--out", "rehearsed-bars"),
    ("config", "show", "--config", "config.toml"),
    ("baseline", "--config", "config.toml", "--arrow", "cache", "--kind", "online"),
    ("audit", "cache", "run", "--json"),
    ("audit", "cache", "study", "--json"),
)  # fmt: skip


def make(folder: Path, say: Callable[[str], None] = print) -> Path:
    """Make all of it in a new folder; afterwards this process is warm for every command.

    Raises AssertionError where a command on sound files does not succeed.
    """
    folder.mkdir(parents=True)
    apart(partial(_write_sources, folder))
    for argv in COMMANDS + REHEARSED:
        began = time.monotonic()
        _succeeded(argv, rehearse(argv, folder))
        say(f"{time.monotonic() - began:5.1f} s  atft-engine {' '.join(argv)}")
    _stop_after_an_epoch(folder)
    for path in [*folder.rglob("report.html"), *folder.glob("rehearsed.*"), *folder.rglob("events.*")]:
        path.unlink()  # nothing reads them
    for path in folder.glob("rehearsed*"):
        shutil.rmtree(path)
    return folder


def warm_up(folder: Path) -> None:
    """Make this process warm by what `make` has made, in another process."""
    commands = (*REHEARSED, (*TRAIN, "--out", "rehearsed", "--set", "train.epochs=1"))
    for argv in commands:
        rehearse(argv, folder)
        for path in folder.glob("rehearsed*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _succeeded(argv: tuple[str, ...], outcome: Outcome) -> None:
    found = argv[0] == "audit" and outcome.code == 1 and outcome.out  # it ends so where it finds something
    assert outcome.code == 0 or found, f"{' '.join(argv)}: {outcome}"


def _stop_after_an_epoch(folder: Path) -> None:
    """A training of many epochs, which SIGTERM ends when the first is written."""
    child = start([*TRAIN, "--out", "stopped", "--set", "train.epochs=3"], folder)
    metrics = folder / "stopped" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_bytes()):
        time.sleep(0.01)
    child.send(signal.SIGTERM)
    outcome = child.wait()
    assert outcome.code == 1, f"SIGTERM did not stop the training: {outcome}"


def _write_sources(folder: Path) -> None:
    (folder / "config.toml").write_text(CONFIG + SPACE)
    whole = _panel(seed=0)
    known = _panel(seed=0, days=DAYS)
    pa.parquet.write_table(known, folder / "panel.parquet")
    pa.parquet.write_table(whole, folder / "more.parquet")
    pa.csv.write_csv(known, folder / "panel.csv")
    with pa.ipc.new_file(folder / "panel.arrow", known.schema) as writer:
        writer.write_table(known)
    pa.parquet.write_table(_panel(seed=1), folder / "other.parquet")
    pa.parquet.write_table(_bars(), folder / "bars.parquet")


def _calendar() -> np.ndarray:
    return np.busday_offset("2020-01-01", np.arange(DAYS + MORE), "forward")


def _closes(seed: int) -> np.ndarray:
    """[codes, days], a day's return of 2%."""
    steps = np.random.default_rng(seed).normal(0, 0.02, (CODES, DAYS + MORE))
    return 50 * np.exp(np.cumsum(steps, axis=1))


def _rows(columns: dict[str, np.ndarray], days: int = DAYS + MORE) -> pa.Table:
    """A row per code and day; columns are [codes, days], of which the first are taken."""
    code, day = np.indices((CODES, days)).reshape(2, -1)
    names = np.array([f"C{i:02d}" for i in range(CODES)])
    keys = {"date": pa.array(_calendar()[day]), "code": pa.array(names[code])}
    values = {name: pa.array(column[:, :days].reshape(-1), from_pandas=True) for name, column in columns.items()}
    return pa.table(keys | values)


def _panel(seed: int, days: int = DAYS + MORE) -> pa.Table:
    """Features that know something of the next day's return; no target at the end, where it is not known."""
    closes = _closes(seed)
    columns = {}
    noise = np.random.default_rng(seed + 100)
    forward = {h: np.full(closes.shape, np.nan) for h in HORIZONS}
    for h, values in forward.items():
        values[:, :-h] = closes[:, h:] / closes[:, :-h] - 1
    for name in FEATURES:
        columns[name] = noise.normal(0, 1, closes.shape) + 10 * np.nan_to_num(forward[1])
    rows = _rows(columns | {f"fwd_{h}": values for h, values in forward.items()}, days)
    traded = noise.random(closes.shape) > 0.03
    traded[3, :40] = traded[5, 90:] = False  # listed late, ended early
    return rows.filter(pa.array(traded[:, :days].reshape(-1)))


def _bars() -> pa.Table:
    closes = _closes(2)
    volume = np.random.default_rng(3).integers(10**5, 10**6, closes.shape).astype(float)
    prices = {"open": closes * 0.999, "high": closes * 1.01, "low": closes * 0.99, "close": closes}
    return _rows(prices | {"volume": volume})
