"""The memory of peers that compute all pairs of a cross-section at once."""

from dataclasses import replace

from bench.peers import Unable
from bench.workloads.ranking import Ranking

MOST = 8e9  # bytes of a pass


def all_at_once(work: Ranking, arrays: int) -> Ranking:
    """The task without masks.

    Args:
        arrays: of float32 [G, N, N] that exist at the same time.

    Raises Unable where they take more than MOST bytes. (One cross-section at a time would be another peer.)
    """
    nbytes = 4 * arrays * work.groups * work.names**2
    if nbytes > MOST:
        raise Unable(
            f"all pairs of {work.groups} x {work.names} take {nbytes / 1e9:.1f} GB, more than {MOST / 1e9:.0f}"
        )
    return replace(work, masked=False)
