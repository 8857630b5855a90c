"""The record of what was measured here and now."""

import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from platform import python_version

import torch

from bench.measurement.machine import machine_name
from bench.measurement.record import Figures, Record
from engine.training.tracking import git_revision

PACKAGES = ("numba", "numpy", "torch")
ON_GPUS = ("triton",)


def record_of(benchmarks: dict[str, Figures]) -> Record:
    """These figures with the machine, the commit, the time, and the versions that they depend on."""
    versions = {"python": python_version(), **{name: version(name) for name in PACKAGES}}
    if torch.cuda.is_available():
        versions |= {name: _version(name) for name in ON_GPUS} | {"driver": _driver()}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Record(machine_name(), git_revision() or "unknown", now, versions, benchmarks)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"
