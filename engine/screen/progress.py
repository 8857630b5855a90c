"""The progress bar of every command: what is done, a bar, a percentage and the time left for the whole work.

    epoch 3/8 · 23,456 samples/s · loss 0.9123  ━━━━━━━━━━━━━╸━━━━━━━━━━   56%  0:01:23 left

Drawn on a terminal's last line and gone at the end; a pipe or a file gets no character of it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from loaders.progress import Progress, quiet


@contextmanager
def showing(console: Console, first: bool = True) -> Iterator[Progress]:
    """What to hand to a function that tells its progress. The bar appears with the first call.

    Args:
        first: whether this is the process that talks to the user.
    """
    if not (first and console.is_terminal) or console.is_dumb_terminal:
        yield quiet
        return
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(bar_width=None), TaskProgressColumn(),
        TextColumn("{task.fields[left]}", justify="right"),
    )  # fmt: skip
    bar = Bar(*columns, console=console, transient=True, expand=True)
    task = bar.add_task("", total=None, left="")
    clock = Clock()

    def show(done: float, total: float, what: str) -> None:
        left = clock.left(done, total, time.monotonic())
        text = "" if left is None else f"{timedelta(seconds=round(left))} left"
        bar.update(task, description=what, completed=done, total=total or None, left=text)
        bar.start()

    try:
        yield show
    finally:
        bar.stop()


class Clock:
    """Foretells the end of a work by its mean speed since the first call; a resumed work begins somewhere."""

    def __init__(self) -> None:
        self.total = 0.0
        self.first = self.last = 0.0  # done
        self.began = 0.0  # seconds

    def left(self, done: float, total: float, now: float) -> float | None:
        """Seconds that are left when `done` of `total` is finished; None where nothing tells yet."""
        if total != self.total or done < self.last:  # another work
            self.total, self.first, self.began = total, done, now
        self.last = done
        if done <= self.first:
            return None
        return (total - done) * (now - self.began) / (done - self.first)
