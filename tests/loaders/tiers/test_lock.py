"""Strategies of locking against a fake driver that refuses each call in turn: what is locked and said, nothing left."""

import gc
import os
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from loaders.batch import Request
from loaders.errors import InputError
from loaders.gather import gather
from loaders.plan import Block
from loaders.split import Days
from loaders.tiers import choose, lock
from loaders.tiers.choose import open_source
from loaders.tiers.driver import DEVICE_MAP, PORTABLE, READ_ONLY, READ_ONLY_REGISTRATION
from loaders.tiers.lock import Refused, file_system, locked
from tests.loaders.tiers.fake_driver import FakeDriver
from tests.panels import write_panel

CPU = torch.device("cpu")
NOT_SUPPORTED, OUT_OF_MEMORY = 801, 2


@pytest.fixture
def panel(tmp_path):
    return write_panel(tmp_path / "cache", n_codes=30, n_days=100, n_features=9)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Several registrations even for a small cache."""
    monkeypatch.setattr(lock, "CHUNK_BYTES", 4 * 4096)


def rows_at(panel, address):
    """All rows of the panel, read at the given addresses."""
    found = []
    for kind, array in enumerate((panel.features, panel.targets, panel.presence)):
        width = array.itemsize * (array.shape[1] if array.ndim == 2 else 1)
        for code in range(len(panel.offset)):
            memory = (np.ctypeslib.ctypes.c_char * int(panel.days[code] * width)).from_address(int(address[kind, code]))
            rows = slice(panel.offset[code], panel.offset[code] + panel.days[code])
            found.append(bytes(memory) == array[rows].tobytes())
    return found


def test_in_place_where_the_device_can(panel):
    driver = FakeDriver({READ_ONLY_REGISTRATION: 1})
    with locked(panel, driver) as rows:
        assert rows.strategy == "in place"
        np.testing.assert_array_equal(rows.address, panel.address)
        assert all(flags == READ_ONLY | DEVICE_MAP | PORTABLE for _, _, flags in driver.calls)
        covered = sum(driver.registered.values())
        size = (panel.folder / "panel.arrow").stat().st_size
        assert size <= covered < size + 4096
        assert len(driver.registered) > 3
    assert not driver.registered


def test_copied_once_where_not(panel):
    driver = FakeDriver()
    with locked(panel, driver) as rows:
        assert rows.strategy == "copy"
        assert "attribute 113 is 0" in rows.reason
        assert "the cache lies on" in rows.reason
        assert not np.isin(rows.address, panel.address).any()
        assert all(rows_at(panel, rows.address))
        assert (rows.address[0] % 4 == 0).all()
        assert all(flags == DEVICE_MAP | PORTABLE for _, _, flags in driver.calls)
    assert not driver.registered


@pytest.mark.parametrize("call", [0, 1, 2])
def test_a_refused_chunk_undoes_those_before_it_and_the_next_strategy_is_tried(panel, call):
    driver = FakeDriver({READ_ONLY_REGISTRATION: 1}, refuse={call: NOT_SUPPORTED})
    with locked(panel, driver) as rows:
        assert rows.strategy == "copy"
        assert f"chunk {call + 1} of" in rows.reason
        assert "801 not supported" in rows.reason
        inside = range(int(rows.address.min()), int(rows.address.max()) + 1)
        assert all(address + size > inside.start for address, size in driver.registered.items())
        assert all(rows_at(panel, rows.address))
    assert not driver.registered


def test_refused_everywhere_names_every_reason_and_leaves_nothing(panel):
    process = psutil.Process()
    for refuse in ({0: NOT_SUPPORTED, 1: OUT_OF_MEMORY}, {0: NOT_SUPPORTED, 3: OUT_OF_MEMORY}):
        driver = FakeDriver({READ_ONLY_REGISTRATION: 1}, refuse=refuse)
        gc.collect()
        handles, maps = process.num_fds(), len(Path("/proc/self/maps").read_text().splitlines())
        with pytest.raises(Refused) as caught, locked(panel, driver):
            pytest.fail("never entered")
        assert not driver.registered
        for words in ("in place", "801 not supported", "in memory", "copy", "2 out of memory"):
            assert words in str(caught.value)
        del caught
        gc.collect()
        assert process.num_fds() == handles
        assert len(Path("/proc/self/maps").read_text().splitlines()) <= maps + 1


def test_a_cache_in_memory_is_registered_without_a_copy(panel, monkeypatch):
    """The strategy of tmpfs: any file does where only the name of the file system is pretended."""
    monkeypatch.setattr(lock, "file_system", lambda path: "tmpfs")
    driver = FakeDriver()
    before = (panel.folder / "panel.arrow").read_bytes()
    with locked(panel, driver) as rows:
        assert rows.strategy == "in memory"
        assert not np.isin(rows.address, panel.address).any()
        assert all(rows_at(panel, rows.address))
    assert not driver.registered
    assert (panel.folder / "panel.arrow").read_bytes() == before


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no tmpfs at /dev/shm")
def test_a_real_tmpfs(tmp_path):
    shm = Path("/dev/shm") / f"atft-test-{os.getpid()}"
    try:
        panel = write_panel(shm, n_codes=10)
        assert file_system(shm / "panel.arrow") == "tmpfs"
        with locked(panel, FakeDriver()) as rows:
            assert rows.strategy == "in memory"
            assert all(rows_at(panel, rows.address))
    finally:
        for path in shm.glob("*"):
            path.unlink()
        shm.rmdir()


def test_a_panel_larger_than_memory_is_not_copied(panel, monkeypatch):
    monkeypatch.setattr(lock, "available_memory", lambda: 1000)
    with pytest.raises(Refused, match="do not fit into"), locked(panel, FakeDriver()):
        pytest.fail("never entered")


def test_memory_that_cannot_be_had_is_a_refusal(panel, monkeypatch):
    def full(nbytes):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(lock, "_huge_pages", full)
    with pytest.raises(Refused, match=r"cannot be had .Cannot allocate memory"), locked(panel, FakeDriver()):
        pytest.fail("never entered")


def tier_of(panel, monkeypatch, fits, driver):
    """What "auto" chooses beside a pretended device."""
    monkeypatch.setattr(choose, "_room", lambda *a: (fits, "2 GB of rows, 50% of 1 GB free"))
    from contextlib import ExitStack

    with ExitStack() as stack:
        chosen, why = choose._on_device(panel, CPU, "auto", 0.5, driver, stack)
        if chosen is not None:
            block = Block(10, np.arange(4))
            with chosen.load(Request(Days(0, 100), [block], 5, 3)) as loader:
                (loaded,) = loader
            np.testing.assert_array_equal(loaded.x.numpy(), gather(panel, Days(0, 100), block, 5, 3).x)
            return chosen.tier, str(chosen)
        return None, why


@pytest.mark.skipif(torch.cuda.is_available(), reason="pretends a device, beside a real one")
def test_every_branch_of_auto(panel, monkeypatch):
    able = {READ_ONLY_REGISTRATION: 1}
    assert tier_of(panel, monkeypatch, True, FakeDriver())[0] == "resident"
    tier, why = tier_of(panel, monkeypatch, False, FakeDriver(able))
    assert tier == "mapped"
    assert "2 GB of rows" in why
    assert "in place" in why
    tier, why = tier_of(panel, monkeypatch, False, FakeDriver())
    assert tier == "mapped"
    assert "copy" in why
    tier, why = tier_of(panel, monkeypatch, False, FakeDriver(refuse=dict.fromkeys(range(9), NOT_SUPPORTED)))
    assert tier is None
    assert "801" in why


@pytest.mark.skipif(torch.cuda.is_available(), reason="pretends a device, beside a real one")
def test_a_tier_that_cannot_be_had_is_refused(panel, monkeypatch):
    refusing = FakeDriver(refuse=dict.fromkeys(range(9), NOT_SUPPORTED))
    with pytest.raises(InputError, match="mapped is not possible"), open_source(panel, CPU, "mapped", driver=refusing):
        pytest.fail("never entered")
    monkeypatch.setattr(choose, "_room", lambda *a: (False, "too large"))
    with pytest.raises(InputError, match="resident is not possible"), open_source(panel, CPU, "resident"):
        pytest.fail("never entered")
    monkeypatch.setattr("kernels.block_gather.runs_on", lambda device: False)
    with pytest.raises(InputError, match="needs a CUDA device"), open_source(panel, CPU, "resident"):
        pytest.fail("never entered")
