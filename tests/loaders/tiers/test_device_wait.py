"""What a device has waited for blocks, by streams and events whose times are known."""

import queue
from types import SimpleNamespace

import pytest
import torch

from loaders.batch import Request, Stages
from loaders.plan import Plan
from loaders.split import Days
from loaders.tiers.device_wait import DeviceWait
from loaders.tiers.prefetch import PrefetchLoader
from loaders.tiers.resident import gathered, locked_rows
from tests.panels import write_panel

CPU = torch.device("cpu")
PART, DAYS, CONTEXT = Days(10, 110), 8, 6


class Event:
    """A point of a stream's time, in milliseconds. The device has come as far as `passed` when the host looks."""

    passed = 0.0

    def __init__(self, at=0.0):
        self.at = at

    def query(self):
        return self.at <= Event.passed

    def elapsed_time(self, later):
        assert self.query()
        assert later.query()
        return later.at - self.at

    def synchronize(self):
        pytest.fail("the host waited for the device")


class Stream:
    """A stream whose work so far ends at `now`."""

    def __init__(self, now=0.0):
        self.now = now

    def record_event(self, event):
        event.at = self.now
        return event

    def wait_event(self, event):
        self.now = max(self.now, event.at)


@pytest.fixture
def stream(monkeypatch):
    """The consumer's."""
    stream = Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(Event, "passed", 0.0)
    return stream


def test_waits_are_read_once_the_device_has_passed_them(stream):
    wait = DeviceWait(Stages(), Event)
    stream.now = 10.0
    for formed in (14.0, 12.0, 40.0):  # waits of 4, 0 and 26 ms
        with wait.on(stream):
            stream.wait_event(Event(formed))
        wait.read()
    assert wait.stages.wait == 0
    for passed, seconds in ((20.0, 0.004), (39.0, 0.004), (40.0, 0.030), (90.0, 0.030)):
        Event.passed = passed
        wait.read()
        assert wait.stages.wait == pytest.approx(seconds)


def consumed(loader, stream, steps):
    """Blocks of a loader, each used for so many milliseconds; seconds waited as known after each and in the end."""
    loader.device_wait.new_event = Event
    known = []
    for _, step in zip(loader, steps, strict=True):
        known.append(loader.stages.wait)
        stream.now += step
        Event.passed = stream.now
    loader.device_wait.read()
    return [*known, loader.stages.wait]


def test_blocks_formed_on_the_device_are_waited_for_by_it(stream, tmp_path, monkeypatch):
    panel = write_panel(tmp_path / "cache", n_codes=40, n_days=120)
    blocks = Plan(panel, PART, DAYS, 13, seed=0).epoch(0)[:4]
    formed = iter([5.0, 6.0, 20.0, 21.0])  # of the blocks, whenever they are launched
    with gathered(panel, Request(PART, blocks, DAYS, CONTEXT), CPU, locked_rows(panel, panel.address, CPU)) as loader:
        launch = loader._launch
        monkeypatch.setattr(loader, "_launch", lambda *of: (*launch(*of)[:2], Event(next(formed))))
        # The device: waits 0..5, uses ..8, does not wait, uses ..11, waits ..20, uses ..23, does not wait, uses ..26.
        known = consumed(loader, stream, [3.0] * 4)
    assert known == pytest.approx([0, 0.005, 0.005, 0.014, 0.014])
    assert loader.stages.gather > 0  # the host's time


def test_blocks_copied_to_the_device_are_waited_for_by_it(stream):
    ready = queue.SimpleQueue()
    tensor = SimpleNamespace(record_stream=lambda _: None)
    for copied in (7.0, 9.0):
        ready.put((SimpleNamespace(x=tensor, presence=tensor, y=tensor), SimpleNamespace(busy=Event(copied))))
    ready.put(None)
    loader = PrefetchLoader(ready, queue.SimpleQueue(), False, torch.device("cuda"))
    # The device: waits 0..7, uses ..8, waits ..9, uses ..10.
    assert consumed(loader, stream, [1.0, 1.0]) == pytest.approx([0, 0.007, 0.008])
