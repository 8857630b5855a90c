"""Reporting of a run: its console, TensorBoard events, metrics.jsonl, throughput. Nothing here changes a metric."""

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from engine.checkpoint import METRICS, State
from engine.score.tables import to_json
from engine.training.usage import Usage
from loaders.cache.atomic import write_atomically
from loaders.errors import WriteError
from loaders.progress import Progress, quiet

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event


@dataclass(frozen=True)
class RunLog:
    """Where a run reports to."""

    console: Console
    events: Path | None  # TensorBoard's file; None on all ranks but the first
    progress: Progress  # of the whole run, in steps


def open_log(folder: Path, console: Console, state: State, resumed: bool, first: bool, progress: Progress) -> RunLog:
    """A run's log; events after the step that it resumes from are dropped. Raises WriteError where none can be made."""
    if not first:
        return RunLog(console, None, quiet)
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    path = folder / f"events.out.tfevents.{time.time_ns()}.{platform.node()}.{os.getpid()}"
    begun = [Event(file_version="brain.Event:2")]
    if resumed:
        begun.append(Event(step=state.step + 1, session_log=SessionLog(status=SessionLog.START)))
    _append_events(path, begun)
    return RunLog(console, path, progress)


def _append_events(path: Path, events: "Sequence[Event]") -> None:
    """Add events to a file of TensorBoard's. Raises WriteError where that cannot be.

    TensorBoard's own writer writes in a thread, whose errors nobody can catch.
    """
    from tensorboard.summary.writer.record_writer import RecordWriter

    try:
        with path.open("ab") as file:
            for event in events:
                event.wall_time = time.time()
                RecordWriter(file).write(event.SerializeToString())
    except OSError as error:
        what = f"TensorBoard's events cannot be written ({error.strerror})"
        raise WriteError(str(path.parent), what, "Make room there, then resume") from error


def write_metrics(run: Path, state: State) -> None:
    """metrics.jsonl, a line per validation, of what depends on seed, data and settings alone: no times."""
    lines = "".join(to_json(line) + "\n" for line in state.history)
    write_atomically(run / METRICS, lines.encode())


def log_scalars(events: Path, line: dict[str, Any], state: State) -> None:
    """One validation's metrics, and throughput so far, as TensorBoard scalars."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = {f"train/{name}": value for name, value in line["train"].items()}
    values["train/learning_rate"] = line["learning_rate"]
    for horizon, metrics in line["valid"].items():
        values |= {f"valid/{name}_h{horizon}": metrics[name] for name in ("rank_ic", "rank_icir", "ic")}
    seconds = max(state.seconds["train"], 1e-9)
    values["throughput/samples_per_s"] = state.samples / seconds
    values["throughput/data_wait_fraction"] = state.seconds["wait"] / seconds
    scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
    _append_events(events, [Event(step=state.step, summary=Summary(value=scalars))])


def throughput(state: State, device: torch.device, usage: Usage) -> dict[str, float | int | None]:
    """Throughput as summary.json has it; a sample counts once, a row each time it is read.

    Peak memory is the device's on CUDA, else what the process allocated; `peak_mapped_bytes` are pages of mapped files.
    """
    usage.read_memory()
    train, validation = max(state.seconds["train"], 1e-9), state.seconds["validation"]
    cuda = device.type == "cuda"
    return {
        "samples_per_s": state.samples / train,
        "rows_per_s": state.rows / train,
        "epoch_s": train / max(state.epoch, 1),
        "data_wait_fraction": state.seconds["wait"] / train,
        "validation_fraction": validation / (train + validation),
        "device_utilization": usage.utilization,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if cuda else usage.anonymous,
        "peak_mapped_bytes": usage.mapped,
    }


def device_name(device: torch.device) -> str:
    """The device in words: the GPU's name, or the CPU's and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return f"cpu ({model}, {torch.get_num_threads()} threads)"


def git_revision() -> str | None:
    """The commit of the engine's own source, with -dirty where files differ from it; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
