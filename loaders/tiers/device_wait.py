"""How long a device waits for blocks, by events on the consumer's stream. The host never waits for them.

The host runs ahead of the device, so its own time between two steps says nothing of what the device does meanwhile. One
event is recorded before the stream has to wait for a block and one after; their distance is read a step or more later,
when the device has passed both.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from loaders.batch import Stages

_timed_event = partial(torch.cuda.Event, enable_timing=True)


@dataclass
class DeviceWait:
    """Adds the seconds that a device has waited to the stages of a loader."""

    stages: Stages
    new_event: Callable[[], Any] = _timed_event
    pairs: deque[tuple[Any, Any]] = field(default_factory=deque)  # before and after a wait, not read yet

    @contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        """Count the time in which the stream gets from the beginning to the end of the `with`."""
        before = stream.record_event(self.new_event())
        yield
        self.pairs.append((before, stream.record_event(self.new_event())))

    def read(self) -> None:
        """Take in the waits that the device has passed."""
        while self.pairs and self.pairs[0][1].query():
            before, after = self.pairs.popleft()
            self.stages.wait += before.elapsed_time(after) / 1e3
