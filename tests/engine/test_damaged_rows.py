"""No command gives a figure of rows that differ from their checksums: one line, exit code 2, nothing written."""

import shutil
import threading
import warnings

import numpy as np
import pytest
import torch

import engine
from engine.live import check
from engine.score.predict import load_run
from loaders import verify
from loaders.cache.format import read_manifest
from loaders.errors import InputError
from loaders.panel import open_panel
from tests.conftest import SMALL

NAN = b"\x00\x00\xc0\x7f"


def xor(panel, manifest):
    middle = len(panel) // 2
    panel[middle : middle + 10_000] ^= 0x5A


def not_numbers(panel, manifest):
    start = manifest.batches[0].features
    values = panel[start : start + manifest.rows * len(manifest.features) * 4].view(np.uint8)
    values[:] = np.resize(np.frombuffer(NAN, np.uint8), len(values))


def presence(panel, manifest):
    start = manifest.batches[0].presence
    panel[start : start + manifest.rows] ^= 3


def signalling(panel, manifest):
    """NaNs of whose conversion NumPy warns."""
    start = manifest.batches[0].features
    panel[start : start + 4 * manifest.rows * len(manifest.features)].view(np.uint32)[::7] = 0x7FA00000


DAMAGES = [xor, not_numbers, signalling, presence]


def damaged(cache, folder, damage):
    shutil.copytree(cache, folder)
    panel = np.memmap(folder / "panel.arrow", np.uint8, "r+")
    damage(panel, read_manifest(folder))
    panel.flush()
    return folder


@pytest.fixture(params=DAMAGES, ids=lambda damage: damage.__name__)
def cache(request, small_cache, tmp_path):
    return damaged(small_cache, tmp_path / "cache", request.param)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "RUN", "--arrow", "CACHE"],
        ["evaluate", "SCORES", "--arrow", "CACHE"],
        ["predict", "RUN", "--arrow", "CACHE", "--out", "OUT"],
        ["predict", "RUN", "--arrow", "CACHE", "--start", "2010-07-05", "--out", "OUT"],
        ["predict", "RUN", "--arrow", "CACHE", "--date", "latest", "--out", "OUT"],
        ["predict", "RUN", "--arrow", "CACHE", "--date", "latest", "--json"],
        ["report", "RUN", "--arrow", "CACHE", "--out", "OUT"],
        ["baseline", "--arrow", "CACHE", "--out", "OUT"],
        ["baseline", "--arrow", "CACHE", "--kind", "reversal", "--out", "OUT"],
        ["baseline", "--arrow", "CACHE", "--kind", "online", "--out", "OUT"],
        ["audit", "CACHE"],
        ["audit", "CACHE", "RUN", "--json"],
        ["audit", "CACHE", "SCORES", "--json"],
        ["audit", "SOUND", "--vintage", "CACHE"],
    ],
    ids=" ".join,
)
def test_no_command_tells_a_figure(command, cache, small_run, small_cache, tmp_path, run_command):
    scores = tmp_path / "scores.parquet"
    if "SCORES" in command:
        assert run_command("predict", small_run, "--arrow", small_cache, "--out", scores)[0] == 0
    run, out = shutil.copytree(small_run, tmp_path / "run"), tmp_path / "out"
    out.write_text("of before")
    before = files(tmp_path)
    paths = {"RUN": run, "CACHE": cache, "OUT": out, "SCORES": scores, "SOUND": small_cache}
    with warnings.catch_warnings(record=True) as told:  # not errors, which would give way to the checksum's
        warnings.simplefilter("always", RuntimeWarning)
        code, shown, error = run_command(*[paths.get(word, word) for word in command])
    assert not [each for each in told if each.category is RuntimeWarning]
    assert (code, error.count("\n")) == (2, 1), error
    assert "checksum differs in chunk 0" in error
    assert not shown.strip()
    assert files(tmp_path) == before


def header(panel, manifest):
    """Bytes of Arrow's metadata by which it ended the process, or other figures came out."""
    panel[[520, 568, 601, 647, 679]] ^= 0x80


def of_another_cache(panel, manifest):
    """As many bytes of the same form."""
    start = manifest.batches[0].features
    values = panel[start : start + 4 * manifest.rows * len(manifest.features)].view(np.float32)
    values[:] = -values


@pytest.mark.parametrize("damage", [header, of_another_cache])
def test_what_looks_sound_is_not_told_either(damage, small_cache, small_run, tmp_path, run_command):
    cache = damaged(small_cache, tmp_path / "cache", damage)
    run, out = shutil.copytree(small_run, tmp_path / "run"), tmp_path / "out"
    for command in (["evaluate", run], ["predict", run, "--out", out], ["baseline", "--out", out]):
        code, shown, error = run_command(*command, "--arrow", cache)
        assert (code, error.count("\n"), shown.strip()) == (2, 1, "")
        assert "checksum differs in chunk 0" in error
    assert not out.exists()


def test_an_export_is_not_checked_on_damaged_rows(small_run, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "load_exported", lambda path, to: lambda x, *_: torch.zeros(len(x), 1, 2))
    monkeypatch.setattr(check, "SIZES", ())
    with pytest.raises(InputError, match="checksum differs"):
        check.check_export(load_run(small_run), tmp_path / "file", "torch", 1, open_panel(cache))


@pytest.mark.parametrize(
    "settings",
    [[], ["model.neutralize=0.3", "model.risk_factors=2"], ["model.online_weight=0.5"]],
    ids=["plain", "risk factors", "online"],
)
def test_no_training_begins(settings, cache, tmp_path, run_command):
    out = tmp_path / "run"
    more = [text for setting in [*SMALL, *settings] for text in ("--set", setting)]
    code, _, error = run_command("train", "--arrow", cache, "--out", out, *more)
    assert (code, error.count("\n")) == (2, 1), error
    assert "checksum differs in chunk 0" in error
    assert not out.exists()


def test_a_resumed_training_keeps_its_checkpoint(small_cache, tmp_path, run_command):
    out, cache = tmp_path / "run", shutil.copytree(small_cache, tmp_path / "whole")
    more = [text for setting in [*SMALL, "train.epochs=2"] for text in ("--set", setting)]
    assert run_command("train", "--arrow", cache, "--out", out, *more)[0] == 0
    before = files(out / "checkpoints")
    assert before
    panel = np.memmap(cache / "panel.arrow", np.uint8, "r+")
    xor(panel, read_manifest(cache))
    panel.flush()
    code, _, error = run_command("train", "--resume", "--out", out)
    assert code == 2
    assert "checksum differs" in error
    assert files(out / "checkpoints") == before
    panel = np.memmap(cache / "panel.arrow", np.uint8, "r+")
    xor(panel, read_manifest(cache))  # a second time: as it was
    panel.flush()
    assert run_command("train", "--resume", "--out", out)[0] == 0


def test_folds_are_not_joined(small_cache, tmp_path, run_command):
    cache, out = damaged(small_cache, tmp_path / "cache", xor), tmp_path / "folds"
    more = [text for setting in SMALL for text in ("--set", setting)]
    code, _, error = run_command("train", "--arrow", cache, "--out", out, "--folds", "2", *more)
    assert (code, error.count("\n")) == (2, 1)
    assert "checksum differs" in error
    assert not list(out.rglob("*.parquet"))


def test_the_api_gives_none(cache, small_run):
    pytest.importorskip("polars")
    panel = engine.open_panel(cache)
    for ask in (
        lambda: engine.evaluate(small_run, cache=cache),
        lambda: engine.ic(small_run, cache=cache),
        lambda: engine.Run.load(small_run).predict(cache),
        lambda: engine.predict_latest(small_run, cache),
        lambda: panel.to_polars(),
        lambda: list(panel.blocks()),
        lambda: list(panel.blocks(shuffle_seed=0)),
    ):
        with pytest.raises(InputError, match="checksum differs in chunk 0"):
            ask()


def test_a_whole_panel_is_compared_once(small_cache, monkeypatch):
    pytest.importorskip("polars")
    panel, hashed = engine.open_panel(small_cache), []
    real = verify.checksum_of
    monkeypatch.setattr(verify, "checksum_of", lambda chunk: (hashed.append(1), real(chunk))[1])
    for _ in range(3):
        panel.to_polars()
        list(panel.blocks())
    assert len(hashed) == len(panel.manifest.checksums)


def test_a_training_that_fails_before_the_comparison_has_ended_gives_way(
    small_cache, tmp_path, monkeypatch, run_command
):
    """Risk directions of damaged rows are computed beside the comparison, which here ends after they have failed."""
    cache, failed = damaged(small_cache, tmp_path / "cache", xor), threading.Event()
    real = verify.checksum_of

    def fail(*_):
        failed.set()
        raise np.linalg.LinAlgError("the leading minor of order 3 is not positive definite")

    def compare(chunk):
        assert failed.wait(60)
        return real(chunk)

    monkeypatch.setattr("engine.training.run.risk_directions", fail)
    monkeypatch.setattr(verify, "checksum_of", compare)
    settings = [part for setting in SMALL for part in ("--set", setting)]
    code, _, error = run_command("train", "--arrow", cache, "--out", tmp_path / "run", *settings)
    assert (code, error.count("\n")) == (2, 1), error
    assert "checksum differs" in error
    assert not (tmp_path / "run").exists()


def test_an_exception_of_the_work_gives_way(small_cache, tmp_path, monkeypatch, run_command):
    """Whatever damaged rows make the work raise, the line is the checksum's."""
    cache = damaged(small_cache, tmp_path / "cache", xor)

    def fail(*_):
        raise np.linalg.LinAlgError("SVD did not converge")

    monkeypatch.setattr("engine.rivals.baseline.fit_rival", fail)
    code, _, error = run_command("baseline", "--arrow", cache)
    assert (code, error.count("\n")) == (2, 1)
    assert "checksum differs" in error
