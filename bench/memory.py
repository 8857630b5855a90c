"""How much memory a call adds at its highest, beyond what there was before it."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

CLEAR_PEAK = "5"  # written to clear_refs, it sets the peak to what is resident now (man 5 proc)


def peak_memory(call: Callable[[], Any], device: torch.device) -> int:
    """Bytes; of the device's memory on CUDA, else of the process's resident memory, to about 0.3 MB.

    The CPU's is the kernel's own high-water mark, so that what is freed before the call ends counts too. Memory that
    was freed earlier is given back to the system first: the call would use it again, unseen. Have called it once
    before, so that compiled code is there already.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text(CLEAR_PEAK)
    before = _status("VmHWM")
    call()
    return max(_status("VmHWM") - before, 0)


def _status(name: str) -> int:
    """Bytes that the kernel tells of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))
