"""The rivals, one file each. A new file here is a new rival of every benchmark of its task.

A rival's file defines

    TASK    what it competes in: "gather" in bench_loader; "soft_rank", "spearman", "objective" or "pairwise" in
            bench_kernels; "train" in bench_train; "fit" in bench_end_to_end
    NEEDS   the packages it imports, inside its functions where they are no dependency of ours
    BLOCKS  how many blocks it gets in one timed pass, so that a pass takes from milliseconds to a second
    build   context manager: from what is asked for to whatever `run` needs, warm; releases it on leaving
    run     delivers the blocks one after another; what it yields is discarded by the benchmark, compared by the tests

What is asked for is a Work (bench.source) where the task is "gather", a Training (bench.training) for "train", a
Fitting (bench.fitting) for "fit", whose blocks are seeds, and a Ranking (bench.sections) in the others. For a Ranking,
`build` gives the one that the rival is able to do (the same, or without masks, or on the CPU) and raises Unable where
there is none; ours gets the same blocks. For a Training, what `build` gives holds as its `work` what the rival is able
to do: the same, or on blocks of fewer days.

Files that begin with an underscore are shared by rivals and are none.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Any, Protocol


class Unable(Exception):
    """A rival cannot do what is asked for; says why."""


class Peer(Protocol):
    """What the file of a rival offers; see the module's docstring."""

    TASK: str
    NEEDS: tuple[str, ...]
    BLOCKS: int

    def build(self, work: Any) -> AbstractContextManager[Any]:
        """Make the rival ready to deliver blocks of `work`."""

    def run(self, state: Any, blocks: list[Any]) -> Iterator[Any]:
        """Deliver the blocks with what `build` gave."""


def peer_names(task: str) -> list[str]:
    """Names of the rivals in a task, sorted: the names of their files."""
    names = sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))
    tasks = {name: peer(name).TASK for name in names}
    return [name for name in names if tasks[name] == task]


def peer(name: str) -> Peer:
    """The rival whose file has that name."""
    module: Any = import_module(f"{__name__}.{name}")
    rival: Peer = module
    return rival


def missing_package(rival: Peer) -> str | None:
    """The first package that a rival needs and this installation lacks, None where it can run."""
    return next((package for package in rival.NEEDS if find_spec(package) is None), None)
