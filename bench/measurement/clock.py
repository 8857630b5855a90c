"""The device that benchmarks run on, and the time of a call on it."""

import time
from collections.abc import Callable
from typing import Any

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def timed(call: Callable[[], Any], device: torch.device = DEVICE) -> float:
    """Seconds of a call, until the device has finished the work that it queued."""
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device = DEVICE) -> None:
    """Wait for the device's queued work; a CPU has none."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
