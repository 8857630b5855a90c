"""What was reported as done is there after a loss of power, and nothing half-written is taken for whole."""

import itertools

import pytest
import torch
from rich.console import Console

from engine.checkpoint import LAST, load_checkpoint
from engine.config_file import load_config
from engine.inputs import open_inputs
from engine.training.fold import make_fold
from engine.training.run import BEGUN, CONFIG, open_run
from hpo.storage import JOURNAL, Journal
from loaders.cache.atomic import atomic_folder, write_atomically
from loaders.cache.format import MANIFEST
from loaders.disk.beginning import _left
from tests.conftest import SMALL
from tests.loaders.disk.power import recording, write_disk


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def materialised(tmp_path):
    number = itertools.count()
    return lambda disk: write_disk(disk, tmp_path / f"disk-{next(number)}")


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_file(root, monkeypatch, before):
    if before is not None:
        (root / "file").write_bytes(before)
    with recording(root, monkeypatch) as disks:
        write_atomically(root / "file", b"new content")
        assert disks.least() == {"file": b"new content"}
    assert len(disks.moments) > 4
    assert {disk.get("file") for disk in disks.moments} == {before, b"new content"}
    assert {".file.partial"} == set().union(*disks.moments) - {"file"}


@pytest.mark.parametrize("before", [False, True])
def test_a_folder(root, monkeypatch, before):
    old = {"a/cache": None, f"a/cache/{MANIFEST}": b"{}", "a/cache/inside": None, "a/cache/inside/rows": b"old rows"}
    if before:
        (root / "a" / "cache" / "inside").mkdir(parents=True)
        for name, content in old.items():
            if content is not None:
                (root / name).write_bytes(content)
    with recording(root, monkeypatch) as disks:
        with atomic_folder(root / "a" / "cache") as folder:
            (folder / "inside").mkdir()
            (folder / "inside" / "rows").write_bytes(b"new rows")
            (folder / MANIFEST).write_bytes(b"{ }")
        new = old | {f"a/cache/{MANIFEST}": b"{ }", "a/cache/inside/rows": b"new rows"}
        assert {name: content for name, content in disks.least().items() if name.startswith("a/cache")} == new
    found = [{n: c for n, c in disk.items() if n.startswith("a/cache")} for disk in disks.moments]
    assert {} in found or before
    assert all(disk in ([old, new] if before else [{}, new]) for disk in found)


def test_a_journal(root, monkeypatch, materialised):
    with recording(root, monkeypatch) as disks:
        journal = Journal(root / JOURNAL)
        first = len(disks.moments)
        for number in range(3):
            journal.append_logs([{"op_code": number}])
            assert disks.least()[JOURNAL].count(b"\n") == number + 1
    assert not any(disk.get(JOURNAL) for disk in disks.moments[:first])
    for disk in disks.moments[first:]:
        again = Journal(materialised(disk) / JOURNAL)
        whole = disk[JOURNAL].count(b"\n")
        assert [log["op_code"] for log in again.read_logs(0)] == [0, 1, 2][:whole]


def test_a_run_and_its_checkpoints(root, monkeypatch, materialised, small_cache):
    config = load_config(None, [*SMALL, "model.online_weight=0", "model.neutralize=0"], str(small_cache))
    run_folder = root / "runs" / "one"
    with open_inputs(config, "cpu") as inputs, recording(root, monkeypatch) as disks:
        fold = make_fold(config, inputs.panel, inputs.device)
        with open_run(config, inputs, fold, run_folder, False, Console(quiet=True)) as run:
            begun = disks.least()
            run.state.epoch = 1
            with torch.no_grad():
                run.learner.weights.optimizer.weights.add_(1)
            run.save_last()
            saved = disks.least()
    assert load_checkpoint(materialised(begun) / "runs/one/checkpoints" / LAST)[0].epoch == 0
    assert load_checkpoint(materialised(saved) / "runs/one/checkpoints" / LAST)[0].epoch == 1
    kinds = set()
    for disk in disks.moments:
        folder = materialised(disk) / "runs" / "one"
        if not folder.exists():
            kinds.add("nothing")
        elif (folder / CONFIG).exists():
            load_config(folder / CONFIG, [])
            kinds.add(f"resumed at epoch {load_checkpoint(folder / 'checkpoints' / LAST)[0].epoch}")
        else:
            _left(folder, BEGUN)  # raises where it could not be begun anew
            kinds.add("begun anew")
    assert kinds == {"nothing", "begun anew", "resumed at epoch 0", "resumed at epoch 1"}
