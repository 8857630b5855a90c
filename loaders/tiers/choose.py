"""The choice of a tier: which of them fits a panel and a device, and why.

    resident  the whole panel in the device's memory, a Triton gather forms blocks there
    mapped    the panel in page-locked host memory, the same gather reads it over PCIe (see lock.py)
    ring      host threads gather into page-locked slots, a stream copies them to the device
    host      the same gather into ordinary slots, for training on the CPU
    dali      the host's gather as the source of an NVIDIA DALI pipeline

All deliver the same blocks, bit for bit and in the same order. Nothing here starts a process: threads and kernels that
let the interpreter go share one panel.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from loaders.batch import Loader, Request
from loaders.errors import InputError
from loaders.gather import gather
from loaders.panel import Panel
from loaders.plan import Block
from loaders.split import Days
from loaders.tiers.cores import node_cores
from loaders.tiers.driver import Driver, open_driver, pci_address
from loaders.tiers.lock import Refused, locked
from loaders.tiers.prefetch import prefetched
from loaders.tiers.readahead import read_ahead
from loaders.tiers.slots import Pool

if TYPE_CHECKING:
    from loaders.tiers.resident import Rows

Tier = Literal["auto", "resident", "mapped", "ring", "host", "dali"]
SHARE = 0.5  # of the device's free memory that a resident panel may take

_loaded_in = os.getpid()


@dataclass(frozen=True)
class Source:
    """A panel that is ready to deliver blocks to a device."""

    panel: Panel
    tier: str
    reason: str  # why this tier, and what the others said
    load: Callable[[Request], AbstractContextManager[Loader]]
    rows: "Rows | None" = None  # where the device itself reads rows, and so can gather blocks

    def __str__(self) -> str:
        return f"{self.tier} ({self.reason})"


@contextmanager
def open_source(
    panel: Panel,
    device: torch.device,
    tier: Tier = "auto",
    share: float = SHARE,
    driver: Driver | None = None,
    threads: int | None = None,
) -> Iterator[Source]:
    """Make a panel ready; what that takes (device memory, locks) is released when the `with` ends.

    Args:
        tier: the one to use; "auto": the fastest that fits.
        share: of the device's free memory that a resident panel may take.
        driver: that locks host memory; None: the machine's own.
        threads: the most that gather; None: one for each usable core. A consumer that keeps all cores busy wants 1:
            threads of a gather keep spinning for a while after it, on cores that the consumer wants.

    Raises InputError where a tier that was asked for cannot be had, with its reason, and in a process that was forked
    after the engine had been loaded: threads and locks do not survive a fork.
    """
    if os.getpid() != _loaded_in:
        what = "this process was forked from one that had loaded the engine, whose threads did not come along"
        raise InputError("loader", what, "Start it with the method spawn or forkserver, or as a command of its own")
    with ExitStack() as stack:
        source = _choose(panel, device, tier, share, driver, threads, stack)
        if source.tier in ("host", "ring", "dali"):
            # Compiled now, seconds once an installation, rather than while a training waits for its first block.
            gather(panel, Days(0, 1), Block(0, np.zeros(1, np.int64)), 1, 1)
        yield source


def probe(panel: Panel, device: torch.device) -> str:
    """The tier that "auto" means here, and why. Uploads nothing; a panel too large for that is locked to try it."""
    fits, room = (False, "") if device.type == "cpu" else _room(panel, device, SHARE)
    if fits:
        return f"resident ({room})"
    with open_source(panel, device) as source:
        return str(source)


def _choose(
    panel: Panel, device: torch.device, tier: Tier, share: float, driver: Driver | None, threads: int | None,
    stack: ExitStack,
) -> Source:  # fmt: skip
    cpu = device.type == "cpu"
    if tier == "host" and not cpu:
        raise InputError("data.tier", f"host delivers to the CPU, not to {device}", "Use auto or ring")
    cores = node_cores(None if cpu else pci_address(device))
    if threads is not None and threads < cores.threads:
        cores = replace(cores, threads=threads, reason=f"asked for; {cores.reason}")
    cold, memory = read_ahead(panel)
    reading = f"{cores}; read-ahead {'on' if cold else 'off'}, {memory}"
    host = partial(prefetched, panel, device=device, cores=cores, pool=Pool(locked=not cpu))
    if tier == "dali":
        pool = Pool(locked=False)  # DALI copies blocks out of them
        return Source(
            panel, "dali", f"asked for; {reading}", partial(_dali(), panel, device=device, cores=cores, pool=pool)
        )
    if tier in ("host", "ring") or (tier == "auto" and cpu):
        why = "training on the CPU" if tier == "auto" else "asked for"
        return Source(
            panel,
            "host" if tier == "auto" else tier,
            f"{why}; {'ordinary' if cpu else 'locked'} slots, {reading}",
            host,
        )
    source, why = _on_device(panel, device, tier, share, driver, stack)
    return source or Source(panel, "ring", f"{why}; locked slots, {reading}", host)


def _on_device(
    panel: Panel, device: torch.device, tier: Tier, share: float, driver: Driver | None, stack: ExitStack
) -> tuple[Source | None, str]:
    """Resident where it fits, else mapped where memory can be locked; None where neither, and why."""
    from kernels.block_gather import runs_on
    from loaders.tiers.resident import gathered, locked_rows, resident_rows

    if not runs_on(device):
        raise InputError("data.tier", f"{tier} needs a CUDA device", "Use auto, host or dali")
    fits, room = _room(panel, device, share)
    if tier == "resident" and not fits:
        raise InputError("data.tier", f"resident is not possible: {room}", "Raise data.device_share, or use auto")
    if tier == "resident" or (tier == "auto" and fits):
        rows = stack.enter_context(resident_rows(panel, device))
        return Source(panel, "resident", room, partial(gathered, panel, device=device, rows=rows), rows), ""
    above = "" if tier == "mapped" else f"resident: {room}; "
    try:
        lock = stack.enter_context(locked(panel, driver or open_driver(device)))
    except Refused as refusal:
        if tier == "mapped":
            raise InputError("data.tier", f"mapped is not possible: {refusal}", "Use auto or ring") from refusal
        return None, f"{above}mapped: {refusal}"
    rows = locked_rows(panel, lock.address, device)
    load = partial(gathered, panel, device=device, rows=rows)
    return Source(panel, "mapped", f"{above}{lock.strategy}: {lock.reason}", load, rows), ""


def _dali() -> Callable[..., AbstractContextManager[Loader]]:
    try:
        from loaders.tiers.dali import piped
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("nvidia"):
            raise
        raise InputError("data.tier", "NVIDIA DALI is not installed", "pip install 'atft-engine[dali]'") from error
    return piped


def _room(panel: Panel, device: torch.device, share: float) -> tuple[bool, str]:
    """Whether the panel fits into its share of the device's free memory, and the figures in words."""
    if device.type == "cpu":
        return True, "Triton's interpreter, for tests"
    free = torch.cuda.mem_get_info(device)[0]
    fits = panel.nbytes <= share * free
    return fits, f"{panel.nbytes / 1e9:.2f} GB of rows, {share:.0%} of {free / 1e9:.1f} GB free on the device"
