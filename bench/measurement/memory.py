"""How much memory a call adds at its peak."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

CLEAR_PEAK = "5"  # written to clear_refs, it resets the peak to the resident memory (man 5 proc)


def peak_memory(call: Callable[[], Any], device: torch.device) -> int:
    """Bytes above those in use before the call: of the device's memory on CUDA, else of this process's resident memory.

    On the CPU it is the kernel's high-water mark, to about 0.3 MB, so memory that the call itself frees counts too.
    Memory that was freed earlier is returned to the system first: the call would reuse it unseen. Call once before, so
    that code is compiled.
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


def anonymous_memory() -> int:
    """Resident bytes of this process that no file backs."""
    return _status("RssAnon")


def _status(name: str) -> int:
    """Bytes of an entry of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))
