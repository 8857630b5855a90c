"""What tests share: Triton's interpreter where there is no GPU, one thread a worker, a small cache, a run on it."""

import os
import sys

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; so do the commands that they start
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from filelock import FileLock
from rich.console import Console

from tests.panels import write_panel

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before a kernel is defined

# Of the run that tests share: 3 epochs of 24 blocks.
SMALL = [
    "data.context=8", "data.block_days=4", "data.block_codes=24", "model.spans=[3]", "train.epochs=3",
    "train.blocks=24", "train.learning_rate=5e-3",
]  # fmt: skip


@pytest.fixture(scope="session")
def once(tmp_path_factory, worker_id):
    """once(name, make): the folder that make(folder) fills, made by whichever worker asks first. Never change it."""
    root = tmp_path_factory.getbasetemp()
    root = (root if worker_id == "master" else root.parent) / "shared"
    root.mkdir(exist_ok=True)

    def get(name, make):
        folder = root / name
        with FileLock(root / f"{name}.lock"):
            if not (root / f"{name}.done").exists():
                make(folder)
                (root / f"{name}.done").touch()
        return folder

    return get


@pytest.fixture(scope="session")
def small_cache(once):
    """60 codes x 160 days of 5 features that drive the targets, with every oddity of `tests.panels`."""
    return once("cache", lambda folder: write_panel(folder, n_codes=60, n_days=160, signal=1.0))


@pytest.fixture(scope="session")
def small_run(once, small_cache):
    """An unbroken training with the settings SMALL on the small cache."""
    from engine.config_file import load_config
    from engine.training.loop import train

    return once(
        "run", lambda folder: train(load_config(None, SMALL, str(small_cache)), folder, False, Console(quiet=True))
    )


@pytest.fixture
def run_command(monkeypatch, capsys):
    """Run a command line in this process; gives exit code, stdout and stderr."""
    from engine.cli.app import main

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["atft-engine", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call
