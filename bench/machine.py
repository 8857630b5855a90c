"""The machine in words, without anything that names its owner: CPU model, core count, GPU where there is one."""

import os
import platform
from pathlib import Path

import torch


def machine_name() -> str:
    """Such as `AMD EPYC, 2 cores` or `Intel Xeon Platinum 8480C, 16 cores, NVIDIA H100 80GB HBM3`."""
    words = [cpu_model(), f"{os.cpu_count()} cores"]
    if torch.cuda.is_available():
        words.append(torch.cuda.get_device_name(0))
    return ", ".join(words)


def cpu_model() -> str:
    """The CPU's own name for itself; its architecture where the system does not tell."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
