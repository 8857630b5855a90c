"""A run's folder belongs to one training at a time, and whatever a kill leaves of its beginning can be begun again."""

import os
import shutil

import pytest
from rich.console import Console

from engine.callbacks.protocol import Callback
from engine.checkpoint import LAST
from engine.config_file import load_config
from engine.live.state import keep_state, kept_states
from engine.score.predict import load_run
from engine.training.folds import train_folds
from engine.training.loop import train
from engine.training.run import resumed_config
from loaders.disk.lock import LOCK, alone_in
from loaders.errors import InputError, WriteError
from tests.conftest import SMALL

QUIET = Console(quiet=True)
SHORT = [*SMALL, "train.epochs=1", "train.blocks=2", "model.online_weight=0", "model.neutralize=0"]


def settings(cache, *more):
    return load_config(None, [*SHORT, *more], str(cache))


def test_two_trainings_and_two_resumed_at_once(small_cache, tmp_path):
    run, config = tmp_path / "run", settings(small_cache)

    class Second(Callback):
        """Tries what another terminal would, while the first trains."""

        def on_validation(self, _run, _line):
            assert (run / LOCK).exists()
            with pytest.raises(InputError, match=f"in use by process {os.getpid()} on"):
                train(resumed_config(run, [], None), run, True, QUIET)
            with pytest.raises(InputError, match="not empty"):
                train(config, run, False, QUIET)

    train(config, run, False, QUIET, [Second()])
    assert not (run / LOCK).exists()
    with alone_in(run), pytest.raises(InputError, match="in use by process"):
        train(resumed_config(run, [], None), run, True, QUIET)


def test_folds_too(small_cache, tmp_path):
    out, config = tmp_path / "out", settings(small_cache, "split.folds=2")
    out.mkdir()
    with alone_in(out), pytest.raises(InputError, match="in use by process"):
        train_folds(config, out, False, QUIET)
    (out / "fold-0").mkdir()  # as a kill before config.toml leaves it
    train_folds(config, out, False, QUIET)
    assert (out / "summary.json").exists()
    with alone_in(out), pytest.raises(InputError, match="in use by process"):
        train_folds(resumed_config(out, ["split.folds=2"], None), out, True, QUIET)
    shutil.copytree(out, tmp_path / "lost")
    (tmp_path / "lost" / "config.toml").unlink()
    with pytest.raises(InputError, match="not empty"):  # trained folds are no beginning
        train_folds(config, tmp_path / "lost", False, QUIET)


def test_a_beginning_that_was_cut_short(small_cache, small_run, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / f"checkpoints/.{LAST}.partial").write_bytes(b"half")
    (run / "events.out.tfevents.1").touch()
    with pytest.raises(InputError, match="its beginning was cut short, leave --resume out"):
        resumed_config(run, [], None)
    train(settings(small_cache), run, False, QUIET)
    assert len(list(run.glob("events.out.*"))) == 1

    shutil.copytree(small_run, tmp_path / "lost")
    (tmp_path / "lost" / "config.toml").unlink()
    with pytest.raises(InputError, match="not empty"):  # a trained model is no beginning
        train(settings(small_cache), tmp_path / "lost", False, QUIET)


def test_a_read_only_run_is_not_resumed_and_is_scored(small_run, tmp_path, monkeypatch, run_command):
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    real_open, real_mkdir = os.open, os.mkdir

    def read_only(path):
        if str(path).startswith(str(run)):
            raise OSError(30, os.strerror(30), str(path))

    def open_file(path, flags, *more, **named):
        if flags & (os.O_WRONLY | os.O_RDWR):
            read_only(path)
        return real_open(path, flags, *more, **named)

    def make(path, *more, **named):
        read_only(path)
        real_mkdir(path, *more, **named)

    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(os, "mkdir", make)
    with pytest.raises(WriteError, match=r"run: cannot be written to \(Read-only file system\)"):
        train(resumed_config(run, [], None), run, True, QUIET)
    code, _, err = run_command("predict", run, "--out", tmp_path / "scores.parquet")
    assert (code, err) == (0, "")
    code, _, err = run_command("predict", run, "--date", "latest")
    assert (code, err) == (0, "")
    state = load_run(run).state
    told = keep_state(run, kept_states(run, state)[0], state)
    assert told is not None
    assert "Read-only file system" in told
    code, _, err = run_command("predict", run, "--out", run / "scores.parquet")
    assert (code, err.count("\n")) == (2, 1)
    assert "Read-only file system" in err
    assert run_command("evaluate", run)[0] == 0


@pytest.mark.parametrize("where", ["/proc/scores.parquet", "/sys/scores.parquet", "FILE/scores.parquet", "FIFO"])
@pytest.mark.parametrize("command", ["predict", "baseline"])
def test_an_out_where_nothing_can_be_written(small_run, small_cache, tmp_path, run_command, where, command):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    where = where.replace("FILE", str(tmp_path / "file")).replace("FIFO", str(tmp_path / "fifo"))
    source = [small_run] if command == "predict" else ["--arrow", small_cache, "--kind", "reversal"]
    code, _, err = run_command(command, *source, "--out", where)
    assert (code, err.count("\n")) == (2, 1)
    assert "could not be written" in err or "is no path to use" in err
