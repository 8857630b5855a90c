"""How many threads to start and how many bytes to allocate: what this process may use, not what the machine has.

A container of 2 cores on a machine of 128 still sees 128 in `os.cpu_count()`, and so many threads would take turns on
two cores. Three things bound a process: the scheduler's affinity (cpusets included), the CPU quota of its cgroup and
of every cgroup above it, and, beside a GPU, the NUMA node that the GPU hangs on, since memory of another node is
reached at a fraction of the speed.

Read from the kernel's files under `root`, which a test may fake; a file that is missing or says nothing limits nothing.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MACHINE = Path("/")


@dataclass(frozen=True)
class Cores:
    """Cores to run on, how many threads to start there, and what decided that; as text it is a line for the log."""

    ids: tuple[int, ...]  # logical cores, ascending; more than `threads` where a quota is the limit
    threads: int
    reason: str

    def __str__(self) -> str:
        return f"{self.threads} thread{'s' * (self.threads != 1)} ({self.reason})"


def usable_cores(root: Path = MACHINE) -> Cores:
    """All cores that this process may use: the scheduler's affinity, threads limited by the cgroup's CPU quota.

    A quota of 1.5 cores is 2 threads: rounded up, so that none of it is left. Raises nothing.
    """
    ids = _affinity()
    return _limited(ids, f"{_count(len(ids))} allowed by the scheduler", root)


def node_cores(device_pci: str | None, root: Path = MACHINE) -> Cores:
    """The usable cores on the NUMA node of a GPU; all usable ones where there is no GPU or its node is not known.

    Args:
        device_pci: the GPU's PCI address in any of its spellings, `0000:3b:00.0` or `00000000:3B:00.0`; None: no GPU.

    Raises nothing: an unknown address, node -1 and a node without a usable core are named in the reason.
    """
    usable = usable_cores(root)
    if device_pci is None:
        return usable
    node = _node_of(device_pci, root)
    if node is None:
        return Cores(usable.ids, usable.threads, f"{usable.reason}; NUMA node of GPU {device_pci} unknown")
    local = _cpu_list(_text(root / f"sys/devices/system/node/node{node}/cpulist"))
    near = tuple(core for core in usable.ids if core in local)
    if not near:
        return Cores(usable.ids, usable.threads, f"{usable.reason}; none on the GPU's NUMA node {node}")
    return _limited(near, f"{_count(len(near))} on the GPU's NUMA node {node}", root)


def available_memory(root: Path = MACHINE) -> int:
    """Bytes that may still be allocated: MemAvailable, limited by what is left in the cgroup and every one above it.

    A cgroup's inactive page cache counts as left: the kernel gives it up before it refuses memory. Where the system
    does not tell, all of the machine's memory. Raises nothing.
    """
    kib = _fields(root / "proc/meminfo", ":").get("MemAvailable")
    left = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if kib is None else 1024 * kib]
    for folder in _cgroups("memory", root):
        limit, used = _integer(folder / "memory.max"), _integer(folder / "memory.current")  # version 2
        if limit is None:
            limit, used = _integer(folder / "memory.limit_in_bytes"), _integer(folder / "memory.usage_in_bytes")
        if limit is not None and used is not None:
            stat = _fields(folder / "memory.stat")
            # Version 1 counts a cgroup's children under total_ only, version 2 always includes them.
            cached = stat.get("total_inactive_file", stat.get("inactive_file", 0))
            left.append(limit - used + cached)
    return max(min(left), 0)


def _limited(ids: tuple[int, ...], reason: str, root: Path) -> Cores:
    quota = min((q for folder in _cgroups("cpu", root) if (q := _quota(folder)) is not None), default=math.inf)
    if quota < len(ids):
        return Cores(ids, max(math.ceil(quota), 1), f"cgroup quota of {_count(quota)}")
    return Cores(ids, len(ids), reason)


def _affinity() -> tuple[int, ...]:
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))  # systems without affinity


def _cgroups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process's cgroup and those above it, of both versions, from the inmost outwards.

    The kernel gives the path as the machine sees it; a container may have mounted its own cgroup as the root
    of what it sees. So folders that are not there are passed over, and the root is always looked at.
    """
    mounted = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            tops = [mounted, mounted / "unified"]  # alone, or beside version 1
        elif controller in controllers.split(","):
            tops = [mounted / controllers, mounted / controller]
        else:
            continue
        inside = Path(path.strip("/"))
        if ".." in inside.parts:  # of another namespace: not below what is mounted here
            inside = Path()
        for top in tops:
            yield from (top / part for part in (inside, *inside.parents) if (top / part).is_dir())


def _quota(folder: Path) -> float | None:
    """Cores that a cgroup's quota is worth; None: no limit."""
    words = _text(folder / "cpu.max").split()  # version 2: "150000 100000" or "max 100000"
    if len(words) == 2 and words[0].isdigit():
        return int(words[0]) / int(words[1])
    quota, period = _integer(folder / "cpu.cfs_quota_us"), _integer(folder / "cpu.cfs_period_us")
    return quota / period if quota is not None and quota > 0 and period else None  # version 1: -1 is no limit


def _node_of(device_pci: str, root: Path) -> int | None:
    domain, _, rest = device_pci.strip().lower().partition(":")
    # Drivers write the domain with 8 digits, the kernel's folders with 4 or as many as it needs.
    try:
        node = _integer(root / f"sys/bus/pci/devices/{int(domain, 16):04x}:{rest}/numa_node")
    except ValueError:
        return None
    return None if node is None or node < 0 else node


def _cpu_list(text: str) -> set[int]:
    """`0-3,8` as {0, 1, 2, 3, 8}."""
    cores: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return cores


def _fields(path: Path, mark: str = "") -> dict[str, int]:
    """The numbers of a file of `name value [unit]` lines, without `mark` at the end of a name."""
    pairs = (line.split()[:2] for line in _text(path).splitlines())
    return {pair[0].removesuffix(mark): int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _integer(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:  # empty, or "max"
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _count(cores: float) -> str:
    return f"{cores:.3g} core{'s' * (cores != 1)}"
