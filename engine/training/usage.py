"""What a run uses: the peak memory of its process, and how busy its device is while it trains. One thread samples both.

Memory is told apart: what the process allocated, and pages of mapped files, such as a cache's rows. Those are the file
system's, which drops them where memory is short. Linux keeps a peak of the sum alone, so both are read from /proc ten
times a second; that takes about 20 µs each.

A GPU is asked twice a second for NVML's utilisation: the share of the last second or less in which any kernel ran.
Samples count while an epoch trains, not while it is validated.
"""

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean

import torch

PERIOD_S = 0.1
DEVICE_PERIODS = 5  # between two samples of the device
FEWEST = 4  # samples that make a mean

Sampler = Callable[[], float]  # gives the share of time that the device is busy, 0..1


@dataclass
class Usage:
    """What was used so far. Where the device has no `sampler`, its utilisation is not known."""

    sampler: Sampler | None = None
    anonymous: int = 0  # bytes allocated, the most so far
    mapped: int = 0  # bytes of mapped files in memory, the most so far
    epochs: list[list[float]] = field(default_factory=list)  # samples of the device in the training of each
    training: bool = False

    def read_memory(self) -> None:
        """Take in what /proc says now."""
        anonymous, mapped = resident_bytes()
        self.anonymous, self.mapped = max(self.anonymous, anonymous), max(self.mapped, mapped)

    def sample_device(self) -> None:
        """Ask the device how busy it is, if an epoch trains now."""
        if self.training and self.sampler is not None:
            self.epochs[-1].append(self.sampler())

    @contextmanager
    def of_training(self) -> Iterator[None]:
        """The training of an epoch, while the `with` lasts."""
        self.epochs.append([])
        self.training = True
        try:
            yield
        finally:
            self.training = False

    @property
    def utilization(self) -> float | None:
        """Mean share of time that the device was busy, over the training of all epochs; None: too few samples."""
        return _mean([sample for epoch in self.epochs for sample in epoch])

    @property
    def last_utilization(self) -> float | None:
        """The same over the last epoch alone, in which nothing is compiled any more."""
        return _mean(self.epochs[-1]) if self.epochs else None


def _mean(samples: list[float]) -> float | None:
    return fmean(samples) if len(samples) >= FEWEST else None


def resident_bytes() -> tuple[int, int]:
    """Bytes in memory now: anonymous ones, and those of mapped files and shared memory."""
    with open("/proc/self/statm") as file:
        resident, shared = file.read().split()[1:3]
    page = os.sysconf("SC_PAGE_SIZE")
    return (int(resident) - int(shared)) * page, int(shared) * page


@contextmanager
def watch_usage(device: torch.device, say: Callable[[str], None]) -> Iterator[Usage]:
    """What the process uses from now until the `with` ends.

    Args:
        say: is told where a GPU cannot be asked how busy it is, and why.
    """
    usage, done = Usage(_nvml_sampler(device, say)), threading.Event()

    def watch() -> None:
        for period in itertools.count(1):
            if done.wait(PERIOD_S):
                return
            usage.read_memory()
            if period % DEVICE_PERIODS == 0:
                usage.sample_device()

    usage.read_memory()
    thread = threading.Thread(target=watch, name="usage", daemon=True)
    thread.start()
    try:
        yield usage
    finally:
        done.set()
        thread.join()


def _nvml_sampler(device: torch.device, say: Callable[[str], None]) -> Sampler | None:
    if device.type != "cuda":
        return None
    try:
        import pynvml
    except ModuleNotFoundError:
        say("device utilisation is not measured: NVML's Python package is not installed (pip install nvidia-ml-py)")
        return None

    def sample() -> float:
        return torch.cuda.utilization(device) / 100

    try:
        sample()
    except (pynvml.NVMLError, RuntimeError) as error:  # such as a slice of a GPU, which NVML does not measure
        say(f"device utilisation is not measured: {error}")
        return None
    return sample
