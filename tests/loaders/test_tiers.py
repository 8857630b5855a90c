"""One suite for all tiers: the same blocks bit for bit, in the same order, with nothing left behind."""

import gc
import multiprocessing
import os
import threading
import time
from importlib.util import find_spec

import numpy as np
import psutil
import pytest
import torch

from loaders.batch import Request
from loaders.cache import columns
from loaders.errors import InputError
from loaders.gather import gather
from loaders.panel import Panel
from loaders.plan import Plan
from loaders.split import Days
from loaders.tiers import resident
from loaders.tiers.choose import open_source
from loaders.tiers.driver import READ_ONLY_REGISTRATION
from tests.loaders.tiers.fake_driver import FakeDriver
from tests.panels import write_panel

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TIERS = [
    pytest.param("host", marks=pytest.mark.skipif(DEVICE.type == "cuda", reason="host trains on the CPU")),
    "ring",
    "resident",
    "mapped",
    pytest.param("dali", marks=pytest.mark.skipif(find_spec("nvidia.dali") is None, reason="DALI is not installed")),
]
PART, DAYS, CONTEXT = Days(10, 110), 8, 6


def driver():
    """Ours where there is no GPU: registers everything, and knows what is registered."""
    return None if DEVICE.type == "cuda" else FakeDriver({READ_ONLY_REGISTRATION: 1})


@pytest.fixture(scope="module", params=["float32", "float16", "several batches"])
def either_panel(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiers")
    if request.param != "several batches":
        return write_panel(folder, n_codes=40, n_days=120, dtype=request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "BATCH_ELEMENTS", 4_000)
        panel = write_panel(folder, n_codes=40, n_days=120, dtype="float16")
    assert len(panel.batches) > 3
    return panel


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    return write_panel(tmp_path_factory.mktemp("tiers"), n_codes=40, n_days=120)


def blocks_of(panel, n=6):
    return Plan(panel, PART, DAYS, 13, seed=0).epoch(0)[:n]


def assert_block(panel, loaded, block, part=PART, days=DAYS, context=CONTEXT):
    expected = gather(panel, part, block, days, context)
    np.testing.assert_array_equal(loaded.x.cpu().numpy(), expected.x)
    np.testing.assert_array_equal(loaded.presence.cpu().numpy(), expected.presence)
    np.testing.assert_array_equal(loaded.y.cpu().numpy(), expected.y)
    assert loaded.samples == expected.samples
    assert loaded.block is block
    assert loaded.x.device.type == DEVICE.type


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("ahead", [1, 3])
def test_the_same_blocks_in_the_same_order(either_panel, tier, ahead):
    panel, blocks = either_panel, blocks_of(either_panel)
    with open_source(panel, DEVICE, tier, driver=driver()) as source:
        assert source.tier == tier
        for _ in range(2):  # an epoch after another from one source
            with source.load(Request(PART, blocks, DAYS, CONTEXT, ahead=ahead, poison=True)) as loader:
                for loaded, block in zip(loader, blocks, strict=True):
                    assert_block(panel, loaded, block)
            assert loader.stages.wait > 0
            assert loader.stages.use > 0


@pytest.mark.parametrize("tier", TIERS)
def test_a_block_that_is_kept_too_long_is_poisoned(panel, tier):
    with open_source(panel, DEVICE, tier, driver=driver()) as source:
        with source.load(Request(PART, blocks_of(panel, 1), DAYS, CONTEXT, poison=True)) as loader:
            (kept,) = loader
        assert torch.isnan(kept.x).all()


@pytest.mark.parametrize("tier", ["resident", "mapped"])
def test_a_slow_consumer_is_the_bottleneck_of_a_device_tier(panel, tier, monkeypatch):
    if DEVICE.type == "cpu":  # a busy machine interprets a gather for longer than this consumer takes
        monkeypatch.setattr(resident, "gather_block", lambda *_: None)
    with open_source(panel, DEVICE, tier, driver=driver()) as source:
        with source.load(Request(PART, blocks_of(panel, 2), DAYS, CONTEXT)) as loader:
            for _ in loader:
                time.sleep(0.5)
        assert loader.stages.bottleneck == "consumer"


@pytest.mark.parametrize("tier", TIERS)
def test_no_blocks(panel, tier):
    with (
        open_source(panel, DEVICE, tier, driver=driver()) as source,
        source.load(Request(PART, [], DAYS, CONTEXT)) as loader,
    ):
        assert list(loader) == []


class Broken(Exception):
    pass


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("at", [0, 3])
def test_an_error_is_raised_in_the_place_of_its_block(panel, tier, at, monkeypatch):
    blocks = blocks_of(panel)
    calls = []

    def failing(self):
        calls.append(1)
        if len(calls) == at + 1:
            raise Broken(f"block {at}")

    monkeypatch.setattr(Panel, "check_unchanged", failing)  # which every tier asks before it forms a block
    seen = []

    def consume():
        with (
            open_source(panel, DEVICE, tier, driver=driver()) as source,
            source.load(Request(PART, blocks, DAYS, CONTEXT, ahead=3)) as loader,
        ):
            for loaded in loader:
                assert_block(panel, loaded, blocks[len(seen)])
                seen.append(loaded.block)

    with pytest.raises(Broken, match=f"block {at}") as caught:
        consume()
    assert len(seen) == at
    assert any(frame.name == "failing" for frame in caught.traceback)
    assert len(calls) == at + 1  # nothing is formed behind it


@pytest.mark.parametrize("tier", TIERS)
def test_starts_and_stops_at_random_moments_leave_nothing(panel, tier):
    blocks = blocks_of(panel, 4)
    rng = np.random.default_rng(0)
    process = psutil.Process()

    def once():
        stop, kind = int(rng.integers(0, 4)), int(rng.integers(0, 3))
        try:
            with (
                open_source(panel, DEVICE, tier, driver=driver()) as source,
                source.load(Request(PART, blocks, DAYS, CONTEXT)) as loader,
            ):
                for i, _ in enumerate(loader):
                    if i == stop and kind == 1:
                        raise Broken
                    if i == stop and kind == 2:
                        return
        except Broken:
            pass

    for _ in range(2):
        once()
    gc.collect()
    threads, handles = threading.active_count(), process.num_fds()
    for _ in range(6):
        once()
    gc.collect()
    assert threading.active_count() == threads
    assert process.num_fds() <= handles


def test_auto_on_the_cpu_is_host(panel):
    if DEVICE.type == "cuda":
        pytest.skip("there is a GPU")
    with open_source(panel, DEVICE) as source:
        assert source.tier == "host"
        assert "training on the CPU" in str(source)


def test_host_does_not_deliver_to_a_gpu(panel):
    with pytest.raises(InputError, match=r"data\.tier"), open_source(panel, torch.device("cuda"), "host"):
        pytest.fail("never entered")


def _load_after_fork(folder, answers):
    from loaders.panel import open_panel

    try:
        with open_source(open_panel(folder), torch.device("cpu")):
            answers.put("trained")
    except InputError as error:
        answers.put(str(error))


def test_training_after_a_fork_is_refused(panel):
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    child = fork.Process(target=_load_after_fork, args=(panel.folder, answers))
    child.start()
    answer = answers.get(timeout=30)
    child.join()
    assert "forked" in answer
    assert "spawn" in answer
    assert os.getpid() != child.pid


@pytest.mark.skipif(DEVICE.type == "cuda", reason="needs Triton's interpreter")
def test_a_resident_panel_is_uploaded_beside_its_opening(panel, monkeypatch):
    """The first block waits for the rows, and an upload that failed is its error; nothing else waits."""
    begin, uploads, real, blocks = threading.Event(), [], resident._upload, blocks_of(panel, 2)

    def upload(*of):
        assert begin.wait(30)
        uploads.append(of)
        if fails:
            raise Broken("upload")
        real(*of)

    monkeypatch.setattr(resident, "_upload", upload)
    for fails in (False, True):
        begin.clear()
        uploads.clear()
        with (
            open_source(panel, DEVICE, "resident") as source,
            source.load(Request(PART, blocks, DAYS, CONTEXT)) as loader,
        ):
            assert not uploads
            begin.set()
            if fails:
                with pytest.raises(Broken):
                    next(iter(loader))
            else:
                for loaded, block in zip(loader, blocks, strict=True):
                    assert_block(panel, loaded, block)
