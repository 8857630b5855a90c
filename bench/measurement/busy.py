"""How much of a time a GPU is busy, and with which kernels."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import DeviceType

MOST = 10  # kernels that are named
NAME = 60  # letters of a kernel's name that are kept


@dataclass(frozen=True)
class Work:
    """A piece of work on the device, such as a kernel or a copy; times in microseconds."""

    name: str
    begin: float
    end: float


def profiled(call: Callable[[], Any], device: torch.device) -> list[Work]:
    """What the device does in a call; nothing on a CPU."""
    if device.type != "cuda":
        return []
    torch.cuda.synchronize(device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize(device)
    return [
        Work(event.name, event.time_range.start, event.time_range.end)
        for event in profile.events()
        if event.device_type == DeviceType.CUDA
    ]


def busy_seconds(done: list[Work]) -> float:
    """Time in which at least one piece of work ran."""
    busy, until = 0.0, float("-inf")
    for work in sorted(done, key=lambda work: work.begin):
        busy += max(work.end - max(work.begin, until), 0.0)
        until = max(until, work.end)
    return busy * 1e-6


def longest(done: list[Work], steps: int) -> str:
    """The kernels that take most of the time, the longest first, with microseconds and launches a step."""
    spent, count = Counter[str](), Counter[str]()
    for work in done:
        spent[work.name] += work.end - work.begin  # type: ignore[assignment]
        count[work.name] += 1
    return "; ".join(
        f"{us / steps:.1f} us in {count[name] / steps:g}: {name[:NAME]}" for name, us in spent.most_common(MOST)
    )
