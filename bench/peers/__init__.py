"""The peers that ours is measured beside, one file each. A new file is a new peer in all benchmarks of its task.

    blocks    loaders that deliver our blocks, and the limit: a copy of memory
    windows   loaders that deliver a day of windows at a time, as models that score window by window need them
    ranking   operators on cross-sections
    training  training steps, and whole trainings

The file of a peer defines

    TASK    what it is measured in: "gather" in bench_loader; "soft_rank", "spearman", "objective" or "pairwise" in
            bench_kernels; "train" in bench_train; "fit" in bench_end_to_end
    NEEDS   the packages that it imports, inside its functions where ours does not depend on them
    BLOCKS  how many blocks it is given in a timed pass, so that a pass takes from milliseconds to a second
    build   context manager: takes the task, returns the state that `run` needs, warmed up; releases it at the end
    run     delivers the blocks in order; benchmarks discard what it yields, tests compare it

`build` takes a Loading for "gather", a Training for "train", a Fitting, whose blocks are seeds, for "fit", and a
Ranking for the others (see bench/workloads). For a Ranking it returns the one that the peer supports (the same, or
without masks, or on the CPU) or raises Unable; ours is measured on the same blocks. For a Training the state has as
its `work` the one that the peer supports: the same, or on blocks of fewer days.

Files whose names begin with an underscore hold what several peers share.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pkgutil import walk_packages
from typing import Any, Protocol

import pytest


class Unable(Exception):
    """A peer does not support a task; says why."""


class Peer(Protocol):
    """What the file of a peer defines; see the module's docstring."""

    TASK: str
    NEEDS: tuple[str, ...]
    BLOCKS: int

    def build(self, work: Any) -> AbstractContextManager[Any]:
        """Make the peer ready to deliver blocks of `work`."""

    def run(self, state: Any, blocks: list[Any]) -> Iterator[Any]:
        """Deliver the blocks with the state from `build`."""


def peer_names(task: str) -> list[str]:
    """Names of the peers in a task, sorted: the names of their files."""
    return [name for name in sorted(_modules()) if task == load_peer(name).TASK]


def load_peer(name: str) -> Peer:
    """The peer whose file has that name."""
    module: Any = import_module(_modules()[name])
    peer: Peer = module
    return peer


def installed_peer(name: str) -> Peer:
    """The peer of that name; skips the running test where a package that it needs is missing, and names it."""
    peer = load_peer(name)
    lacking = missing_package(peer)
    if lacking is not None:
        pytest.skip(f"peer {name}: {lacking} is not installed")
    return peer


def missing_package(peer: Peer) -> str | None:
    """The first package that a peer needs and this installation lacks, None where it can run."""
    return next((package for package in peer.NEEDS if find_spec(package) is None), None)


@cache
def _modules() -> dict[str, str]:
    """Full module names by the names of peers."""
    found = [module.name for module in walk_packages(__path__, f"{__name__}.") if not module.ispkg]
    names = {full.rpartition(".")[2]: full for full in found}
    return {name: full for name, full in names.items() if not name.startswith("_")}
