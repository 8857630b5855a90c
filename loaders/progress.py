"""How far a long work is, for whoever wants to show it.

A function that takes long takes a `Progress` and calls it now and then with `done` of `total`, in any unit, and a few
words on what is being done. It does not know who listens: `engine/screen/progress.py` draws a bar, tests keep a list.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    def __call__(self, done: float, total: float, what: str) -> None:
        """`done` of `total` is finished, of the whole work; a total of 0 is not known."""


def quiet(done: float, total: float, what: str) -> None:
    """The default: nobody listens."""


def part_of(progress: Progress, begin: float, end: float) -> Progress:
    """For a part of a work, which takes it from the share `begin` to the share `end` (0..1)."""

    def tell(done: float, total: float, what: str) -> None:
        progress(begin + (end - begin) * (done / total if total else 0.0), 1.0, what)

    return tell


def parts_of(progress: Progress, weights: Sequence[float]) -> list[Progress]:
    """For the parts of a work, one after the other, which take it by their weights."""
    total, ends = sum(weights), list(accumulate(weights))
    return [part_of(progress, (end - weight) / total, end / total) for weight, end in zip(weights, ends, strict=True)]


def counted(values: Iterable[T], total: float, progress: Progress, what: str) -> Iterator[T]:
    """The same values; tells before each how many of `total` have been used, and at the end that all have."""
    for number, value in enumerate(values):
        progress(number, total, what)
        yield value
    progress(total, total, what)
