"""Cores and memory of a process, from fake trees of the kernel's files: both cgroup versions, nesting, NUMA nodes."""

import os

import pytest

from loaders.tiers.cores import available_memory, node_cores, usable_cores

GIB = 1 << 30
GPU, OTHER = "0000:3b:00.0", "0000:af:00.0"


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {7, 6, 5, 4, 3, 2, 1, 0})


@pytest.fixture
def machine(tmp_path):
    """Write files, {path: text}, under a root and give the root; files of an earlier call stay."""

    def write(files):
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(f"{text}\n")
        return tmp_path

    return write


def numa(nodes):
    """Two nodes of four cores, and where each GPU hangs: {PCI address: node}."""
    files = {"sys/devices/system/node/node0/cpulist": "0-3", "sys/devices/system/node/node1/cpulist": "4,5-7"}
    return files | {f"sys/bus/pci/devices/{gpu}/numa_node": node for gpu, node in nodes.items()}


def test_affinity_alone(tmp_path, monkeypatch):
    cores = usable_cores(tmp_path)  # neither /proc nor /sys
    assert cores.ids == tuple(range(8))
    assert str(cores) == "8 threads (8 cores allowed by the scheduler)"
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5})
    assert str(usable_cores(tmp_path)) == "1 thread (1 core allowed by the scheduler)"


def test_a_system_without_affinity(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert usable_cores(tmp_path).ids == (0, 1, 2)


@pytest.mark.parametrize(
    ("quota", "threads", "reason"),
    [
        ("max 100000", 8, "8 cores allowed by the scheduler"),
        ("150000 100000", 2, "cgroup quota of 1.5 cores"),
        ("100000 100000", 1, "cgroup quota of 1 core"),
        ("200000 100000", 2, "cgroup quota of 2 cores"),
        ("1000 100000", 1, "cgroup quota of 0.01 cores"),
        ("750000 100000", 8, "cgroup quota of 7.5 cores"),
        ("6400000 100000", 8, "8 cores allowed by the scheduler"),
        ("50000 20000", 3, "cgroup quota of 2.5 cores"),
    ],
)
def test_quota_of_version_2(machine, quota, threads, reason):
    cores = usable_cores(machine({"proc/self/cgroup": "0::/job", "sys/fs/cgroup/job/cpu.max": quota}))
    assert (cores.threads, cores.reason, len(cores.ids)) == (threads, reason, 8)


@pytest.mark.parametrize("tightest", ["", "a", "a/b", "a/b/c"])
def test_the_tightest_of_all_parents_counts(machine, tightest):
    files = {f"sys/fs/cgroup/{path}/cpu.max": "700000 100000" for path in ("a", "a/b", "a/b/c", "a/b/other")}
    files |= {"sys/fs/cgroup/a/b/other/cpu.max": "100000 100000"}  # a sibling does not count
    files |= {f"sys/fs/cgroup/{tightest}/cpu.max": "300000 100000", "proc/self/cgroup": "0::/a/b/c"}
    assert usable_cores(machine(files)).threads == 3


@pytest.mark.parametrize("mounted", ["cpu,cpuacct", "cpu"])
def test_quota_of_version_1(machine, mounted):
    files = {
        "proc/self/cgroup": "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x",
        f"sys/fs/cgroup/{mounted}/docker/cpu.cfs_quota_us": -1,
        f"sys/fs/cgroup/{mounted}/docker/cpu.cfs_period_us": 100000,
        f"sys/fs/cgroup/{mounted}/docker/x/cpu.cfs_quota_us": 250000,
        f"sys/fs/cgroup/{mounted}/docker/x/cpu.cfs_period_us": 100000,
    }
    assert str(usable_cores(machine(files))) == "3 threads (cgroup quota of 2.5 cores)"
    files[f"sys/fs/cgroup/{mounted}/docker/x/cpu.cfs_quota_us"] = -1
    assert usable_cores(machine(files)).threads == 8
    files[f"sys/fs/cgroup/{mounted}/docker/cpu.cfs_quota_us"] = 100000
    assert usable_cores(machine(files)).threads == 1


@pytest.mark.parametrize("path", ["/docker/x", "/../../job"])
def test_a_container_whose_own_cgroup_is_mounted_as_the_root(machine, path):
    files = {"proc/self/cgroup": f"0::{path}", "sys/fs/cgroup/cpu.max": "200000 100000", "sys/job/cpu.max": "1 1"}
    assert usable_cores(machine(files)).threads == 2


def test_both_versions_side_by_side(machine):
    files = {
        "proc/self/cgroup": "1:cpu:/job\n0::/job",
        "sys/fs/cgroup/unified/job/cgroup.procs": "1",
        "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": 400000,
        "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": 100000,
    }
    assert usable_cores(machine(files)).threads == 4


@pytest.mark.parametrize("spelling", [GPU, "00000000:3B:00.0", "0000:3B:00.0"])
def test_cores_of_the_gpus_node(machine, spelling):
    root = machine(numa({GPU: 1, OTHER: 0}))
    assert str(node_cores(spelling, root)) == "4 threads (4 cores on the GPU's NUMA node 1)"
    assert node_cores(spelling, root).ids == (4, 5, 6, 7)
    assert node_cores(OTHER, root).ids == (0, 1, 2, 3)
    assert node_cores(None, root) == usable_cores(root)


def test_cores_of_the_node_are_limited_by_affinity_and_quota(machine, monkeypatch):
    files = numa({GPU: 1}) | {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 3, 4, 5, 6})
    cores = node_cores(GPU, machine(files))
    assert (cores.ids, cores.threads, cores.reason) == ((4, 5, 6), 2, "cgroup quota of 1.5 cores")
    cores = node_cores(GPU, machine({"sys/fs/cgroup/cpu.max": "400000 100000"}))
    assert (cores.threads, cores.reason) == (3, "3 cores on the GPU's NUMA node 1")


def test_no_node_or_none_that_may_be_used_means_all_cores(machine, monkeypatch):
    root = machine(numa({GPU: -1, OTHER: 1}))
    for gpu in (GPU, "0000:00:00.0", "no address"):
        cores = node_cores(gpu, root)
        assert (cores.ids, cores.threads) == (tuple(range(8)), 8)
        assert f"NUMA node of GPU {gpu} unknown" in cores.reason
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert str(node_cores(OTHER, root)) == (
        "2 threads (2 cores allowed by the scheduler; none on the GPU's NUMA node 1)"
    )


MEMINFO = {"proc/meminfo": f"MemTotal:       {64 << 20} kB\nMemAvailable:   {32 << 20} kB\nHugePages_Total:       0"}


def test_memory_without_a_cgroup(machine):
    assert available_memory(machine(MEMINFO)) == 32 * GIB


def test_memory_of_version_2(machine):
    files = MEMINFO | {
        "proc/self/cgroup": "0::/a/b",
        "sys/fs/cgroup/a/memory.max": 20 * GIB,
        "sys/fs/cgroup/a/memory.current": 15 * GIB,
        "sys/fs/cgroup/a/memory.stat": f"anon 1\nfile {3 * GIB}\ninactive_file {2 * GIB}\nactive_file 5",
        "sys/fs/cgroup/a/b/memory.max": "max",
        "sys/fs/cgroup/a/b/memory.current": GIB,
    }
    assert available_memory(machine(files)) == 7 * GIB  # the parent's
    assert available_memory(machine({"sys/fs/cgroup/a/b/memory.max": 3 * GIB})) == 2 * GIB
    assert available_memory(machine({"sys/fs/cgroup/a/b/memory.current": 4 * GIB})) == 0  # over a lowered limit
    wide = {"sys/fs/cgroup/a/memory.max": 200 * GIB, "sys/fs/cgroup/a/b/memory.max": "max"}
    assert available_memory(machine(wide)) == 32 * GIB


def test_memory_of_version_1(machine):
    unlimited = 9223372036854771712
    files = MEMINFO | {
        "proc/self/cgroup": "4:memory:/docker/x",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": unlimited,
        "sys/fs/cgroup/memory/memory.usage_in_bytes": 9 * GIB,
        "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": 8 * GIB,
        "sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes": 6 * GIB,
        "sys/fs/cgroup/memory/docker/x/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}",
    }
    assert available_memory(machine(files)) == 3 * GIB
    files["sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes"] = unlimited
    assert available_memory(machine(files)) == 32 * GIB


def test_memory_where_the_system_does_not_tell(tmp_path):
    assert available_memory(tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_this_machine(monkeypatch):
    monkeypatch.undo()
    cores = usable_cores()
    assert 1 <= cores.threads <= len(cores.ids) <= (os.cpu_count() or 1)
    assert set(cores.ids) == os.sched_getaffinity(0)
    assert 0 < available_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
