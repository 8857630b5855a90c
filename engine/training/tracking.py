"""Reporting of a run: its console, TensorBoard events, metrics.jsonl, throughput. Nothing here changes a metric."""

import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from engine.checkpoint import METRICS, State
from engine.score.tables import to_json
from engine.training.usage import Usage
from loaders.cache.atomic import write_atomically
from loaders.errors import WriteError
from loaders.progress import Progress, quiet


@dataclass(frozen=True)
class RunLog:
    """Where a run reports to."""

    console: Console
    writer: Any  # TensorBoard's SummaryWriter; None on all ranks but the first
    progress: Progress  # of the whole run, in steps


@contextmanager
def open_log(
    folder: Path, console: Console, state: State, resumed: bool, first: bool, progress: Progress
) -> Iterator[RunLog]:
    """A run's log; events after the step that it resumes from are dropped."""
    if not first:
        yield RunLog(console, None, quiet)
        return
    from torch.utils.tensorboard import SummaryWriter

    with _written(folder):
        writer = SummaryWriter(str(folder), purge_step=state.step + 1 if resumed else None)
    try:
        yield RunLog(console, writer, progress)
    finally:
        with _written(folder):
            writer.close()


@contextmanager
def _written(folder: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"TensorBoard's events cannot be written ({error.strerror})"
        raise WriteError(str(folder), what, "Make room there, then resume") from error


def write_metrics(run: Path, state: State) -> None:
    """metrics.jsonl, a line per validation, of what depends on seed, data and settings alone: no times."""
    lines = "".join(to_json(line) + "\n" for line in state.history)
    write_atomically(run / METRICS, lines.encode())


def log_scalars(writer: Any, line: dict[str, Any], state: State) -> None:
    """One validation's metrics, and throughput so far, as TensorBoard scalars."""
    values = {f"train/{name}": value for name, value in line["train"].items()}
    values["train/learning_rate"] = line["learning_rate"]
    for horizon, metrics in line["valid"].items():
        values |= {f"valid/{name}_h{horizon}": metrics[name] for name in ("rank_ic", "rank_icir", "ic")}
    seconds = max(state.seconds["train"], 1e-9)
    values["throughput/samples_per_s"] = state.samples / seconds
    values["throughput/data_wait_fraction"] = state.seconds["wait"] / seconds
    with _written(writer.log_dir):
        for name, value in values.items():
            writer.add_scalar(name, value, state.step)
        writer.flush()


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
