"""The machine's name without anything of its owner: CPU model, core count, GPU where there is one."""

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
    """The model name of the CPU; its architecture where the system has no name for it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
