"""TensorBoard's events: what it reads of a run, also of one that was resumed, and how a write that fails ends."""

import errno
import json
import os
import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.config_file import load_config
from engine.screen.console import QUIET
from engine.training.loop import train
from loaders.errors import WriteError
from tests.conftest import SMALL


def scalars(run):
    """Values by step of one tag."""
    found = EventAccumulator(str(run)).Reload()
    return {event.step: event.value for event in found.Scalars("valid/rank_ic_h1")}


def expected(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: pytest.approx(line["valid"]["1"]["rank_ic"], rel=1e-6) for line in lines}


def test_tensorboard_reads_every_validation(small_run):
    assert scalars(small_run) == expected(small_run)


def test_a_resumed_run_drops_what_came_after_its_checkpoint(small_cache, tmp_path, monkeypatch):
    run = tmp_path / "run"

    def stop(*_):
        raise KeyboardInterrupt

    def to_the_end(resume):
        train(load_config(None, [*SMALL, "train.epochs=2"], str(small_cache)), run, resume, QUIET)

    with monkeypatch.context() as context:
        context.setattr("engine.training.loop._write_summary", stop)
        with pytest.raises(KeyboardInterrupt):
            to_the_end(resume=False)
    to_the_end(resume=True)
    assert len(list(run.glob("events.*"))) == 2
    assert scalars(run) == expected(run)


@pytest.mark.parametrize("call", [1, 2, 3])
def test_events_that_cannot_be_written_end_a_training_with_a_line_and_no_thread(
    small_cache, tmp_path, monkeypatch, call
):
    run, real, opened, before = tmp_path / "run", Path.open, [], threading.active_count()

    def full(path, *arguments, **named):
        if path.name.startswith("events."):
            opened.append(path)
            if len(opened) == call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, *arguments, **named)

    config = load_config(None, [*SMALL, "train.epochs=2"], str(small_cache))
    with monkeypatch.context() as context:
        context.setattr(Path, "open", full)
        with pytest.raises(
            WriteError, match=r"run: TensorBoard's events cannot be written \(No space left on device\)"
        ):
            train(config, run, False, QUIET)
    assert threading.active_count() <= before  # a writer's thread would print a traceback of its own
    train(config, run, call > 1, QUIET)
    found = expected(run)
    assert all(found[step] == value for step, value in scalars(run).items())  # one may be missing
